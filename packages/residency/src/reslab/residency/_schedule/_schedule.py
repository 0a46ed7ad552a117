"""The order of moves of a run: one pure function, which the engine executes and the simulation times.

    schedule(plan, workload).moves          # fetch, evict, wait and compute, in order, with bytes
    schedule(plan, workload).moves[3]       # Move(Act.FETCH, "transformer", 3, 773_000_000, 0, "denoise", 7)
    schedule(plan, workload).frame()        # the same as a table

At the border before a stage, units that are no longer kept are evicted (by re-pointing, which costs nothing), and units
that the stage keeps are fetched, in the order of first use. Inside a stage, blocks stream through slots: while a block
computes, the next `prefetch` blocks are fetched, across calls too; a block that is still in its slot is not fetched
again. A swap with `prefetch_stages` is fetched in an earlier stage, behind the last fetch that this stage needs itself.
A component that is resident from the first stage on is fetched before the run, under no stage.

A fetch is issued, not waited for; a wait stands before the compute that needs it, for a whole fetch or for a part of
it. The list is therefore valid for one copy lane beside one compute lane, each of which makes its moves in order.

`ComponentMoves` makes the moves of one component. `schedule` calls each of them in turn: before the run (`set_up`), at
the border before each stage (`leave`, then `enter`), for each call (`run`), behind the last fetch that the stage needs
(`look_ahead`), at the end of each stage (`empty_slots`) and of the run (`finish`). Units are explained in
`_kept_units`, slots in `_slots`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from reslab.residency._plan._placement import Placement
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.residency._schedule._kept_units import (
    OUTSIDE,
    Units,
    ahead,
    all_units,
    between_runs,
    check_plan,
    keeps,
    moves_outside,
    streamed_by,
    unit_bytes,
)
from reslab.residency._schedule._slots import Slots
from reslab.stages.support import Described

if TYPE_CHECKING:
    import polars as pl


class Act(Described):
    """The effect of a move."""

    FETCH = "fetch", "Issue a copy to the device, without waiting for it."
    EVICT = "evict", "Free the device's copy by re-pointing parameters to the host copy."
    COPY_BACK = "copy back", "Copy to the host before evicting, as some other tools do."
    WAIT = "wait", "Wait until a fetch has arrived."
    COMPUTE = "compute", "Run a block, or a whole call."


class Move(NamedTuple):
    """One move. `block` is a number, -1 for the weights outside the blocks, None for the whole component."""

    act: Act
    component: str
    block: int | None
    nbytes: int
    slot: int | None  # number of the slot, for blocks that stream
    stage: str | None  # None: before the run
    call: int | None  # number of the call in the workload; None at a border


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The moves of one run, in order."""

    moves: tuple[Move, ...]

    def moved_bytes(self, act: Act = Act.FETCH, *, stage: str | None = None) -> int:
        """Return the bytes moved in the run or in one stage, without fetches made before the run.

        Args:
            act: The moves to count, FETCH or COPY_BACK.
            stage: A registered name; None counts all stages.
        """
        return sum(
            move.nbytes
            for move in self.moves
            if move.act is act and move.stage is not None and stage in (None, move.stage)
        )

    def frame(self) -> pl.DataFrame:
        """Return one row per move, with the columns act, component, block, nbytes, slot, stage, call."""
        from reslab.residency._plan._plan_table import moves

        return moves(self.moves)

    def __repr__(self) -> str:
        return f"Schedule(moves={len(self.moves)}, fetched_bytes={self.moved_bytes()})"


class ComponentMoves:
    """Makes the moves of one component, and knows which of its units are on the device meanwhile."""

    def __init__(self, plan: Plan, workload: Workload, name: str) -> None:
        self.name = name
        self.size: ComponentSize = workload.components[name]
        self.placements = [plan.placement(name, stage) for stage in workload.stages]
        self.everything = all_units(self.size)
        self.keeps = keeps(plan, workload, name)
        self.between = between_runs(self.keeps, self.placements[0])
        self.ahead = ahead(plan, workload, name)
        self.placement: Placement = self.placements[0]
        self.held: Units = frozenset()
        self.pending: Units = frozenset()  # fetched, but not waited for yet
        self.slots = Slots(uses=(), prefetch=0)
        self.used = 0  # uses of streaming blocks computed in this stage

    def set_up(self) -> Iterator[Move]:
        """Fetch before the run the units that are on the device from the beginning."""
        yield from self._fetch(self.between, None, None)
        self.held = self.between

    def leave(self, index: int, stage: str) -> Iterator[Move]:
        """Evict units that the stage at `index` does not keep."""
        yield from self._evict(self.held - self.keeps[index], stage, None)
        self.held &= self.keeps[index]
        self.placement = self.placements[index]

    def enter(self, index: int, stage: str, calls: Sequence[Call]) -> Iterator[Move]:
        """Fetch units that the stage at `index` keeps, and set up the slots for blocks that stream in it."""
        needed = self.keeps[index] - self.ahead[index]
        yield from self._fetch(needed - self.held, stage, None)
        self.held = needed
        own = [call for call in calls if call.component == self.name]
        uses = [block for call in own for block in streamed_by(call, self.placement, self.held)]
        self.slots, self.used = Slots(uses=uses, prefetch=self.placement.prefetch), 0

    def look_ahead(self, index: int, stage: str, number: int | None) -> Iterator[Move]:
        """Fetch the units that only a later stage needs, in the stage at `index`, under its call `number`."""
        yield from self._fetch(self.ahead[index], stage, number)
        self.held |= self.ahead[index]

    def run(self, call: Call, number: int) -> Iterator[Move]:
        """Compute a call: at once if all its units are on the device, else block by block."""
        outside = frozenset({OUTSIDE}) if moves_outside(self.placement) else frozenset()
        yield from self._fetch(outside, call.stage, number)
        streamed = set(streamed_by(call, self.placement, self.held))
        if streamed:
            yield from self._wait(frozenset({OUTSIDE}), call.stage, number)
            for block in call.blocks:
                yield from self._run_block(block, call.stage, number, streams=block in streamed)
        else:
            yield from self._wait(self.pending, call.stage, number)
            yield self._move(Act.COMPUTE, None, call.stage, number)
        yield from self._evict(outside, call.stage, number)

    def empty_slots(self, stage: str) -> Iterator[Move]:
        """Evict the blocks that are still in slots, at the end of a stage."""
        for block, slot in self.slots.held.items():
            yield from self._evict(frozenset({block}), stage, None, slot=slot)
        self.slots = Slots(uses=(), prefetch=0)

    def finish(self, stage: str) -> Iterator[Move]:
        """Evict, after the last stage, units that do not stay for the next run."""
        yield from self._evict(self.held - self.between, stage, None)

    def _run_block(self, block: int, stage: str, number: int, *, streams: bool) -> Iterator[Move]:
        """Fetch the blocks that come next, then compute one block."""
        if streams:
            for change in self.slots.advance(self.used):
                if change.evicted is not None:
                    yield from self._evict(frozenset({change.evicted}), stage, number, slot=change.slot)
                yield from self._fetch(frozenset({change.fetched}), stage, number, slot=change.slot)
            self.used += 1
        yield from self._wait(frozenset({block}), stage, number)
        yield self._move(Act.COMPUTE, block, stage, number)

    def _fetch(self, units: Units, stage: str | None, call: int | None, *, slot: int | None = None) -> Iterator[Move]:
        for piece in self._pieces(units):
            yield self._move(Act.FETCH, piece, stage, call, slot=slot)
        self.pending |= units

    def _evict(self, units: Units, stage: str, call: int | None, *, slot: int | None = None) -> Iterator[Move]:
        for piece in self._pieces(units):
            if self.placement.copy_back:
                yield self._move(Act.COPY_BACK, piece, stage, call, slot=slot)
            yield self._move(Act.EVICT, piece, stage, call, slot=slot)
        self.pending -= units

    def _wait(self, units: Units, stage: str, call: int) -> Iterator[Move]:
        for piece in self._pieces(units & self.pending):
            yield self._move(Act.WAIT, piece, stage, call)
        self.pending -= units

    def _pieces(self, units: Units) -> list[int | None]:
        """Return the pieces in which units move: None for the whole component, else each unit."""
        return [None] if units == self.everything else [*sorted(units)]

    def _move(
        self, act: Act, piece: int | None, stage: str | None, call: int | None, *, slot: int | None = None
    ) -> Move:
        nbytes = self.size.weight_bytes if piece is None else unit_bytes(self.size, piece)
        return Move(act, self.name, piece, 0 if act in (Act.WAIT, Act.COMPUTE) else nbytes, slot, stage, call)


def schedule(plan: Plan, workload: Workload) -> Schedule:
    """Return the order of moves in which a plan carries out a workload.

    >>> from reslab.residency import Call, ComponentSize
    >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
    >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
    >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
    >>> moves = schedule(Plan.of({"transformer": "layerwise"}), work).moves
    >>> print(*(f"{move.act} {move.block}" for move in moves), sep=", ")
    fetch -1, wait -1, fetch 0, fetch 1, wait 0, compute 0, evict 0, fetch 2, wait 1, compute 1, wait 2, compute 2, \
evict 1, evict 2, evict -1

    Raises:
        PlanError: The plan places a component or stage that the workload does not have.
    """
    check_plan(plan, workload)
    return Schedule(moves=tuple(_moves(plan, workload)))


def _moves(plan: Plan, workload: Workload) -> Iterator[Move]:
    components = {name: ComponentMoves(plan, workload, name) for name in workload.components}
    for component in components.values():
        yield from component.set_up()
    number = 0  # of the stage's first call, in the workload
    for index, (stage, calls) in enumerate(zip(workload.stages, workload.by_stage, strict=True)):
        ordered = [components[name] for name in dict.fromkeys((*(call.component for call in calls), *components))]
        for component in ordered:
            yield from component.leave(index, stage)
        for component in ordered:
            yield from component.enter(index, stage, calls)
        own = [move for at, call in enumerate(calls, number) for move in components[call.component].run(call, at)]
        number += len(calls)
        # a stage's own fetches go first: what it fetches ahead for a later stage must not delay them
        last = max((at for at, move in enumerate(own) if move.act is Act.FETCH), default=-1)
        yield from own[: last + 1]
        for component in ordered:
            yield from component.look_ahead(index, stage, own[last].call if last >= 0 else None)
        yield from own[last + 1 :]
        for component in ordered:
            yield from component.empty_slots(stage)
    for component in components.values():
        yield from component.finish(workload.stages[-1])
