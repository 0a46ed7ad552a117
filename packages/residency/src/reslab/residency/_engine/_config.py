"""The arguments of `apply` beside the plan, and what follows from them: the lane, and where weights wait.

Pinning: how much of what moves is pinned, as `footprint` accounts for it, and what happens where the system refuses.

What is pinned is copied to an accelerator at the full speed of the link. A system may let a process pin less than that,
or nothing: under WSL2, under a limit of locked memory. What is left waits in pageable memory, and a note says so.

    pins.share(footprint(plan, workload), units)     # whenever another plan, or another run, comes into force
    HostBuffer(layout, pin=pins.of(unit))
    pins.top_up(unit)                           # of what has host memory already
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._engine._checkpoint import Paths
from reslab.residency._engine._checks import Budget
from reslab.residency._engine._disk import Disk, DiskSource, Names
from reslab.residency._engine._lanes import CopyLane, Link, ThreadLane
from reslab.residency._engine._layout import HostBuffer, Pin, Source
from reslab.residency._engine._merge import MergedUnit
from reslab.residency._engine._only_copy import OnlyCopy
from reslab.residency._engine._unit import Unit
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._schedule._footprint import Footprint, HostBytes, footprint
from reslab.residency._units import size_text


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a plan is carried out.

    Args:
        device: Where things compute.
        link: What copies are held to.
        budget: What may be used.
        steps_down: Whether a leaner plan is tried when memory does not suffice.
        calls: The calls that are foreseen.
        blocks: Names of blocks by component, where they are not to be found.
        files: Safetensors files by component, for what is placed on disk.
        activations: Highest bytes alive besides weights, by stage, as far as they are known.
    """

    device: torch.device
    link: Link
    budget: Budget
    steps_down: bool = False
    calls: tuple[Call, ...] = ()
    blocks: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, Paths] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)

    @property
    def pins(self) -> bool:
        """Tell whether host memory of what moves is pinned."""
        return self.device.type != "cpu" and _accelerator.pinner(self.device) is not None

    def lane(self, *, reads_disk: bool) -> CopyLane:
        """Return the lane that makes the copies: a stream, or a thread where something has to be waited for."""
        if self.device.type == "cpu":
            return ThreadLane(throttle=self.link, clock=time.perf_counter)
        if reads_disk or self.link.is_limited:
            copy = _accelerator.blocking_copy(self.device)
            return ThreadLane(copy=copy, throttle=self.link, clock=time.perf_counter)
        return _accelerator.StreamLane(self.device)


class Sources:
    """Makes the places where weights wait: host memory, pinned as far as it may be, or disk; of what stays, nowhere.

    Which of these, the plan in force says, each time that a unit is fetched or leaves.

    Args:
        setting: Device, files, and what may be pinned.
        plan: The one at the beginning; a leaner one reads nothing from disk that this one does not.
        note: Says what is not as it was to be.
    """

    def __init__(self, setting: Setting, plan: Plan, *, note: Callable[[str], None]) -> None:
        self._setting, self.disk = setting, Disk(setting.files)
        self._reads_disk = any(placement.kind is Place.DISK for placement in plan.placements.values())
        self._from_disk: set[str] = set()
        self._settled: Mapping[str, frozenset[int]] = {}
        self._pins = Pins(setting.device, is_used=setting.pins, pinnable_bytes=setting.budget.pinned_bytes, note=note)
        self._window_bytes = 0
        self.names: dict[str, Names] = {}

    @property
    def reads_disk(self) -> bool:
        """Tell whether anything is read from disk."""
        return bool(self._setting.files) or self._reads_disk

    def lay(self, plan: Plan, workload: Workload, units: Sequence[Unit]) -> None:
        """Take a plan as it is laid over a run: what waits where, and how much of it is pinned."""
        account = footprint(plan, workload)
        self._from_disk = {name for name, each in account.waiting.items() if each.from_disk}
        self._settled = {name: each.settled for name, each in account.waiting.items()}
        from_disk = [unit for unit in units if unit.component in self._from_disk or unit.has_unknown]
        self._window_bytes = max((unit.layout.nbytes for unit in from_disk), default=0)
        self._pins.share(account, units)
        self.disk.window.pin = self._pins.window

    def renewed(self, unit: Unit) -> Source:
        """Return where a unit waits as the plan in force has it: where it waits now, if that is right."""
        source, stays = unit.source, self._stays(unit)
        if stays and isinstance(source, HostBuffer):
            return OnlyCopy(unit.layout, source.tensors, self._setting.device)
        if stays or unit.is_here:  # what is here and does not stay is asked about when it leaves
            return source
        if isinstance(source, OnlyCopy) or (isinstance(source, DiskSource) and unit.component not in self._from_disk):
            with torch.inference_mode(False), torch.no_grad():
                memory = HostBuffer(unit.layout, pin=self._pins.of(unit))
                memory.fill_from(source.tensors)
            return memory
        self._pins.top_up(unit)
        return source

    def left(self, unit: Unit) -> Source:
        """Return where a unit waits that leaves the device: if it was nowhere else, in memory that it is copied to."""
        source = unit.source
        if isinstance(source, OnlyCopy):
            return source.on_host(None if self._stays(unit) else self._pins.of(unit))
        return source

    def _stays(self, unit: Unit) -> bool:
        """Tell whether a unit stays on the device, so that it needs no second copy; what shares memory keeps one."""
        return unit.number in self._settled[unit.component] and unit.shared.users == 1

    def make(self, unit: Unit) -> Source:
        """Return where the weights of a unit wait from now on, copied there, or where they are now, if it stays."""
        name, is_settled = unit.component, self._stays(unit)
        pin = None if is_settled else self._pins.of(unit)
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(unit, MergedUnit):
                made = unit.make(pin=pin, disk=self.disk if name in self._from_disk else None)
                is_copy = is_settled and name not in self._from_disk
                return OnlyCopy(unit.layout, made.tensors, self._setting.device) if is_copy else made
            if name in self._from_disk or (is_settled and unit.has_unknown):
                self.disk.window.reserve(self._window_bytes)
                return self.disk.source(name, unit.layout, self.names[name])
            if is_settled:
                return OnlyCopy(unit.layout, unit.values, self._setting.device)
            return self.disk.memory(name, unit.layout, self.names[name], pin=pin)


_SLOWER = "is copied from pageable memory, which is slower"


@runtime_checkable
class Pinnable(Protocol):
    """A source that is host memory, all or part of which can be pinned."""

    host_bytes: int

    @property
    def pinned_bytes(self) -> int:
        """Return how much of it is pinned."""

    def pin(self, pin: Pin) -> None:
        """Pin it anew, as much of it as it may now."""


class Pins:
    """Shares out what may be pinned.

    Args:
        device: Where it is copied to.
        is_used: Whether anything is pinned at all.
        pinnable_bytes: How much may be; None for all.
        note: Says what is left pageable.
    """

    def __init__(
        self, device: torch.device, *, is_used: bool, pinnable_bytes: int | None, note: Callable[[str], None]
    ) -> None:
        self._device, self._is_used, self._pinnable_bytes, self._note = device, is_used, pinnable_bytes, note
        self._planned: Mapping[str, int] = {}
        self._pinned: Counter[str] = Counter()  # by component, of its weights: the gaps between them do not count
        self._window_bytes = 0
        self._is_refused = self._is_noted = False

    def share(self, account: Footprint, units: Sequence[Unit]) -> None:
        """Share out what may be pinned among what moves; what is pinned beyond its share is unpinned."""
        if not self._is_used:
            return
        host = account.host(pinnable_bytes=self._pinnable_bytes)
        self._planned = host.pinned
        for unit in units:
            if unit.shared.source is not None and unit.source.pinned_bytes and self._left(unit.component) < 0:
                _unpin(unit.source, units)
        self._window_bytes = host.pinned_window_bytes
        self._say(host)

    def of(self, unit: Unit) -> Pin | None:
        """Return what pins the memory of a unit, None where it is pageable."""
        if self._is_refused or self._left(unit.component) <= 0:
            return None
        return partial(self._pin, unit.component, unit.nbytes)

    def top_up(self, unit: Unit) -> None:
        """Pin what may be pinned, and is not, of the host memory in which a unit waits."""
        source, pin = unit.source, self.of(unit)
        if pin is not None and isinstance(source, Pinnable) and source.pinned_bytes < source.host_bytes:
            source.pin(pin)

    def window(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin the window, if it is to be pinned."""
        if not self._window_bytes:
            return 0, None
        pinned, unpin = self._try(memory)
        self._pinned[""] += pinned  # of no component
        return pinned, unpin

    def _pin(self, component: str, nbytes: int, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin as much of a unit's memory as its component has left."""
        left = self._left(component)
        pinned, unpin = self._try(memory if nbytes <= left else memory[:left])
        weights = min(pinned, nbytes)
        self._pinned[component] += weights

        def undo() -> None:
            assert unpin is not None
            unpin()
            self._pinned[component] -= weights

        return pinned, undo if unpin is not None else None

    def _left(self, component: str) -> int:
        """Return what of a component may still be pinned; below 0, what is pinned beyond its share."""
        return self._planned.get(component, 0) - self._pinned[component]

    def _try(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        pin = None if self._is_refused else _accelerator.pinner(self._device)
        if pin is None:
            return 0, None
        try:
            unpin = pin(memory)
        except RuntimeError as error:
            self._is_refused = True
            reason = str(error).splitlines()[0]
            self._note(
                f"the system refused to pin {size_text(memory.nbytes)} of host memory beside "
                f"{size_text(self._pinned.total())} ({reason}), so the rest of what moves {_SLOWER}"
            )
            return 0, None
        return memory.nbytes, unpin

    def _say(self, host: HostBytes) -> None:
        """Say once how much is planned to be pageable."""
        if not self._is_noted and host.pinned_bytes < host.nbytes:
            self._is_noted = True
            self._note(
                f"{size_text(host.pinned_bytes)} of the {size_text(host.nbytes)} of host memory that moves can be "
                f"pinned, what moves most often first; the rest {_SLOWER}"
            )


def _unpin(source: Source, units: Sequence[Unit]) -> None:
    """Unpin a source, once no copy from it is under way."""
    for unit in units:
        if unit.shared.source is source and unit.ticket is not None:
            unit.ticket.settle()
    source.close()
