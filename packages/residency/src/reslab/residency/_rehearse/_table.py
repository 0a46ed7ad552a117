"""What a rehearsal says, as tables: by stage, component and method, and as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import polars as pl

from reslab.profiler import GIB

if TYPE_CHECKING:
    from reslab.residency._rehearse._rehearsal import Rehearsal

_SUMS = ("flops", "read_bytes", "written_bytes", "host_operations")
_PEAKS = ("activation_peak_bytes", "workspace_bytes")


def table(rehearsal: Rehearsal, lora: str) -> pl.DataFrame:
    """Return a row a stage, component and method, in the order of the first call."""
    traces = rehearsal.traces.select("trace", *_SUMS, *_PEAKS)
    trace = pl.coalesce("merged_trace", "trace") if lora == "merged" else pl.col("trace")
    calls = rehearsal.calls.with_columns(trace.alias("trace")).join(traces, on="trace", maintain_order="left")
    grouped = calls.group_by("stage", "component", "method", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("calls"),
        pl.col("shapes").first(),
        *(pl.col(name).sum() for name in _SUMS),
        *(pl.col(name).max() for name in _PEAKS),
    )
    return grouped.select(
        pl.col("stage", "component", "method").cast(pl.String),
        "calls",
        pl.col("shapes").cast(pl.String),
        (pl.col("flops") / 1e12).alias("tflop"),
        (pl.col("read_bytes") / 1e9).alias("read_gb"),
        (pl.col("written_bytes") / 1e9).alias("written_gb"),
        (pl.col("activation_peak_bytes") / GIB).alias("activation_gib"),
        (pl.col("workspace_bytes") / GIB).alias("workspace_gib"),
        "host_operations",
    )


def stages(rehearsal: Rehearsal) -> pl.DataFrame:
    """Return a row a stage in order; a stage that calls no component is there as well."""
    called = table(rehearsal, "dynamic").group_by("stage", maintain_order=True)
    sums = called.agg(pl.col("calls").sum(), pl.col("tflop").sum(), pl.col("activation_gib").max())
    glue = rehearsal.glue.select(pl.col("stage").cast(pl.String), (pl.col("peak_bytes") / GIB).alias("held_gib"))
    joined = glue.join(sums, on="stage", how="left", maintain_order="left")
    return joined.select("stage", pl.col("calls", "tflop", "activation_gib").fill_null(0), "held_gib")


def html(rehearsal: Rehearsal) -> str:
    """Return the table of stages, components and methods for a notebook."""
    head = ("stage", "component", "calls", "shapes", "TFLOP", "GB read", "GB written", "activations", "operations")
    rows = "".join(_row(row) for row in table(rehearsal, "dynamic").iter_rows(named=True))
    cells = "".join(f'<th style="text-align:left">{name}</th>' for name in head)
    caption = escape(repr(rehearsal))
    return f"<table><caption>{caption}</caption><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"


def _row(row: dict[str, object]) -> str:
    texts = (
        row["stage"],
        f"{row['component']}.{row['method']}",
        row["calls"],
        _first(str(row["shapes"])),
        f"{row['tflop']:,.1f}",
        f"{row['read_gb']:,.1f}",
        f"{row['written_gb']:,.1f}",
        f"{row['activation_gib']:.2f} GiB",
        f"{row['host_operations']:,}",
    )
    titles = {3: str(row["shapes"])}  # all arguments, where the pointer rests
    cells = (_cell(str(text), titles.get(place, "")) for place, text in enumerate(texts))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str, title: str) -> str:
    hint = f' title="{escape(title)}"' if title else ""
    return f'<td style="text-align:left"{hint}>{escape(text)}</td>'


def _first(shapes: str) -> str:
    """Return the shape of the first argument, and dots where there are more."""
    first, more, _ = shapes.partition(", ")
    return first + (" …" if more else "")
