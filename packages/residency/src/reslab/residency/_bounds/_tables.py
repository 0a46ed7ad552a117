"""Bounds as tables: a frame a row a stage, and HTML that says first whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

import polars as pl

from reslab.profiler import gib
from reslab.residency._bounds._bounds import Bounds
from reslab.residency._bounds._stage import StageBounds
from reslab.residency._plan._tables import table

_TEXT = ("stage", "registered_name", "limited_by")
_DERIVED = ("floor_ns", "ceiling_ns", "peak_bytes", "limited_by")
_TIMES = ("compute_ns", "host_ns", "memory_ns", "floor_ns", "ceiling_ns", "limited_by")  # null where not known
_OWN = tuple(field.name for field in fields(StageBounds) if field.name != "unknown")
STAGES: Mapping[str, Any] = {name: pl.Categorical if name in _TEXT else pl.Int64 for name in (*_OWN, *_DERIVED)}


def stages(rows: Sequence[StageBounds]) -> pl.DataFrame:
    """Return a row a stage, in the order of the run."""
    cells = [[None if row.unknown and name in _TIMES else getattr(row, name) for name in STAGES] for row in rows]
    return pl.DataFrame(cells, schema=dict(STAGES), orient="row")


def bounds_html(limits: Bounds) -> str:
    """Return whether it fits, and a row a stage with what it takes at least, and if nothing overlaps."""
    shown = [row for row in limits.rows if row.unknown or row.ceiling_ns]
    head = ("stage", "at least", "if nothing overlaps", "limited by", "moved", "weights", "activations", "peak")
    title = f"{escape(limits.plan.name)} on {escape(limits.device.name)}"
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(limits))
    return f"<p><b>{title}</b>: {escape(limits.why)}</p>{table(head, map(_row, shown))}{notes}"


def _row(row: StageBounds) -> Iterator[str]:
    yield escape(row.stage)
    if row.unknown:
        yield from ("unknown",) * 3
    else:
        yield f"{row.floor_ns / 1e9:.3g} s"
        yield f"{row.ceiling_ns / 1e9:.3g} s"
        yield row.limited_by
    for nbytes in (row.moved_bytes, row.weight_bytes, row.activation_bytes, row.peak_bytes):
        yield gib(nbytes)


def _notes(limits: Bounds) -> Iterator[str]:
    moved = f"{gib(limits.moved_bytes)} moved to the device and {gib(limits.copied_back_bytes)} back"
    if limits.unknown:
        yield f"{moved}. No times: {limits.unknown}."
    else:
        times = f"{limits.floor_ns / 1e9:.3g} to {limits.ceiling_ns / 1e9:.3g} s"
        yield f"In all {times}, {moved}. Bounds, not predictions."
    for row in limits.uncosted.cast({"op": pl.String, "dtype": pl.String}).rows(named=True):
        yield (
            f"Not in these times: the arithmetic of {row['op']} in {row['dtype']}, {row['share']:.1%} of all FLOPs, "
            f"since {limits.device.name}'s throughput for it is not known."
        )
