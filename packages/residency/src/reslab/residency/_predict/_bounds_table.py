"""Bounds as tables: a frame with a row a stage, and HTML that opens with whether the plan fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

import polars as pl

from reslab.profiler import gib
from reslab.residency._predict._stage_bounds import StageBounds
from reslab.stages.support import html_table

_TEXT = ("stage", "registered_name", "limited_by")
_DERIVED = ("floor_ns", "ceiling_ns", "peak_bytes", "limited_by")
_TIMES = ("compute_ns", "host_ns", "memory_ns", "floor_ns", "ceiling_ns", "limited_by")  # null where not known
_OWN = tuple(field.name for field in fields(StageBounds) if field.name != "unknown")
STAGES: Mapping[str, Any] = {name: pl.Categorical if name in _TEXT else pl.Int64 for name in (*_OWN, *_DERIVED)}


def stages(rows: Sequence[StageBounds]) -> pl.DataFrame:
    """Return a row a stage, in the order of the run."""
    cells = [[None if row.unknown and name in _TIMES else getattr(row, name) for name in STAGES] for row in rows]
    return pl.DataFrame(cells, schema=dict(STAGES), orient="row")


def bounds_html(rows: Iterable[StageBounds], *, title: str, why: str, notes: Iterable[str]) -> str:
    """Return HTML: whether the plan fits, and a row a stage with its time at least and if nothing overlaps.

    Args:
        rows: The stages in order; one that neither computes nor copies is left out.
        title: The names of plan and device.
        why: A sentence that says whether the plan fits.
        notes: Sentences to put below the table.
    """
    shown = [row for row in rows if row.unknown or row.ceiling_ns]
    head = ("stage", "at least", "if nothing overlaps", "limited by", "moved", "weights", "activations", "peak")
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<p><b>{escape(title)}</b>: {escape(why)}</p>{html_table(head, map(_row, shown))}{below}"


def _row(row: StageBounds) -> Iterator[str]:
    yield row.stage
    if row.unknown:
        yield from ("unknown",) * 3
    else:
        yield f"{row.floor_ns / 1e9:.3g} s"
        yield f"{row.ceiling_ns / 1e9:.3g} s"
        yield row.limited_by
    for nbytes in (row.moved_bytes, row.weight_bytes, row.activation_bytes, row.peak_bytes):
        yield gib(nbytes)
