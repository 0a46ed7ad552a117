"""The configuration of the engine, and the sources of weights by the plan: host memory, pinned or not, or disk.

    config = EngineConfig(device=device, link=link, budget=budget)
    sources = Sources(config, plan, note=logger.warning)
    sources.use_plan(plan, workload, units)          # whenever another plan, or another run, comes into force
    sources.make(unit)                               # a host buffer, a source on disk, or the weights' only copy

Pinned memory is copied to an accelerator at the full speed of the link. A system may let a process pin less than
`footprint` asks for, or nothing: under WSL2, under a limit of locked memory. `Pins` shares out the bytes that may be
pinned; the other weights wait in pageable memory, and a note says so.
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
from reslab.residency._engine._checks import Budget
from reslab.residency._engine._disk import Disk, DiskSource, ParameterNames
from reslab.residency._engine._lanes import CopyLane, LinkThrottle, ThreadLane
from reslab.residency._engine._layout import HostBuffer, Pin, Source
from reslab.residency._engine._merged_copy import MergedUnit
from reslab.residency._engine._only_copy import OnlyCopy
from reslab.residency._engine._unit import Unit
from reslab.residency._engine._weight_files import Paths
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._schedule._footprint import Footprint, HostBytes, footprint
from reslab.residency._units import size_text


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Arguments of `apply` besides pipeline and plan, as the engine uses them.

    Args:
        device: The device that computes.
        link: The bandwidth that copies are held to.
        budget: The bytes that may be used.
        steps_down: Whether a stage that runs out of memory runs again with a leaner plan.
        calls: The calls known before the first run.
        blocks: Names of blocks by component, where the user gave them.
        files: Safetensors files by component.
        activations: Most bytes alive besides weights, by stage, as far as they are known.
    """

    device: torch.device
    link: LinkThrottle
    budget: Budget
    steps_down: bool = False
    calls: tuple[Call, ...] = ()
    blocks: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, Paths] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)

    @property
    def pins(self) -> bool:
        """Tell whether host memory of weights that move is pinned."""
        return self.device.type != "cpu" and _accelerator.pinner(self.device) is not None

    def lane(self, *, reads_disk: bool) -> CopyLane:
        """Return the lane that makes the copies: a stream, or a thread where disk or a limited link is waited for."""
        if self.device.type == "cpu":
            return ThreadLane(throttle=self.link, clock=time.perf_counter)
        if reads_disk or self.link.is_limited:
            copy = _accelerator.blocking_copy(self.device)
            return ThreadLane(copy=copy, throttle=self.link, clock=time.perf_counter)
        return _accelerator.StreamLane(self.device)


class Sources:
    """Provides the sources of units, by the plan in force each time that a unit is fetched or leaves.

    Weights that move wait in host memory, pinned as far as allowed, or on disk; weights that stay have one copy only.

    Args:
        config: Device, files, and the bytes that may be pinned.
        plan: The plan at the beginning; a leaner one reads no component from disk that this one does not.
        note: Takes a sentence for the user.
    """

    def __init__(self, config: EngineConfig, plan: Plan, *, note: Callable[[str], None]) -> None:
        self._config, self.disk = config, Disk(config.files)
        self._reads_disk = any(placement.kind is Place.DISK for placement in plan.placements.values())
        self._from_disk: set[str] = set()
        self._settled: Mapping[str, frozenset[int]] = {}
        self._pins = Pins(config.device, is_used=config.pins, pinnable_bytes=config.budget.pinned_bytes, note=note)
        self._window_bytes = 0
        self.names: dict[str, ParameterNames] = {}

    @property
    def reads_disk(self) -> bool:
        """Tell whether anything is read from disk."""
        return bool(self._config.files) or self._reads_disk

    def use_plan(self, plan: Plan, workload: Workload, units: Sequence[Unit]) -> None:
        """Take the sources and pinned bytes of a plan for the calls of a run."""
        account = footprint(plan, workload)
        self._from_disk = {name for name, each in account.waiting.items() if each.from_disk}
        self._settled = {name: each.settled for name, each in account.waiting.items()}
        from_disk = [unit for unit in units if unit.component in self._from_disk or unit.has_unknown]
        # known ahead, so that the window is allocated and pinned once and not for each larger block
        self._window_bytes = max((unit.layout.nbytes for unit in from_disk), default=0)
        self._pins.share(account, units)
        self.disk.window.pin = self._pins.window

    def renewed(self, unit: Unit) -> Source:
        """Return the source that the plan in force asks for: the present one, if it agrees."""
        source, stays = unit.source, self._stays(unit)
        if stays and isinstance(source, HostBuffer):
            return OnlyCopy(unit.layout, source.tensors, self._config.device)
        if stays or unit.is_on_device:  # a unit that does not stay takes its source when it leaves
            return source
        if isinstance(source, OnlyCopy) or (isinstance(source, DiskSource) and unit.component not in self._from_disk):
            with torch.inference_mode(False), torch.no_grad():
                memory = HostBuffer(unit.layout, pin=self._pins.of(unit))
                memory.fill_from(source.tensors)
            return memory
        self._pins.top_up(unit)
        return source

    def after_leaving(self, unit: Unit) -> Source:
        """Return the source of a unit that leaves the device; an only copy is copied to host memory."""
        source = unit.source
        if isinstance(source, OnlyCopy):
            return source.on_host(None if self._stays(unit) else self._pins.of(unit))
        return source

    def _stays(self, unit: Unit) -> bool:
        """Tell whether a unit stays on the device and shares no memory, so that it needs no second copy."""
        return unit.number in self._settled[unit.component] and unit.shared.users == 1

    def make(self, unit: Unit) -> Source:
        """Return a new source of a unit with its weights in it, or their only copy if the unit stays."""
        name, is_settled = unit.component, self._stays(unit)
        pin = None if is_settled else self._pins.of(unit)
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(unit, MergedUnit):
                # merged weights exist nowhere else, so they are made in host memory or on disk, even if they will stay
                made = unit.make(pin=pin, disk=self.disk if name in self._from_disk else None)
                is_copy = is_settled and name not in self._from_disk
                return OnlyCopy(unit.layout, made.tensors, self._config.device) if is_copy else made
            # a unit without values that stays is read once, so the window will do
            if name in self._from_disk or (is_settled and unit.has_unknown):
                self.disk.window.reserve(self._window_bytes)
                return self.disk.source(name, unit.layout, self.names[name])
            if is_settled:
                return OnlyCopy(unit.layout, unit.values, self._config.device)
            return self.disk.memory(name, unit.layout, self.names[name], pin=pin)


_SLOWER = "copied from pageable memory, which is slower"


@runtime_checkable
class Pinnable(Protocol):
    """A source in host memory that can be pinned, as a whole or in part."""

    host_bytes: int

    @property
    def pinned_bytes(self) -> int:
        """Return the pinned bytes."""

    def pin(self, pin: Pin) -> None:
        """Pin the memory again, as much of it as is allowed now."""


class Pins:
    """Shares out the bytes of host memory that may be pinned.

        pins.share(footprint(plan, workload), units)
        HostBuffer(layout, pin=pins.of(unit))
        pins.top_up(unit)                           # of a unit that has host memory already

    Args:
        device: The device that the memory is copied to.
        is_used: Whether any memory is pinned.
        pinnable_bytes: Bytes that may be pinned; None for no limit.
        note: Takes a sentence for the user.
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
        """Share out the bytes among the components that move; unpin a component's memory beyond its share."""
        if not self._is_used:
            return
        host = account.host(pinnable_bytes=self._pinnable_bytes)
        self._planned = host.pinned
        for unit in units:
            if unit.shared.source is not None and unit.source.pinned_bytes and self._left(unit.component) < 0:
                _unpin(unit.source, units)
        self._window_bytes = host.pinned_window_bytes
        self._note_pageable(host)

    def of(self, unit: Unit) -> Pin | None:
        """Return the function that pins the memory of a unit; None where it stays pageable."""
        if self._is_refused or self._left(unit.component) <= 0:
            return None
        return partial(self._pin, unit.component, unit.nbytes)

    def top_up(self, unit: Unit) -> None:
        """Pin more of a unit's host memory, as far as its component's share allows."""
        source, pin = unit.source, self.of(unit)
        if pin is not None and isinstance(source, Pinnable) and source.pinned_bytes < source.host_bytes:
            source.pin(pin)

    def window(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin the window of disk, if the plan counts it as pinned."""
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
        """Return the bytes of a component that may still be pinned; negative where more than its share is pinned."""
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
                f"{size_text(self._pinned.total())} ({reason}), so the other weights are {_SLOWER}"
            )
            return 0, None
        return memory.nbytes, unpin

    def _note_pageable(self, host: HostBytes) -> None:
        """Note once how many bytes of the plan stay pageable."""
        if not self._is_noted and host.pinned_bytes < host.nbytes:
            self._is_noted = True
            self._note(
                f"{size_text(host.pinned_bytes)} of the {size_text(host.nbytes)} of host memory that moves can be "
                f"pinned, the weights that move most often first; the others are {_SLOWER}"
            )


def _unpin(source: Source, units: Sequence[Unit]) -> None:
    """Unpin a source, after any copy from it has ended."""
    for unit in units:
        if unit.shared.source is source and unit.ticket is not None:
            unit.ticket.settle()
    source.close()
