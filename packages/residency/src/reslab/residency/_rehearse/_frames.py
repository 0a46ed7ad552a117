"""The frames of a rehearsal, made of its traces: equal segments become one body, whose sums are taken once.

    Rehearsal(**frames(anatomies, calls.traced, conductor), meta=...)

The columns of each frame are in `_schema`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from reslab.residency._model._anatomy import Anatomy
from reslab.residency._model._storage import unusual
from reslab.residency._rehearse._calls import TracedCall
from reslab.residency._rehearse._conductor import RehearsalConductor
from reslab.residency._rehearse._costs import UNKNOWN
from reslab.residency._rehearse._failures import raise_uncosted
from reslab.residency._rehearse._phantom import OperationRow
from reslab.residency._rehearse._schema import frame
from reslab.residency._rehearse._weightless import raise_unfollowed


def frames(
    named: Mapping[str, Anatomy], traced: Sequence[TracedCall], conductor: RehearsalConductor
) -> dict[str, pl.DataFrame]:
    """Build the frames of a rehearsal."""
    bodies = Bodies()
    segments = [
        (trace, position, segment.block, segment.path, bodies.number(segment.rows))
        for trace, each in enumerate(traced)
        for position, segment in enumerate(each.segments)
    ]
    return {
        "components": frame("components", (anatomy.row(name) for name, anatomy in named.items())),
        "blocks": frame("blocks", (row for name, anatomy in named.items() for row in anatomy.block_rows(name))),
        "calls": frame("calls", conductor.calls),
        "traces": frame("traces", (bodies.trace_row(number, each) for number, each in enumerate(traced))),
        "segments": frame("segments", segments),
        "operations": frame("operations", bodies.operations()),
        "glue": frame("glue", (glue.row() for glue in conductor.glue)),
    }


class Bodies:
    """Numbers distinct sequences of operations, and keeps the sums of each."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[OperationRow, ...], int] = {}
        self._number_of: dict[int, int] = {}
        self._sums: list[Counter[str]] = []

    def number(self, rows: list[OperationRow]) -> int:
        """Return the number that equal sequences of operations share."""
        if id(rows) not in self._number_of:  # blocks traced once share their list, so most are found without comparing
            own = tuple(rows)
            if own not in self._numbers:
                self._numbers[own] = len(self._numbers)
                self._sums.append(_sums(own))
            self._number_of[id(rows)] = self._numbers[own]
        return self._number_of[id(rows)]

    def trace_row(self, number: int, traced: TracedCall) -> tuple[Any, ...]:
        """Return a row of the frame `traces`."""
        sums: Counter[str] = Counter()
        for segment in traced.segments:
            sums.update(self._sums[self.number(segment.rows)])
        peaks = traced.activation_peak_bytes, traced.workspace_bytes, traced.output_bytes
        names = ("operations", "flops", "matmul", "attention", "conv", "read", "written")
        totals = [sums[name] for name in names]
        return number, traced.component, traced.method, traced.shapes, traced.lora, *peaks, *totals

    def operations(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of the frame `operations`."""
        for rows, body in self._numbers.items():
            for position, (row, equal) in enumerate(groupby(rows)):
                yield body, position, *row, sum(1 for _ in equal)


def _sums(rows: Sequence[OperationRow]) -> Counter[str]:
    sums: Counter[str] = Counter(operations=len(rows))
    for row in rows:
        sums.update(flops=row.flops, read=row.read_bytes, written=row.written_bytes)
        if row.flops:
            sums[row.kind] += row.flops
    return sums


def check_costs(named: Mapping[str, Anatomy], traced: Sequence[TracedCall], conductor: RehearsalConductor) -> None:
    """Check that every operation has a cost formula.

    Raises:
        RehearsalError: Some have none; it lists them, or names the weights of an unusual kind that use them.
    """
    for each in traced:
        ops = {row.op for segment in each.segments for row in segment.rows if row.kind == UNKNOWN}
        if ops and each.component in named and (weights := unusual(named[each.component].component)):
            raise_unfollowed(each.component, weights, f", used by {', '.join(sorted(ops))}")
    rows = [row for each in traced for segment in each.segments for row in segment.rows]
    rows += [row for glue in conductor.glue for row in glue.unknown]
    unknown = [row for row in rows if row.kind == UNKNOWN]
    if unknown:
        nbytes: Counter[str] = Counter()
        for row in unknown:
            nbytes[row.op] += row.read_bytes + row.written_bytes
        total = sum(row.read_bytes + row.written_bytes for row in rows)
        raise_uncosted(Counter(row.op for row in unknown), nbytes, total)
