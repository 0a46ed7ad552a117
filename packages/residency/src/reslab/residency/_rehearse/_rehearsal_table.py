"""Tables of a rehearsal: by stage, component and method as frames, and as HTML."""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import GIB
from reslab.stages.support import Cell, html_table

_SUMS = ("flops", "read_bytes", "written_bytes")
_LAUNCHES = ("host_operations",)
_PEAKS = ("activation_peak_bytes", "workspace_bytes")


def table(calls: pl.DataFrame, traces: pl.DataFrame, lora: str) -> pl.DataFrame:
    """Return one row per stage, component and method, in the order of the first call."""
    sizes = traces.select("trace", *_SUMS, *_LAUNCHES, *_PEAKS)
    trace = pl.coalesce("merged_trace", "trace") if lora == "merged" else pl.col("trace")
    sized = calls.with_columns(trace.alias("trace")).join(sizes, on="trace", maintain_order="left")
    grouped = sized.group_by("stage", "component", "method", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("calls"),
        pl.col("shapes").first(),
        *(pl.col(name).sum() for name in _LAUNCHES),
        *(pl.col(name).cast(pl.Float64).sum() for name in _SUMS),  # the largest requests exceed Int64
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


def stages(by_method: pl.DataFrame, glue: pl.DataFrame) -> pl.DataFrame:
    """Return one row per stage in order, including stages that call no component.

    Args:
        by_method: The frame that `table` returns.
        glue: The rehearsal's frame `glue`.
    """
    called = by_method.group_by("stage", maintain_order=True)
    sums = called.agg(pl.col("calls").sum(), pl.col("tflop").sum(), pl.col("activation_gib").max())
    held = glue.select(pl.col("stage").cast(pl.String), (pl.col("peak_bytes") / GIB).alias("held_gib"))
    joined = held.join(sums, on="stage", how="left", maintain_order="left")
    return joined.select("stage", pl.col("calls", "tflop", "activation_gib").fill_null(0), "held_gib")


def html(by_method: pl.DataFrame, *, caption: str) -> str:
    """Return the table of stages, components and methods for a notebook."""
    head = ("stage", "component", "calls", "shapes", "TFLOP", "GB read", "GB written", "activations", "operations")
    return html_table(head, map(_row, by_method.iter_rows(named=True)), caption=caption)


def _row(row: dict[str, Any]) -> tuple[str | Cell, ...]:
    return (
        row["stage"],
        f"{row['component']}.{row['method']}",
        str(row["calls"]),
        Cell(_first(row["shapes"]), title=row["shapes"]),  # all arguments, where the pointer rests
        f"{row['tflop']:,.1f}",
        f"{row['read_gb']:,.1f}",
        f"{row['written_gb']:,.1f}",
        f"{row['activation_gib']:.2f} GiB",
        f"{row['host_operations']:,}",
    )


def _first(shapes: str) -> str:
    """Return the shape of the first argument, followed by dots if there are more."""
    first, more, _ = shapes.partition(", ")
    return first + (" …" if more else "")
