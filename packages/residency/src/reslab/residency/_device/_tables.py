"""A device as a table: a row a figure, written for people, with its confidence and source."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import polars as pl

from reslab.residency._device._spec import DeviceSpec, Evidence

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
    moves = "<p>Host and device share one memory: there is nothing to move.</p>" if spec.unified else ""
    return f"<p><b>{escape(spec.name)}</b></p><table><tr>{head}</tr>{body}</table>{held}{moves}"


def _rows(spec: DeviceSpec) -> Iterator[tuple[str, str, str, str]]:
    for name, (label, unit, suffix) in _READABLE.items():
        yield _row(label, getattr(spec, name) / unit, suffix, spec.evidence[name])
    for kind in ("matrix", "attention"):
        for dtype, rate in getattr(spec, f"{kind}_flops_per_s").items():
            what = "matrix products" if kind == "matrix" else kind
            yield _row(f"{what}, {dtype}", rate / 1e12, "TFLOP/s", spec.evidence[f"{kind}_flops_per_s.{dtype}"])


def _row(label: str, value: float, unit: str, evidence: Evidence) -> tuple[str, str, str, str]:
    return label, f"{value:,.4g} {unit}", str(evidence.confidence), evidence.source
