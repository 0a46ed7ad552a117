"""Devices as tables: the figures of one device with confidence and source, and the devices of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import polars as pl

from reslab.residency._device._evidence import NOWHERE, Evidence
from reslab.stages.support import Markup, html_table

OVERVIEW = {
    "family": pl.String,
    "device": pl.String,
    "memory_gib": pl.Float64,
    "bandwidth_gb_s": pl.Float64,
    "bfloat16_tflops": pl.Float64,
    "confidence": pl.Categorical,  # of the throughput
}
FIGURES = {"figure": pl.String, "value": pl.String, "confidence": pl.Categorical, "source": pl.String}
_READABLE = {
    "memory_bytes": ("memory", 2**30, "GiB"),
    "free_bytes": ("free memory", 2**30, "GiB"),
    "memory_bytes_per_s": ("memory bandwidth", 10**9, "GB/s"),
    "host_ns_per_operation": ("host cost of an operation", 1000, "µs"),
    "link_bytes_per_s": ("copies to the device, pinned", 10**9, "GB/s"),
    "link_back_bytes_per_s": ("copies from the device, pinned", 10**9, "GB/s"),
    "link_pageable_bytes_per_s": ("copies to the device, pageable", 10**9, "GB/s"),
    "disk_bytes_per_s": ("reading from disk", 10**9, "GB/s"),
    "host_memory_bytes": ("host memory", 2**30, "GiB"),
    "pinnable_bytes": ("host memory that can be pinned", 2**30, "GiB"),
}


def figures(values: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> pl.DataFrame:
    """Return a row a figure: figure, value, confidence, source.

    Args:
        values: The fields of a device, by name.
        evidence: Confidence and source of each figure, by its name.
    """
    return pl.DataFrame(list(_rows(values, evidence)), schema=dict(FIGURES), orient="row")


def spec_html(name: str, table: pl.DataFrame, notes: Iterable[str]) -> str:
    """Return the figures of a device as an HTML table, with sentences below it."""
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<p><b>{escape(name)}</b></p>{html_table(FIGURES, table.cast(pl.String).rows())}{below}"


def overview(rows: Iterable[Sequence[str | float | None]]) -> pl.DataFrame:
    """Return a row a device: the columns of `OVERVIEW`."""
    return pl.DataFrame(list(rows), schema=dict(OVERVIEW), orient="row")


def overview_html(table: pl.DataFrame) -> str:
    """Return an HTML table with a row a family: its devices and their memory in GiB."""
    found: dict[str, list[str]] = {}
    for row in table.rows(named=True):
        found.setdefault(row["family"], []).append(f"{escape(row['device'])} <small>({row['memory_gib']:.3g})</small>")
    rows = ((Markup(f"<b>{escape(family)}</b>"), Markup(", ".join(each))) for family, each in found.items())
    return f"<p><b>{table.height} devices</b>, with their memory in GiB</p>{html_table((), rows)}"


def _rows(values: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, str, str, str]]:
    for name, (label, unit, suffix) in _READABLE.items():
        value = values[name]
        yield _row(label, value and value / unit, suffix, evidence.get(name, NOWHERE))
    for kind, what in (("matrix", "matrix products"), ("attention", "attention")):
        rates, prefix = values[f"{kind}_flops_per_s"], f"{kind}_flops_per_s."
        known = [key.removeprefix(prefix) for key in evidence if key.startswith(prefix)]
        for dtype in dict.fromkeys([*rates, *known]):
            rate = rates.get(dtype)
            yield _row(f"{what}, {dtype}", rate and rate / 1e12, "TFLOP/s", evidence.get(prefix + dtype, NOWHERE))


def _row(label: str, value: float | None, unit: str, evidence: Evidence) -> tuple[str, str, str, str]:
    return label, "unknown" if value is None else f"{value:,.4g} {unit}", str(evidence.confidence), evidence.source
