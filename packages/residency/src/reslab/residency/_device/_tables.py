"""A device as a table: a row a figure, written for people, with its confidence and source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

import polars as pl

from reslab.residency._device._spec import Confidence, DeviceSpec, Evidence

FIGURES = {"figure": pl.String, "value": pl.String, "confidence": pl.Categorical, "source": pl.String}
OVERVIEW = {
    "family": pl.String,
    "device": pl.String,
    "memory_gib": pl.Float64,
    "bandwidth_gb_s": pl.Float64,
    "bfloat16_tflops": pl.Float64,
    "confidence": pl.Categorical,  # of the throughput
}
_NOWHERE = Evidence(confidence=Confidence.UNKNOWN, source="")

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


def figures(spec: DeviceSpec) -> pl.DataFrame:
    """Return a row a figure: figure, value, confidence, source."""
    return pl.DataFrame(list(_rows(spec)), schema=dict(FIGURES), orient="row")


def spec_html(spec: DeviceSpec) -> str:
    """Return the table of a device as HTML, every text escaped."""
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in FIGURES)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in figures(spec).cast(pl.String).rows()
    )
    held = "".join(f"<p>{escape(each.who)} holds {each.nbytes / 2**30:.2f} GiB of it.</p>" for each in spec.holders)
    lacks = f"<p>{escape(spec.missing[0].upper() + spec.missing[1:])}.</p>" if spec.missing else ""
    moves = "<p>Host and device share one memory: there is nothing to move.</p>" if spec.unified else ""
    return f"<p><b>{escape(spec.name)}</b></p><table><tr>{head}</tr>{body}</table>{held}{moves}{lacks}"


def overview(specs: Iterable[DeviceSpec], families: Mapping[str, str]) -> pl.DataFrame:
    """Return a row a device: what people choose by."""
    return pl.DataFrame([_overview(spec, families[spec.name]) for spec in specs], schema=dict(OVERVIEW), orient="row")


def overview_html(table: pl.DataFrame) -> str:
    """Return a line a family: its devices with their memory in GiB."""
    found: dict[str, list[str]] = {}
    for row in table.rows(named=True):
        found.setdefault(row["family"], []).append(f"{escape(row['device'])} <small>({row['memory_gib']:.3g})</small>")
    body = "".join(
        f'<tr><th style="text-align:left">{escape(family)}</th><td style="text-align:left">{", ".join(each)}</td></tr>'
        for family, each in found.items()
    )
    return f"<p><b>{table.height} devices</b>, with the GiB that they have</p><table>{body}</table>"


def _overview(spec: DeviceSpec, family: str) -> tuple[str | float | None, ...]:
    bandwidth, rate = spec.memory_bytes_per_s, spec.matrix_flops_per_s.get("bfloat16")
    by = spec.evidence.get("matrix_flops_per_s.bfloat16", _NOWHERE).confidence
    rates = (bandwidth and bandwidth / 1e9, rate and rate / 1e12)
    return (family, spec.name, spec.memory_bytes / 2**30, *rates, str(by))


def _rows(spec: DeviceSpec) -> Iterator[tuple[str, str, str, str]]:
    for name, (label, unit, suffix) in _READABLE.items():
        value = getattr(spec, name)
        yield _row(label, value and value / unit, suffix, spec.evidence.get(name, _NOWHERE))
    for kind, what in (("matrix", "matrix products"), ("attention", "attention")):
        rates, prefix = getattr(spec, f"{kind}_flops_per_s"), f"{kind}_flops_per_s."
        known = [key.removeprefix(prefix) for key in spec.evidence if key.startswith(prefix)]
        for dtype in dict.fromkeys([*rates, *known]):
            rate = rates.get(dtype)
            evidence = spec.evidence.get(prefix + dtype, _NOWHERE)
            yield _row(f"{what}, {dtype}", rate and rate / 1e12, "TFLOP/s", evidence)


def _row(label: str, value: float | None, unit: str, evidence: Evidence) -> tuple[str, str, str, str]:
    return label, "unknown" if value is None else f"{value:,.4g} {unit}", str(evidence.confidence), evidence.source
