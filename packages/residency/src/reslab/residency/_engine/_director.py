"""The director: it moves weights for the calls and blocks of a run, by the schedule or on demand.

It follows the schedule while the run does what is scheduled. Where a stage deviates, the director logs that once,
fetches on demand until the stage ends, and resumes the schedule at the next border. A first run has no schedule, so all
of it is on demand; its calls are recorded and become the schedule of the next. Either way the device holds the weights
that are about to compute, and no more than the plan allows; on demand, nothing is prefetched.

    director.begin_run()
    director.enter("denoise")
    director.begin_call(transformer, "forward"); director.use(transformer, 0); director.end_call()
    director.leave("denoise")
    director.end_run()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from reslab.residency._engine._component import WHOLE, Component
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._schedule_cursor import Moves, ScheduleCursor, units_of
from reslab.residency._engine._unit import Unit, Where
from reslab.residency._errors import ResidencyError, WeightsAbsent
from reslab.residency._plan._placement import Placement
from reslab.residency._plan._workload import Call
from reslab.residency._schedule._kept_units import OUTSIDE, kept_part
from reslab.residency._schedule._schedule import Act, Move
from reslab.residency._schedule._slots import free_slot

logger = logging.getLogger(__name__)


#: Methods of a component itself; any other called name is the path of a module inside it.
METHODS = ("forward", "encode", "decode")
#: Method of a recorded call where a stage uses parts of a component without calling it.
DIRECT = "parts"


class RunningCall(NamedTuple):
    """A call of the run, and the blocks that it has run so far."""

    stage: str
    component: Component
    method: str
    blocks: list[int]


class Director:
    """Moves the weights that a run needs.

    Args:
        mover: Makes the moves.
        components: The components by name; `ManagedComponents` fills the mapping.
    """

    def __init__(self, mover: Mover, components: Mapping[str, Component]) -> None:
        self._mover, self._components = mover, components
        self._demand = OnDemand(mover)
        self._calls: list[RunningCall] = []
        self._under_way: list[RunningCall] = []
        self.cursor: ScheduleCursor | None = None
        self.stage: str | None = None
        self._is_noted = False
        self._direct: RunningCall | None = None
        self._announced: RunningCall | None = None
        #: While a stock pipeline's call is under way: begins the section that a component belongs to.
        self.touch: Callable[[str], None] | None = None
        #: Deviations from plan and schedule, as sentences.
        self.notes: list[str] = []

    @property
    def calls(self) -> tuple[Call, ...]:
        """Return the calls of the run so far."""
        return tuple(
            Call(stage=each.stage, component=each.component.name, method=each.method, blocks=tuple(each.blocks))
            for each in self._calls
        )

    def begin_run(self) -> None:
        """Fetch the units scheduled before the first stage, and evict all others."""
        self._calls.clear()
        self._direct = None
        self._mover.fetched_bytes.clear()
        self._mover.evict_lost()  # they would be taken for units on their way
        self.keep_only(None)
        self._execute(self._the_cursor.set_up())

    def enter(self, stage: str) -> None:
        """Make the moves at the border before a stage."""
        self.stage, self._is_noted = stage, False
        self._under_way.clear()
        self._announced = None
        self._demand.reset()
        self._execute(self._the_cursor.border(stage))
        for component in self._components.values():  # nothing, unless an error or a leaner plan came in between
            needed = sorted(self._the_cursor.needs(component.name, stage))
            self._mover.fetch([component.units[number] for number in needed], stage=stage)

    def leave(self, stage: str) -> None:
        """Make the moves at the end of a stage."""
        moves = self._the_cursor.rest(stage)
        if moves is not None:
            self._execute(moves)
        else:
            self._note_deviation(f"{stage} ended without a call that was scheduled")
        self._empty_slots()  # the account counts slots in their own stage alone
        self.keep_only(stage)

    def end_run(self) -> None:
        """Evict the units that do not stay for the next run."""
        self.keep_only(None)

    def release(self, calls: int) -> None:
        """Evict every unit that does not stay between runs, and drop the recorded calls from that number on."""
        self._mover.heal()
        for component in self._components.values():  # an error inside a merged call may have left it active
            component.deactivate()
        self._mover.evict([unit for unit in self._mover.units if unit.where is Where.ARRIVING])
        self._empty_slots()
        self.keep_only(None)
        del self._calls[calls:]
        self._under_way.clear()

    def keep_only(self, stage: str | None) -> None:
        """Evict the units that are not kept in a stage, or between runs (None)."""
        for component in self._components.values():
            keeps = self._the_cursor.keeps(component.name, stage)
            self._mover.evict([unit for number, unit in component.units.items() if number not in keeps])
        self._mover.show_bases()

    def begin_call(self, component: Component, method: str) -> bool:
        """Fetch the weights that a call needs; return False for a call inside another of the same component."""
        announced, self._announced = self._announced, None
        if announced is not None and (announced.component, announced.method) == (component, method):
            self._under_way.append(announced)
            return True
        if self.stage is None or any(each.component is component for each in self._under_way):
            return False
        begun = RunningCall(self.stage, component, method, [])
        self._calls.append(begun)
        self._follow(self._the_cursor.call(component.name, method), f"{component.name}.{method} in {self.stage}")
        if not all(unit.is_on_device for unit in kept_units(component, self._placement(component))):
            self._demand.call(component, self._placement(component), self.stage)
        self._mover.show(component.units.values())
        self._under_way.append(begun)
        return True

    def end_call(self) -> None:
        """Record that the innermost call has ended."""
        if self._under_way:
            self._under_way.pop()

    def use(self, component: Component, number: int, path: str = "") -> None:
        """Fetch the unit that is about to compute: a block, or (OUTSIDE) the weights outside the blocks.

        Args:
            component: The component.
            number: The block.
            path: The path of the module, where it is called from outside the component and its call follows.

        Raises:
            WeightsAbsent: Outside of a run, where weights are away.
            ResidencyError: For a part used without a call while a LoRA is on that is to be merged.
        """
        self._mover.heal()
        unit = component.units[OUTSIDE if number == WHOLE else number]
        if self.touch is not None and self.stage is None:
            if number == WHOLE:
                return  # its forward, which comes next, begins a section
            self.touch(component.name)
        if path and number != WHOLE and self.stage is not None:
            self._announce(component, number, path)
            return
        if self.stage is None:
            if unit.where in (Where.AWAY, Where.ARRIVING) or (unit.has_unknown and not unit.is_on_device):
                raise WeightsAbsent(
                    f"the weights of {unit.name!r} are not on the device: no stage is under way; call it inside "
                    "pipeline.run(…), or leave the residency's `with` block first"
                )
            return
        if number == WHOLE:
            return  # its forward is a call, which comes next
        begun = self._call_of(component)
        if number != OUTSIDE and begun.blocks[-1:] != [number]:  # a block may be entered by several of its modules
            begun.blocks.append(number)
            self._follow(self._the_cursor.block(number), f"{unit.name} in {self.stage}")
        if not unit.is_on_device:
            self._fetch_now(component, number)

    def _announce(self, component: Component, number: int, path: str) -> None:
        """Begin the call of a module inside before it comes: hooks of others on the module may look at its weights."""
        refuse_lora(component)
        if self.begin_call(component, path):
            self.use(component, number)
            self._announced = self._under_way.pop()

    def _call_of(self, component: Component) -> RunningCall:
        """Return the call that a module runs in: one under way, or a new one where a stage uses parts directly."""
        for begun in reversed(self._under_way):
            if begun.component is component:
                return begun
        if not self._calls or self._calls[-1] is not self._direct or self._direct.component is not component:
            refuse_lora(component)
            self.begin_call(component, DIRECT)
            self._direct = self._under_way.pop()
        return self._direct

    def _fetch_now(self, component: Component, number: int) -> None:
        assert self.stage is not None
        placement = self._placement(component)
        self._demand.call(component, placement, self.stage)
        if number != OUTSIDE:
            self._demand.block(component, number, placement, self.stage)

    def _follow(self, moves: Moves | None, what: str) -> None:
        if moves is None:
            self._note_deviation(what)
        else:
            self._execute(moves)

    def _execute(self, moves: Moves) -> None:
        for move in moves:
            component = self._components[move.component]
            units = [component.units[number] for number in units_of(move, len(component.blocks))]
            if move.act is Act.FETCH:
                slot_bytes = 0 if move.slot is None else self._slot_bytes(component, move)
                self._mover.fetch(units, stage=move.stage, slot=move.slot, slot_bytes=slot_bytes)
            elif move.act is Act.EVICT:
                self._mover.evict(units)
            elif move.act is Act.WAIT:
                self._mover.wait(units)

    def _slot_bytes(self, component: Component, move: Move) -> int:
        assert move.stage is not None
        if move.slot in self._mover.slots.get(component.name, ()):
            return 0
        return component.slot_bytes(self._the_cursor.streamed(component.name, move.stage))

    def _note_deviation(self, what: str) -> None:
        """Log a deviation from the schedule once per stage; a first run has no schedule, so nothing is logged."""
        if self._is_noted or not self._the_cursor.workload.calls:
            return
        self._is_noted = True
        self.notes.append(f"not as scheduled, so weights were fetched on demand until the stage ended: {what}")
        logger.warning(self.notes[-1])

    def _empty_slots(self) -> None:
        for component in self._components:
            self._mover.empty_slots(component)

    def _placement(self, component: Component) -> Placement:
        return self._the_cursor.plan.placement(component.name, self.stage)

    @property
    def _the_cursor(self) -> ScheduleCursor:
        assert self.cursor is not None
        return self.cursor


def refuse_lora(component: Component) -> None:
    """Refuse parts used without a call while a LoRA to be merged is on: they would add it on the fly.

    Raises:
        ResidencyError: If it is on.
    """
    if component.lora.is_on:
        raise ResidencyError(
            f"a stage uses parts of {component.name!r} without calling it, while its LoRA is on; with lora='merged' "
            "only whole calls compute with the merged weights: call the component, or take lora='dynamic'"
        )


class OnDemand:
    """Fetches the weights of a call or a block when it comes, without a schedule."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._recent: dict[str, list[Unit]] = {}  # streamed blocks of a component, the last used at the end

    def call(self, component: Component, placement: Placement, stage: str) -> None:
        """Fetch the units that a component keeps on the device while it runs."""
        units = kept_units(component, placement)
        self._mover.fetch(units, stage=stage)
        self._mover.wait(units)

    def block(self, component: Component, number: int, placement: Placement, stage: str) -> None:
        """Fetch a block, into a slot if it streams."""
        unit, stays = component.units[number], kept_part(placement, len(component.blocks))
        if number in stays:
            self._mover.fetch([unit], stage=stage)
        else:
            recent = self._recent.setdefault(component.name, [])
            recent[:] = [each for each in recent if each is not unit]
            if unit not in self._mover.on_device(component.name):
                slot = self._free_slot(component, placement)
                # the largest block that does not stay: without a schedule, the blocks that the stage runs are unknown
                slot_bytes = component.slot_bytes(component.units.keys() - stays)
                self._mover.fetch([unit], stage=stage, slot=slot, slot_bytes=slot_bytes)
            recent.append(unit)
        self._mover.wait([unit])

    def reset(self) -> None:
        """Forget the order of use; a stage begins."""
        self._recent.clear()

    def _free_slot(self, component: Component, placement: Placement) -> int:
        """Return a free slot; where there is none, evict the least recently used block.

        The rule is that of the schedule, `free_slot`, but without the blocks that come next, which are unknown. The
        contents of the slots come from the mover's ledger, since the stage may have followed the schedule until now.
        """
        streamed = [unit for unit in self._mover.on_device(component.name) if unit.slot is not None]
        recent = self._recent[component.name]
        streamed.sort(key=lambda unit: recent.index(unit) if unit in recent else -1)
        held = {unit.number: unit.slot.number for unit in streamed if unit.slot is not None}
        evicted, slot = free_slot(held, placement.slots)
        if evicted is not None:
            self._mover.evict([component.units[evicted]])
        return slot


def kept_units(component: Component, placement: Placement) -> list[Unit]:
    """Return the units that a component keeps on the device while it runs."""
    return [component.units[number] for number in sorted(kept_part(placement, len(component.blocks)))]
