"""On demand: what a call or a block needs is fetched when it comes, where nothing was foreseen.

The first run, whose calls nobody knows yet, goes this way, and so does the rest of a stage that did something else
than the schedule says. The places are the plan's, and no more is on the device than it allows; only nothing is
fetched ahead.
"""

from __future__ import annotations

from reslab.residency._engine._component import Component
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._unit import Unit
from reslab.residency._plan._keep import kept_part
from reslab.residency._plan._placement import Placement
from reslab.residency._plan._slots import free_slot


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
