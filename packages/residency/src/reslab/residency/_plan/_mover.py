"""One component's part of the order of moves: what of it is on the device, and what moves next.

`schedule` asks one mover a component, in turn: before the run (`set_up`), at the border before each stage (`leave`,
then `enter`), for each call (`run`), behind the last fetch that the stage needs (`look_ahead`), at the end of each
stage (`empty_slots`) and of the run (`finish`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reslab.residency._plan._keep import (
    OUTSIDE,
    Units,
    ahead,
    all_units,
    between_runs,
    keeps,
    moves_outside,
    streamed_by,
    unit_bytes,
)
from reslab.residency._plan._moves import Act, Move
from reslab.residency._plan._placement import Placement
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._slots import Slots
from reslab.residency._plan._workload import Call, ComponentSize, Workload


class Mover:
    """What of one component is on the device, while the moves are made."""

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
        self.pending: Units = frozenset()  # fetched, and not waited for yet
        self.slots = Slots(uses=(), prefetch=0)
        self.used = 0

    def set_up(self) -> Iterator[Move]:
        """Fetch before the run what is on the device from the beginning."""
        yield from self._fetch(self.between, None, None)
        self.held = self.between

    def leave(self, place: int, stage: str) -> Iterator[Move]:
        """Evict what is not kept in the stage at `place`."""
        yield from self._evict(self.held - self.keeps[place], stage, None)
        self.held &= self.keeps[place]
        self.placement = self.placements[place]

    def enter(self, place: int, stage: str, calls: Sequence[Call]) -> Iterator[Move]:
        """Fetch what is kept in the stage at `place`, and see what will stream in it."""
        needed = self.keeps[place] - self.ahead[place]
        yield from self._fetch(needed - self.held, stage, None)
        self.held = needed
        own = [call for call in calls if call.component == self.name]
        uses = [block for call in own for block in streamed_by(call, self.placement, self.held)]
        self.slots, self.used = Slots(uses=uses, prefetch=self.placement.prefetch), 0

    def look_ahead(self, place: int, stage: str, number: int | None) -> Iterator[Move]:
        """Fetch in the stage at `place`, before it computes the call of that number, what only a later one needs."""
        yield from self._fetch(self.ahead[place], stage, number)
        self.held |= self.ahead[place]

    def run(self, call: Call, number: int) -> Iterator[Move]:
        """Compute a call: at once where all is there, else block by block."""
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
        """Let go of what streamed, at the end of a stage."""
        for block, slot in self.slots.held.items():
            yield from self._evict(frozenset({block}), stage, None, slot=slot)
        self.slots = Slots(uses=(), prefetch=0)

    def finish(self, stage: str) -> Iterator[Move]:
        """Evict, after the last stage, what does not stay for the next run."""
        yield from self._evict(self.held - self.between, stage, None)

    def _run_block(self, block: int, stage: str, number: int, *, streams: bool) -> Iterator[Move]:
        """Compute one block, having seen to the ones that come next."""
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
        """Return the pieces in which units move: the component in one, if it is all of it."""
        return [None] if units == self.everything else [*sorted(units)]

    def _move(
        self, act: Act, piece: int | None, stage: str | None, call: int | None, *, slot: int | None = None
    ) -> Move:
        nbytes = self.size.weight_bytes if piece is None else unit_bytes(self.size, piece)
        return Move(act, self.name, piece, 0 if act in (Act.WAIT, Act.COMPUTE) else nbytes, slot, stage, call)
