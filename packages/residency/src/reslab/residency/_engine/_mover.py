"""The mover: it fetches, waits for and evicts units, and its ledger says what is where.

Every public method leaves a ledger that is true, or one unit marked as turning, which `heal` points once more. An
interrupt is held back while a unit turns; one that comes by another way than a signal is healed by the next touch.

    mover.fetch([unit], stage="denoise")        # issued; goes on at once
    mover.wait([unit])                          # now it can compute
    mover.evict([unit])                         # by re-pointing; nothing is copied but what somebody has written
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from reslab.residency._engine._interrupts import masked
from reslab.residency._engine._lanes import Copy, CopyLane, Ticket
from reslab.residency._engine._layout import boundary
from reslab.residency._engine._only_copy import OnlyCopy, give_up
from reslab.residency._engine._unit import Slot, Sources, Unit, Where
from reslab.residency._units import size_text
from reslab.stages import Kind, Observer


class Mover:
    """Moves units between host and device.

    Args:
        device: Where things compute.
        lane: Makes the copies.
        tell: Answers with where events go.
        sources: Says where weights wait.
        limit_bytes: The most that may be on the device; None leaves that to the device.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        lane: CopyLane,
        tell: Callable[[], Observer],
        sources: Sources,
        limit_bytes: int | None = None,
    ) -> None:
        self.device, self.lane, self.limit_bytes = device, lane, limit_bytes
        self._tell, self._sources = tell, sources
        self.units: list[Unit] = []
        self.slots: dict[str, dict[int, Slot]] = {}  # by component and number
        self.fetched_bytes: dict[str | None, int] = {}  # by stage, since the run began; None: before the first
        self.waited_s = 0.0
        self.peak_bytes = 0  # the most that `held_bytes` has been, since the run began
        #: Units into whose weights somebody has written what could not be kept.
        self.lost_writes: list[str] = []
        self._turning: Unit | None = None

    def fetch(self, units: Sequence[Unit], *, stage: str | None, slot: int | None = None, slot_bytes: int = 0) -> None:
        """Issue the copy of units to the device, in one piece; those that are there, or on their way, are left out.

        Args:
            units: Of one component.
            stage: The stage that they are for; None before the first.
            slot: The slot to copy a single unit into; None gives each memory of its own.
            slot_bytes: Bytes of a slot, where it is not there yet.

        Raises:
            torch.OutOfMemoryError: If the device has no memory for them.
        """
        wanted = [unit for unit in units if unit.where in (Where.UNTOUCHED, Where.AWAY) and unit.is_known]
        if not wanted:
            return
        for needed in (each for unit in wanted for each in unit.needs):
            with masked():
                self._turn(needed, lambda unit: unit.adopt(self._sources))
        with masked():
            self.keep_writes(wanted)
            for unit in wanted:
                unit.renew(self._sources)
            own = self._slot(wanted, slot, slot_bytes) if slot is not None else None
            targets = [own.buffer] if own is not None else self._targets(wanted)
            nbytes = sum(unit.nbytes for unit in wanted)
            name = wanted[0].name if len(wanted) == 1 and wanted[0].number >= 0 else wanted[0].component
            pairs = zip(wanted, targets, strict=True)
            parts = tuple(part for unit, target in pairs if not unit.is_in_place for part in unit.source.parts(target))
            copy = Copy(
                name=f"{name}@{stage}" if stage else name, nbytes=nbytes, parts=parts, tell=self._tell(), copied=give_up
            )
            ticket = self.lane.issue(copy)
            for unit, target in zip(wanted, targets, strict=True):
                self._turn(unit, partial(Unit.begin_fetch, target=target, ticket=ticket, slot=own))
            if own is None:
                self._see_peak()
            self.fetched_bytes[stage] = self.fetched_bytes.get(stage, 0) + nbytes

    def wait(self, units: Iterable[Unit]) -> None:
        """Go on when units have arrived, and let their parameters be what has arrived."""
        for unit in units:
            if unit.where is not Where.ARRIVING:
                continue
            assert unit.ticket is not None
            if not unit.ticket.done():
                self._stall(unit)
            unit.ticket.wait()
            with masked():
                self._turn(unit, lambda unit: unit.arrive(self._sources))

    def evict(self, units: Iterable[Unit]) -> None:
        """Let go of units on the device; a copy under way is given up. What is in a slot leaves it to the next."""
        leaving = [unit for unit in units if unit.where in (Where.ARRIVING, Where.DEVICE)]
        for unit in leaving:
            if unit.ticket is not None:
                self._stop_copy(unit.ticket, leaving)
            with masked():
                self.keep_writes([unit])
                self._turn(unit, lambda unit: unit.leave(self._sources))

    def evict_lost(self) -> None:
        """Let go of units whose copy a former run gave up, or whose copy failed with nobody waiting for it."""
        self.evict(unit for unit in self.units if unit.ticket is not None and unit.ticket.is_lost())

    def empty_slots(self, component: str) -> None:
        """Let go of what streamed through the slots of a component, and of the slots."""
        self.evict(unit for unit in self.units if unit.component == component and unit.slot is not None)
        self.slots.pop(component, None)

    def stop(self) -> None:
        """Stop all copies, and release the slots and what is in them."""
        self.heal()
        self.evict(unit for unit in self.units if unit.where is Where.ARRIVING or unit.slot is not None)
        self.slots.clear()
        self.lane.drain()

    def put_back(self, units: Iterable[Unit]) -> None:
        """Let parameters hold their weights where those were before, one unit after the other."""
        units = list(units)
        self.evict(unit for unit in units if unit.where is Where.ARRIVING)
        for unit in units:
            self.evict([unit])
            with masked():
                self.keep_writes([unit])
                self._turn(unit, lambda unit: unit.put_back())

    def renew(self) -> None:
        """Have what is on the device wait, from now on, where the plan in force says: what stays gives up its copy."""
        for unit in self.units:
            if unit.is_here:
                with masked():
                    self.keep_writes([unit])
                    self._turn(unit, lambda unit: unit.renew(self._sources))

    def keep_writes(self, units: Iterable[Unit]) -> None:
        """Keep what somebody has written into the weights of units, and note where that cannot be."""
        self.lost_writes.extend(unit.name for unit in units if unit.keep_writes())

    def told_lost(self) -> str | None:
        """Return in a sentence which writes were lost since this was last asked, None if none was."""
        names, self.lost_writes = dict.fromkeys(self.lost_writes), []
        if not names:
            return None
        return (
            f"the weights of {', '.join(map(repr, names))} were written while they were not on the device, so what was "
            "written is lost; write into weights before the residency's `with` block, or after it"
        )

    def show(self, units: Iterable[Unit]) -> None:
        """Let parameters be what these units have, by re-pointing, where others have the same parameters."""
        hidden = [unit for unit in units if not unit.is_front]
        with masked():
            for unit in hidden:
                self._turn(unit, Unit.show)

    def show_bases(self) -> None:
        """Let every parameter be its component's own again."""
        self.show({id(unit.front): unit.front.base for unit in self.units if unit.front is not None}.values())

    def heal(self) -> None:
        """Finish the turn of a unit that was interrupted."""
        if self._turning is not None:
            self._turning.heal()
            self._turning = None

    def here(self, component: str | None = None) -> Iterator[Unit]:
        """Yield the units that have memory on the device, or those of one component."""
        return (
            unit
            for unit in self.units
            if unit.where in (Where.ARRIVING, Where.DEVICE) and component in (None, unit.component)
        )

    def held_bytes(self, component: str | None = None) -> int:
        """Return the bytes of device memory held, slots included, by all or by one component."""
        slots = [slot for name, pool in self.slots.items() if component in (None, name) for slot in pool.values()]
        units = (unit for unit in self.units if component in (None, unit.component) and unit.slot is None)
        return sum(slot.buffer.nbytes for slot in slots) + sum(unit.held_bytes for unit in units)

    def _stop_copy(self, ticket: Ticket, leaving: Sequence[Unit]) -> None:
        """See that a copy to units that leave ends: given up, unless other units came in the same piece and stay."""
        others = (unit for unit in self.units if unit.ticket is ticket)
        if all(unit in leaving for unit in others):
            ticket.abandon()
        else:
            ticket.settle()

    def _targets(self, units: Sequence[Unit]) -> list[torch.Tensor]:
        """Return memory on the device for each unit; all or nothing."""
        self._check_room(sum(unit.layout.nbytes for unit in units))
        return [self._room(unit) for unit in units]

    def _room(self, unit: Unit) -> torch.Tensor:
        """Return memory on the device of a unit's own; none, if its weights lie there already."""
        if not isinstance(unit.source, OnlyCopy):
            return self._allocate(unit.layout.nbytes)
        if unit.is_in_place:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        target, nbytes = unit.source.target, unit.layout.nbytes
        return self._counted(nbytes, lambda: target(lambda: self._empty(nbytes)))

    def _slot(self, units: Sequence[Unit], number: int, slot_bytes: int) -> Slot:
        """Return a slot for a single unit, allocated if it is not there, or too small."""
        (unit,) = units
        pool = self.slots.setdefault(unit.component, {})
        if number not in pool or pool[number].buffer.nbytes < unit.layout.nbytes:
            pool.pop(number, None)
            pool[number] = Slot(number, self._allocate(max(slot_bytes, unit.layout.nbytes)))
            self._see_peak()
        return pool[number]

    def _check_room(self, nbytes: int) -> None:
        if self.limit_bytes is not None and nbytes > (free := self.limit_bytes - self.held_bytes()):
            raise torch.OutOfMemoryError(
                f"Tried to allocate {size_text(nbytes)} ({nbytes} bytes), {size_text(free)} were free"
            )

    def _allocate(self, nbytes: int) -> torch.Tensor:
        return self._counted(nbytes, lambda: self._empty(nbytes))

    def _counted(self, nbytes: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        self._check_room(nbytes)
        buffer = make()
        assert buffer.data_ptr() % boundary(self.device) == 0
        return buffer

    def _see_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.held_bytes())

    def _empty(self, nbytes: int) -> torch.Tensor:
        with torch.inference_mode(False):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def _stall(self, unit: Unit) -> None:
        assert unit.ticket is not None
        tell, begun = self._tell(), time.perf_counter()
        tell.begin(Kind.WAIT, unit.name)
        try:
            unit.ticket.wait()
        except BaseException as error:
            tell.end(error)
            raise
        finally:
            self.waited_s += time.perf_counter() - begun
        tell.end()

    def _turn(self, unit: Unit, change: Callable[[Unit], object]) -> None:
        self._turning = unit
        change(unit)
        self._turning = None
