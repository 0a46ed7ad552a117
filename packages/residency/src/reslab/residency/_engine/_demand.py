"""On demand: what a call or a block needs is fetched when it comes, where nothing was foreseen.

The first run, whose calls nobody knows yet, goes this way, and so does the rest of a stage that did something else
than the schedule says. The places are the plan's, and no more is on the device than it allows; only nothing is
fetched ahead.
"""

from __future__ import annotations

from reslab.residency._engine._component import Component
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._unit import Unit
from reslab.residency._plan._keep import OUTSIDE
from reslab.residency._plan._placement import Placement


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
        unit, recent = component.units[number], self._recent.setdefault(component.name, [])
        if not placement.streams or number in placement.resident_blocks(len(component.blocks)):
            self._mover.fetch([unit], stage=stage)
        else:
            recent[:] = [each for each in recent if each is not unit]
            slot = None if unit in self._mover.here(component.name) else self._free_slot(component, placement)
            self._mover.fetch([unit], stage=stage, slot=slot, slot_bytes=slot_bytes(component, placement))
            recent.append(unit)
        self._mover.wait([unit])

    def forget(self) -> None:
        """Begin anew, as a stage does."""
        self._recent.clear()

    def _free_slot(self, component: Component, placement: Placement) -> int:
        """Return a slot that holds nothing, taking it from the block used longest ago where there is none."""
        streamed = [unit for unit in self._mover.here(component.name) if unit.slot is not None]
        taken = {unit.slot for unit in streamed}
        if len(taken) < placement.slots:
            return next(slot for slot in range(placement.slots) if slot not in taken)
        recent = self._recent[component.name]
        victim = min(streamed, key=lambda unit: recent.index(unit) if unit in recent else -1)
        slot = victim.slot
        assert slot is not None
        self._mover.evict([victim])
        return slot


def kept(component: Component, placement: Placement) -> list[Unit]:
    """Return the units that a component keeps on the device while it runs."""
    if not placement.streams:
        return list(component.units.values())
    numbers = (OUTSIDE, *sorted(placement.resident_blocks(len(component.blocks))))
    return [component.units[number] for number in numbers]


def slot_bytes(component: Component, placement: Placement) -> int:
    """Return what the largest block takes that does not stay."""
    stays = placement.resident_blocks(len(component.blocks))
    return max((component.units[i].layout.nbytes for i in range(len(component.blocks)) if i not in stays), default=0)
