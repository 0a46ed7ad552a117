"""Time and memory of an accelerator, through torch's device-generic interface: events in streams, allocator figures.

    timer, readers = accelerator()       # (None, ()) where torch is not loaded, or has no accelerator

torch is never imported here: a program with work on a device has loaded it. A CPU can run every line of this package
except the ones of this module.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from reslab.profiler._model._schema import COMPUTE, COPY
from reslab.profiler._record._instruments import DeviceTimer, MemoryReader, Reading


class TorchTimer:
    """Marks points by events; a stream other than the current one at construction is the copy lane."""

    def __init__(self, torch: Any, device: Any) -> None:
        of_kind = torch.get_device_module(device)  # not every kind of device has names, or reports its size
        self.name = of_kind.get_device_name(device) if hasattr(of_kind, "get_device_name") else str(device)
        self.memory_bytes = of_kind.mem_get_info(device)[1] if hasattr(of_kind, "mem_get_info") else None
        self._torch = torch
        self._device = device
        self._current = torch.accelerator.current_stream
        self._compute = self._current(device).stream_id

    def record(self) -> tuple[Any, int]:
        """Record an event on the current stream; return it with the number of the stream."""
        event = self._torch.Event(device=self._device, enable_timing=True)
        event.record()
        return event, self._current(self._device).stream_id

    def lane_of(self, mark: tuple[Any, int]) -> str:
        """Return the lane of the event's stream."""
        return COMPUTE if mark[1] == self._compute else COPY

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        self._torch.accelerator.synchronize(self._device)

    def elapsed_ns(self, first: tuple[Any, int], second: tuple[Any, int]) -> int:
        """Return the time between two events, which torch gives in float milliseconds."""
        return round(first[0].elapsed_time(second[0]) * 1e6)


class TorchMemory:
    """Bytes allocated on the device, with their peak since the reading before.

    The public `torch.accelerator.memory_stats` flattens and sorts some hundred figures for each reading, so this class
    calls the function beneath it, `_accelerator_getDeviceStats`.
    """

    pool = "device"

    def __init__(self, torch: Any, device: Any) -> None:
        #: Bytes that the allocator had reserved at the last reading.
        self.reserved = Reading(0, 0)
        self._index = device.index
        self._initialized = torch._C._accelerator_isAllocatorInitialized
        self._stats = torch._C._accelerator_getDeviceStats
        self._forget_peaks = torch._C._accelerator_resetPeakStats

    def read(self) -> Reading:
        """Return the bytes allocated now and their peak, and reset the device's peaks."""
        if not self._initialized():
            return Reading(0, 0)
        stats = self._stats(self._index)
        self._forget_peaks(self._index)
        allocated, reserved = (stats[figure]["all"] for figure in ("allocated_bytes", "reserved_bytes"))
        self.reserved = Reading(reserved["current"], reserved["peak"])
        return Reading(allocated["current"], allocated["peak"])


class TorchReserved:
    """Bytes that the device's allocator has reserved, from the same reading: a second one would lose a peak."""

    pool = "device reserved"

    def __init__(self, memory: TorchMemory) -> None:
        self._memory = memory

    def read(self) -> Reading:
        """Return the bytes reserved at the last reading of `TorchMemory`, and their peak."""
        return self._memory.reserved


def accelerator() -> tuple[DeviceTimer | None, Sequence[MemoryReader]]:
    """Return a timer of torch's current accelerator and readers of its memory, where torch is loaded and has one."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.accelerator.is_available():
        return None, ()
    device = torch.device(torch.accelerator.current_accelerator().type, torch.accelerator.current_device_index())
    memory = TorchMemory(torch, device)
    return TorchTimer(torch, device), (memory, TorchReserved(memory))
