"""The mover: it fetches units, waits for them and evicts them, and keeps the ledger of slots and bytes on the device.

    mover.fetch([unit], stage="denoise")        # issues the copy and returns
    mover.wait([unit])                          # now the unit can compute
    mover.evict([unit])                         # re-points the parameters; copies only writes

Every public method leaves a true ledger, or one unit marked as turning. Interrupts by signal wait while a unit turns.
Another exception inside leaves the mark, and `heal`, which every entry of the engine calls first, completes the turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from reslab.residency._engine._interrupts import masked
from reslab.residency._engine._lanes import Copy, CopyLane, Ticket
from reslab.residency._engine._layout import boundary
from reslab.residency._engine._only_copy import OnlyCopy, release_part
from reslab.residency._engine._unit import Slot, SourceProvider, Unit, Where
from reslab.residency._units import size_text
from reslab.stages import Kind, Observer


class Mover:
    """Moves units between host and device.

    Args:
        device: The device that computes.
        lane: The lane that makes the copies.
        tell: Returns the observer of events.
        sources: Provides the sources of units.
        limit_bytes: Most bytes of weights allowed on the device; None for no limit.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        lane: CopyLane,
        tell: Callable[[], Observer],
        sources: SourceProvider,
        limit_bytes: int | None = None,
    ) -> None:
        self.device, self.lane, self.limit_bytes = device, lane, limit_bytes
        self._tell, self._sources = tell, sources
        self.units: list[Unit] = []
        self.slots: dict[str, dict[int, Slot]] = {}  # by component and number
        self.fetched_bytes: dict[str | None, int] = {}  # by stage, since the run began; None: before the first
        self.waited_s = 0.0
        self.peak_bytes = 0  # highest `held_bytes` since the run began
        #: Names of units with a write that was lost.
        self.lost_writes: list[str] = []
        self._turning: Unit | None = None

    def fetch(self, units: Sequence[Unit], *, stage: str | None, slot: int | None = None, slot_bytes: int = 0) -> None:
        """Issue one copy of units to the device; units that are there, or on their way, are left out.

        Args:
            units: Units of one component.
            stage: The stage that needs them; None before the first.
            slot: The slot to copy a single unit into; None gives each unit memory of its own.
            slot_bytes: Bytes to allocate for a slot that does not exist yet.

        Raises:
            torch.OutOfMemoryError: If the device has no memory for them.
        """
        wanted = [unit for unit in units if unit.where in (Where.UNTOUCHED, Where.AWAY) and unit.is_known]
        if not wanted:
            return
        for needed in (each for unit in wanted for each in unit.needs):
            with masked():  # one unit at a time: adopting copies its weights, and an interrupt should not wait for all
                self._turn(needed, lambda unit: unit.adopt(self._sources))
        with masked():
            self.keep_writes(wanted)  # before the copy reads the source
            for unit in wanted:
                unit.renew(self._sources)
            own = self._slot(wanted, slot, slot_bytes) if slot is not None else None
            targets = [own.buffer] if own is not None else self._targets(wanted)
            nbytes = sum(unit.nbytes for unit in wanted)
            name = wanted[0].name if len(wanted) == 1 and wanted[0].number >= 0 else wanted[0].component
            pairs = zip(wanted, targets, strict=True)
            parts = tuple(part for unit, target in pairs if not unit.is_in_place for part in unit.source.parts(target))
            copy = Copy(
                name=f"{name}@{stage}" if stage else name,
                nbytes=nbytes,
                parts=parts,
                tell=self._tell(),
                copied=release_part,
            )
            ticket = self.lane.issue(copy)
            for unit, target in zip(wanted, targets, strict=True):
                self._turn(unit, partial(Unit.begin_fetch, target=target, ticket=ticket, slot=own))
            if own is None:
                self._record_peak()
            self.fetched_bytes[stage] = self.fetched_bytes.get(stage, 0) + nbytes

    def wait(self, units: Iterable[Unit]) -> None:
        """Wait until units have arrived, and point their parameters at the weights on the device."""
        for unit in units:
            if unit.where is not Where.ARRIVING:
                continue
            assert unit.ticket is not None
            if not unit.ticket.done():  # only a wait that takes time is an event
                self._stall(unit)
            unit.ticket.wait()
            with masked():
                self._turn(unit, lambda unit: unit.arrive(self._sources))

    def evict(self, units: Iterable[Unit]) -> None:
        """Evict units from the device; a copy under way is abandoned."""
        leaving = [unit for unit in units if unit.where in (Where.ARRIVING, Where.DEVICE)]
        for unit in leaving:
            if unit.ticket is not None:
                self._stop_copy(unit.ticket, leaving)
            with masked():
                self.keep_writes([unit])
                self._turn(unit, lambda unit: unit.leave(self._sources))

    def evict_lost(self) -> None:
        """Evict units whose copy a former run abandoned, or whose copy failed before anything waited for it."""
        self.evict(unit for unit in self.units if unit.ticket is not None and unit.ticket.is_lost())

    def empty_slots(self, component: str) -> None:
        """Evict the units in the slots of a component, and release the slots."""
        self.evict(unit for unit in self.units if unit.component == component and unit.slot is not None)
        self.slots.pop(component, None)

    def stop(self) -> None:
        """Stop all copies, evict the units in slots, and release the slots."""
        self.heal()
        self.evict(unit for unit in self.units if unit.where is Where.ARRIVING or unit.slot is not None)
        self.slots.clear()
        self.lane.drain()

    def restore(self, units: Iterable[Unit]) -> None:
        """Restore units, one after the other: their parameters hold their weights as before the residency."""
        units = list(units)
        self.evict(unit for unit in units if unit.where is Where.ARRIVING)
        for unit in units:
            self.evict([unit])
            with masked():
                self.keep_writes([unit])
                self._turn(unit, lambda unit: unit.restore())

    def renew(self) -> None:
        """Give units on the device the source that the plan in force asks for; those that stay lose their host copy."""
        for unit in self.units:
            if unit.is_on_device:
                with masked():
                    self.keep_writes([unit])
                    self._turn(unit, lambda unit: unit.renew(self._sources))

    def keep_writes(self, units: Iterable[Unit]) -> None:
        """Copy writes into the weights of units to their sources, and record the units with lost writes."""
        self.lost_writes.extend(unit.name for unit in units if unit.keep_writes())

    def lost_writes_text(self) -> str | None:
        """Return a sentence about writes that were lost since the last call; None if none was."""
        names, self.lost_writes = dict.fromkeys(self.lost_writes), []
        if not names:
            return None
        return (
            f"the weights of {', '.join(map(repr, names))} were written while they were not on the device, so what was "
            "written is lost; write into weights before the residency's `with` block, or after it"
        )

    def show(self, units: Iterable[Unit]) -> None:
        """Bring units to the front of others with the same parameters, by re-pointing."""
        hidden = [unit for unit in units if not unit.is_front]
        with masked():
            for unit in hidden:
                self._turn(unit, Unit.show)

    def show_bases(self) -> None:
        """Bring the components' own units to the front of their merged copies."""
        self.show({id(unit.front): unit.front.base for unit in self.units if unit.front is not None}.values())

    def heal(self) -> None:
        """Complete the interrupted turn of a unit."""
        if self._turning is not None:
            self._turning.heal()
            self._turning = None

    def on_device(self, component: str | None = None) -> Iterator[Unit]:
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
        """End a copy to units that leave: abandon it, unless other units of the same copy stay."""
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
        """Return new memory on the device for a unit; an empty tensor if its weights lie there already."""
        if not isinstance(unit.source, OnlyCopy):
            return self._allocate(unit.layout.nbytes)
        if unit.is_in_place:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        target, nbytes = unit.source.target, unit.layout.nbytes
        return self._counted(nbytes, lambda: target(lambda: self._empty(nbytes)))

    def _slot(self, units: Sequence[Unit], number: int, slot_bytes: int) -> Slot:
        """Return a slot for a single unit; allocate it if it is missing or too small."""
        (unit,) = units
        pool = self.slots.setdefault(unit.component, {})
        if number not in pool or pool[number].buffer.nbytes < unit.layout.nbytes:
            pool.pop(number, None)
            pool[number] = Slot(number, self._allocate(max(slot_bytes, unit.layout.nbytes)))
            self._record_peak()
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

    def _record_peak(self) -> None:
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
