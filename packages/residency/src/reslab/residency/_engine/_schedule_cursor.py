"""A cursor through a schedule: it returns the moves due at each border, call and block of a run.

Where the run deviates from the schedule, the cursor returns None until the stage ends; its caller fetches on demand.

    cursor = ScheduleCursor(plan, workload)
    cursor.set_up(); cursor.border("denoise"); cursor.call("transformer", "forward"); cursor.block(0) …
    cursor.rest("denoise")
"""

from __future__ import annotations

from collections.abc import Sequence

from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._schedule._kept_units import OUTSIDE, Units, ahead, between_runs, keeps, streamed
from reslab.residency._schedule._schedule import Act, Move, schedule

Moves = Sequence[Move]


class ScheduleCursor:
    """A position in the schedule of one run.

    Args:
        plan: Where weights live.
        workload: The calls to schedule; without calls, only the moves of resident components are scheduled.
    """

    def __init__(self, plan: Plan, workload: Workload) -> None:
        self.plan, self.workload = plan, workload
        self.moves = schedule(plan, workload).moves
        self._keeps = {name: keeps(plan, workload, name) for name in workload.components}
        self._between = {
            name: between_runs(kept, plan.placement(name, workload.stages[0])) for name, kept in self._keeps.items()
        }
        self._ahead = {name: ahead(plan, workload, name) for name in workload.components}
        self._next = 0
        self._first: dict[str | None, int] = {}
        for place, move in enumerate(self.moves):
            self._first.setdefault(move.stage, place)
        self._calls: dict[str, int] = {}
        for number, call in enumerate(workload.calls):
            self._calls.setdefault(call.stage, number)
        self._stage: str | None = None
        self._number = -1  # the call that is scheduled next
        self._streams = False
        #: Whether the stage under way has deviated from the schedule.
        self.is_off_schedule = False

    def keeps(self, component: str, stage: str | None) -> Units:
        """Return the units of a component that stay on the device all through a stage, or between runs (None)."""
        if stage is None:
            return self._between[component]
        return self._keeps[component][self.workload.stages.index(stage)]

    def needs(self, component: str, stage: str) -> Units:
        """Return the units of a component that must be on the device when a stage begins."""
        place = self.workload.stages.index(stage)
        return self._keeps[component][place] - self._ahead[component][place]

    def set_up(self) -> Moves:
        """Return the moves before the first stage."""
        return self.moves[: next((i for i, move in enumerate(self.moves) if move.stage is not None), len(self.moves))]

    def border(self, stage: str) -> Moves:
        """Enter a stage, from any position, and return the moves at the border before it."""
        self._stage, self._number, self.is_off_schedule, self._streams = stage, self._calls.get(stage, -1), False, False
        self._next = start = self._first.get(stage, len(self.moves))
        while self._in_stage() and self.moves[self._next].call is None:
            self._next += 1
        return self.moves[start : self._next]

    def call(self, component: str, method: str) -> Moves | None:
        """Return the moves before a call; None where no call, or another one, is scheduled."""
        scheduled = self.workload.calls[self._number] if 0 <= self._number < len(self.workload.calls) else None
        expected = (scheduled.stage, scheduled.component) if scheduled is not None else None
        if self.is_off_schedule or scheduled is None or expected != (self._stage, component):
            self.is_off_schedule = True
            return None
        moves = self._up_to_compute(self._number)
        if moves is None or scheduled.method != method:
            self.is_off_schedule = True
            return None
        self._streams = self.moves[self._next].block is not None
        if not self._streams:
            self._next += 1
        self._number += 1
        return moves

    def block(self, number: int) -> Moves | None:
        """Return the moves before a block of the call under way; None where another block is scheduled."""
        if self.is_off_schedule:
            return None
        if not self._streams:
            return ()
        moves = self._up_to_compute(self._number - 1)
        if moves is None or self.moves[self._next].block != number:
            self.is_off_schedule = True
            return None
        self._next += 1
        return moves

    def rest(self, stage: str) -> Moves | None:
        """Return the remaining moves of a stage that ends; None where a scheduled call did not come."""
        start = self._next
        while self._in_stage():
            self._next += 1
        moves = self.moves[start : self._next]
        if self.is_off_schedule or any(move.act is Act.COMPUTE for move in moves):
            self.is_off_schedule = True
            return None
        return moves

    def streamed(self, component: str, stage: str) -> Units:
        """Return the blocks that stream through the slots of a component in a stage."""
        place, placement = self.workload.stages.index(stage), self.plan.placement(component, stage)
        return streamed(self.workload, component, place, placement, self._keeps[component][place])

    def _up_to_compute(self, number: int) -> Moves | None:
        """Advance to the next compute, if it belongs to this call, and return the moves before it."""
        start = end = self._next
        while end < len(self.moves) and self.moves[end].call == number and self.moves[end].act is not Act.COMPUTE:
            end += 1
        if end == len(self.moves) or self.moves[end].call != number:
            return None
        self._next = end
        return self.moves[start:end]

    def _in_stage(self) -> bool:
        return self._next < len(self.moves) and self.moves[self._next].stage == self._stage


def units_of(move: Move, count: int) -> range | tuple[int, ...]:
    """Return the numbers of the units that a move concerns, of a component with `count` blocks."""
    return range(OUTSIDE, count) if move.block is None else (move.block,)
