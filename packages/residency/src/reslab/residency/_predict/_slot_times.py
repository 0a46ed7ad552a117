"""The contents of the slots while blocks stream, block by block: the order of moves on a compute lane and a copy lane.

    slot_times({"two slots": plan}, workload, copy=3)        # a row a bar: place, state, block, start, end

The unit of time is the compute of one block; copying a block takes `copy` units. No device and no seconds are needed,
and the result holds wherever copying takes that much longer than computing. All blocks compute for the same time, and
the copy lane serves this component alone.

A place is device memory of one block's size: a slot, or a resident block. Weights outside the blocks have no place. Two
more rows are the lanes: computing, with stalls for copies that are not hidden, and copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl

from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload, uniform_workload
from reslab.residency._schedule._kept_units import OUTSIDE, unit_bytes
from reslab.residency._schedule._schedule import Act, Move, schedule

COMPUTES, COPIED, THERE, STALLS = "computes", "is copied", "is there", "stalls"
#: The places that are lanes.
COMPUTING, COPYING = "computing", "copying"
_PASSES = 2, 6  # the first pass differs, since it begins with empty slots
SLOT_TIMES: Mapping[str, Any] = {
    "plan": pl.String,
    "place": pl.String,  # a lane, "slot 0", or "block 7" for a resident block
    "state": pl.String,
    "block": pl.Int64,
    "start": pl.Float64,
    "end": pl.Float64,
}


def slot_times(
    plans: Mapping[str, Plan], workload: Workload, *, copy: float, component: str = "transformer"
) -> pl.DataFrame:
    """Return when and in which place each block is copied, is there and computes, under each plan.

    >>> from reslab.residency import Plan, layerwise
    >>> times = slot_times({"stream": Plan.of({"transformer": layerwise()})}, uniform_workload(3), copy=2)
    >>> times.filter(place="computing").rows()[:3]
    [('stream', 'computing', 'stalls', 0, 0.0, 2.0), ('stream', 'computing', 'computes', 0, 2.0, 3.0), \
('stream', 'computing', 'stalls', 1, 3.0, 4.0)]

    Args:
        plans: The plans by label.
        workload: The calls of a run; only the component's own calls count.
        copy: The time to copy a block, as a multiple of the time to compute it.
        component: The component whose blocks stream.

    Returns:
        The columns of `SLOT_TIMES`, with places in the order lanes, slots, resident blocks. The unit of time is the
        compute of a block; blocks that are fetched before the run are there at 0.

    Raises:
        PlanError: A plan places a component or stage that the workload does not have.
        ValueError: There is no such component, or it has no blocks.
    """
    size = workload.components.get(component)
    if size is None or not size.block_bytes:
        known = [name for name, each in workload.components.items() if each.block_bytes]
        raise ValueError(f"{component!r} has no blocks in this workload; choose one of {known}")
    calls = tuple(call for call in workload.calls if call.component == component)
    own = replace(workload, calls=calls)  # other components would take the copy lane
    rows = [
        (label, *bar)
        for label, plan in plans.items()
        for bar in sorted(_Lanes(own, component, copy).bars(plan), key=_order)
        if bar.start < bar.end
    ]
    return pl.DataFrame(rows, schema=dict(SLOT_TIMES), orient="row")


def pass_time(plan: Plan, *, blocks: int, copy: float) -> float:
    """Return the time of a pass in the long run, as a multiple of a pass without stalls.

    >>> from reslab.residency import Plan, layerwise
    >>> pass_time(Plan.of({"transformer": layerwise(prefetch=5)}), blocks=12, copy=3)
    3.0

    Args:
        plan: The plan; only its transformer counts.
        blocks: The number of blocks of the model, all equal.
        copy: The time to copy a block, as a multiple of the time to compute it.
    """
    early, late = (
        max(slot_times({"": plan}, uniform_workload(blocks, passes=passes), copy=copy)["end"]) for passes in _PASSES
    )
    return round((late - early) / (_PASSES[1] - _PASSES[0]) / blocks, 6)


class _Bar(NamedTuple):
    place: str
    state: str
    block: int
    start: float
    end: float


class _Lanes:
    """A compute lane and a copy lane, each of which carries out its moves in order."""

    def __init__(self, workload: Workload, component: str, copy: float) -> None:
        self.workload, self.component = workload, component
        self.size = workload.components[component]
        self.copy_per_byte = copy * self.size.block_count / sum(self.size.block_bytes)
        self.now = 0.0  # time of the compute lane
        self.copied = 0.0  # time at which the copy lane is free
        self.held: dict[int, tuple[str, float]] = {}  # block → its place, and the time from which it is there

    def bars(self, plan: Plan) -> Iterator[_Bar]:
        for move in schedule(plan, self.workload).moves:
            if move.component == self.component:
                for block in self._blocks(move):
                    yield from self._make(move, block)
        for block in [*self.held]:
            yield from self._evict(block)

    def _blocks(self, move: Move) -> tuple[int, ...]:
        if move.block is not None:
            return (move.block,)
        if move.act is Act.COMPUTE:
            assert move.call is not None
            return self.workload.calls[move.call].blocks
        return (OUTSIDE, *range(self.size.block_count))

    def _make(self, move: Move, block: int) -> Iterator[_Bar]:
        if move.act in (Act.FETCH, Act.COPY_BACK):
            yield from self._copy(move, block)
        elif move.act is Act.WAIT:
            at = self.held[block][1]
            yield _Bar(COMPUTING, STALLS, block, self.now, at)
            self.now = max(self.now, at)
        elif move.act is Act.COMPUTE:
            for place in (COMPUTING, self.held[block][0]):
                yield _Bar(place, COMPUTES, block, self.now, self.now + 1)
            self.now += 1
        else:
            yield from self._evict(block)

    def _copy(self, move: Move, block: int) -> Iterator[_Bar]:
        place = f"block {block}" if move.slot is None else f"slot {move.slot}"
        if move.stage is None:  # fetched before the run, which no bar shows
            self.held[block] = place, 0.0
            return
        begun = max(self.now, self.copied)
        self.copied = begun + unit_bytes(self.size, block) * self.copy_per_byte
        yield _Bar(COPYING, COPIED, block, begun, self.copied)
        if move.act is Act.FETCH:
            self.held[block] = place, self.copied
            if block != OUTSIDE:
                yield _Bar(place, COPIED, block, begun, self.copied)

    def _evict(self, block: int) -> Iterator[_Bar]:
        place, since = self.held.pop(block)
        if block != OUTSIDE:
            yield _Bar(place, THERE, block, since, self.now)


def _order(bar: _Bar) -> tuple[int, int, float, str]:
    """Return a key that sorts lanes first, then slots, then resident blocks, each by time."""
    if bar.place in (COMPUTING, COPYING):
        return 0, (COMPUTING, COPYING).index(bar.place), bar.start, bar.state
    kind, number = bar.place.split()
    return ("slot", "block").index(kind) + 1, int(number), bar.start, bar.state
