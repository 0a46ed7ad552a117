"""The director: what a run does next, and what is to be moved for it.

It follows the script; where the run does something else, it says so once a stage, fetches on demand, and takes up the
script again at the next border. Either way it has on the device what is about to compute, and no more than the plan
allows. The calls of a run are noted, and are the script of the next.

On demand: what a call or a block needs is fetched when it comes, where nothing was foreseen.

The first run, whose calls nobody knows yet, goes this way, and so does the rest of a stage that did something else
than the schedule says. The places are the plan's, and no more is on the device than it allows; only nothing is
fetched ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from reslab.residency._engine._component import WHOLE, Component
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._script import Moves, Script, pieces
from reslab.residency._engine._unit import Unit, Where
from reslab.residency._errors import ResidencyError, WeightsAbsent
from reslab.residency._plan._placement import Placement
from reslab.residency._plan._workload import Call
from reslab.residency._schedule._kept_units import OUTSIDE, kept_part
from reslab.residency._schedule._schedule import Act, Move
from reslab.residency._schedule._slots import free_slot

logger = logging.getLogger(__name__)


#: Methods of a component itself; all else that is called is a part, by its path.
METHODS = ("forward", "encode", "decode")
#: Stands for the method of a call where a stage uses parts of a component without calling it.
DIRECT = "parts"


class Begun(NamedTuple):
    """A call under way, and the blocks that it has run."""

    stage: str
    component: Component
    method: str
    blocks: list[int]


class Director:
    """Moves what a run needs.

    Args:
        mover: Moves it.
        components: By name; filled by its caller.
    """

    def __init__(self, mover: Mover, components: Mapping[str, Component]) -> None:
        self._mover, self._components = mover, components
        self._demand = Demand(mover)
        self._calls: list[Begun] = []
        self._under_way: list[Begun] = []
        self.script: Script | None = None
        self.stage: str | None = None
        self._is_told = False
        self._direct: Begun | None = None
        self._announced: Begun | None = None
        #: While a stock pipeline's call is under way: begins the section that a component suggests.
        self.touch: Callable[[str], None] | None = None
        #: What was not as foreseen, as sentences.
        self.notes: list[str] = []

    @property
    def calls(self) -> tuple[Call, ...]:
        """Return the calls of the run so far."""
        return tuple(
            Call(stage=each.stage, component=each.component.name, method=each.method, blocks=tuple(each.blocks))
            for each in self._calls
        )

    def begin_run(self) -> None:
        """Have on the device what is resident before the first stage, and nothing else."""
        self._calls.clear()
        self._direct = None
        self._mover.fetched_bytes.clear()
        self._mover.evict_lost()
        self.keep_only(None)
        self._execute(self._the_script.set_up())

    def enter(self, stage: str) -> None:
        """Make the moves at the border before a stage."""
        self.stage, self._is_told = stage, False
        self._under_way.clear()
        self._announced = None
        self._demand.forget()
        self._execute(self._the_script.border(stage))
        for component in self._components.values():  # nothing, unless an error or a leaner plan came in between
            needed = sorted(self._the_script.needs(component.name, stage))
            self._mover.fetch([component.units[number] for number in needed], stage=stage)

    def leave(self, stage: str) -> None:
        """Make the moves at the end of a stage."""
        moves = self._the_script.rest(stage)
        if moves is not None:
            self._execute(moves)
        else:
            self._note_off(f"{stage} ended without a call that was foreseen")
        self._empty_slots()
        self.keep_only(stage)

    def end_run(self) -> None:
        """Let go of what does not stay for the next run."""
        self.keep_only(None)

    def let_go(self, calls: int) -> None:
        """Let go of everything that does not stay, whatever has happened, and forget calls from that number on."""
        self._mover.heal()
        for component in self._components.values():
            component.step_back()
        self._mover.evict([unit for unit in self._mover.units if unit.where is Where.ARRIVING])
        self._empty_slots()
        self.keep_only(None)
        del self._calls[calls:]
        self._under_way.clear()

    def keep_only(self, stage: str | None) -> None:
        """Evict what is not kept in a stage; None: outside of runs."""
        for component in self._components.values():
            keeps = self._the_script.keeps(component.name, stage)
            self._mover.evict([unit for number, unit in component.units.items() if number not in keeps])
        self._mover.show_bases()

    def begin_call(self, component: Component, method: str) -> bool:
        """Have on the device what a call needs; False for a call inside another one of the same component."""
        announced, self._announced = self._announced, None
        if announced is not None and (announced.component, announced.method) == (component, method):
            self._under_way.append(announced)
            return True
        if self.stage is None or any(each.component is component for each in self._under_way):
            return False
        begun = Begun(self.stage, component, method, [])
        self._calls.append(begun)
        self._follow(self._the_script.call(component.name, method), f"{component.name}.{method} in {self.stage}")
        if not all(unit.is_here for unit in kept(component, self._placement(component))):
            self._demand.call(component, self._placement(component), self.stage)
        self._mover.show(component.units.values())
        self._under_way.append(begun)
        return True

    def end_call(self) -> None:
        """Note that the innermost call has ended."""
        if self._under_way:
            self._under_way.pop()

    def use(self, component: Component, number: int, path: str = "") -> None:
        """Have on the device what is about to compute: a block, or (OUTSIDE) a module outside the blocks.

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
            if unit.where in (Where.AWAY, Where.ARRIVING) or (unit.has_unknown and not unit.is_here):
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
            self._follow(self._the_script.block(number), f"{unit.name} in {self.stage}")
        if not unit.is_here:
            self._fetch_now(component, number)

    def _announce(self, component: Component, number: int, path: str) -> None:
        """Begin the call of a part before it comes: hooks of others on the part may look at its weights."""
        refuse_lora(component)
        if self.begin_call(component, path):
            self.use(component, number)
            self._announced = self._under_way.pop()

    def _call_of(self, component: Component) -> Begun:
        """Return the call that a module runs in: one under way, or where a stage uses parts directly, one made up."""
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
            self._note_off(what)
        else:
            self._execute(moves)

    def _execute(self, moves: Moves) -> None:
        for move in moves:
            component = self._components[move.component]
            units = [component.units[number] for number in pieces(move, len(component.blocks))]
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
        return component.slot_bytes(self._the_script.streamed(component.name, move.stage))

    def _note_off(self, what: str) -> None:
        """Say once a stage that it did something else than was foreseen; of a run that was not foreseen, nothing."""
        if self._is_told or not self._the_script.workload.calls:
            return
        self._is_told = True
        self.notes.append(f"not as foreseen, so weights were fetched on demand until the stage ended: {what}")
        logger.warning(self.notes[-1])

    def _empty_slots(self) -> None:
        for component in self._components:
            self._mover.empty_slots(component)

    def _placement(self, component: Component) -> Placement:
        return self._the_script.plan.placement(component.name, self.stage)

    @property
    def _the_script(self) -> Script:
        assert self.script is not None
        return self.script


def refuse_lora(component: Component) -> None:
    """Refuse parts that are used without a call while a LoRA is on that is to be merged: they would add it on the fly.

    Raises:
        ResidencyError: If it is on.
    """
    if component.lora.is_on:
        raise ResidencyError(
            f"a stage uses parts of {component.name!r} without calling it, while its LoRA is on; with lora='merged' "
            "only whole calls compute with the merged weights: call the component, or take lora='dynamic'"
        )


class Demand:
    """Fetches what is needed now."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._recent: dict[str, list[Unit]] = {}  # streamed blocks of a component, the one used last at the end

    def call(self, component: Component, placement: Placement, stage: str) -> None:
        """Have on the device what a component keeps there while it runs."""
        units = kept(component, placement)
        self._mover.fetch(units, stage=stage)
        self._mover.wait(units)

    def block(self, component: Component, number: int, placement: Placement, stage: str) -> None:
        """Have a block on the device, in a slot if it streams."""
        unit, stays = component.units[number], kept_part(placement, len(component.blocks))
        if number in stays:
            self._mover.fetch([unit], stage=stage)
        else:
            recent = self._recent.setdefault(component.name, [])
            recent[:] = [each for each in recent if each is not unit]
            if unit not in self._mover.here(component.name):
                slot = self._free_slot(component, placement)
                # of all blocks that do not stay: which of them the stage will run, as a script knows it, is not known
                slot_bytes = component.slot_bytes(component.units.keys() - stays)
                self._mover.fetch([unit], stage=stage, slot=slot, slot_bytes=slot_bytes)
            recent.append(unit)
        self._mover.wait([unit])

    def forget(self) -> None:
        """Begin anew, as a stage does."""
        self._recent.clear()

    def _free_slot(self, component: Component, placement: Placement) -> int:
        """Return a slot that holds nothing, taking it from the block used longest ago where there is none.

        The rule is that of the schedule, `free_slot`; what is in the slots, the ledger says, since a stage may have
        followed the schedule until now. Only which blocks come next is not known, so none is spared for that.
        """
        streamed = [unit for unit in self._mover.here(component.name) if unit.slot is not None]
        recent = self._recent[component.name]
        streamed.sort(key=lambda unit: recent.index(unit) if unit in recent else -1)
        held = {unit.number: unit.slot.number for unit in streamed if unit.slot is not None}
        evicted, slot = free_slot(held, placement.slots)
        if evicted is not None:
            self._mover.evict([component.units[evicted]])
        return slot


def kept(component: Component, placement: Placement) -> list[Unit]:
    """Return the units that a component keeps on the device while it runs."""
    return [component.units[number] for number in sorted(kept_part(placement, len(component.blocks)))]
