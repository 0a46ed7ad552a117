"""The instruments that a profiler reads, as arguments: a clock, memory readers, counters and a device timer.

    Profiler(clock=FakeClock(), memory=FakeMemory())      # from reslab.profiler.testing

With a fake clock and a simulated device, every number in a test is exact. `_memory` reads this process, `_torch` reads
an accelerator, and `reslab.profiler.testing` has the fakes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

#: Returns integer nanoseconds that never decrease; `time.perf_counter_ns` is one.
Clock = Callable[[], int]


class Reading(NamedTuple):
    """Bytes allocated now, and the most bytes allocated since the reading before."""

    allocated_bytes: int
    peak_bytes: int


class MemoryReader(Protocol):
    """Reads how much memory is allocated, at the borders of runs and stages; a reading should take microseconds."""

    #: The memory that it reads: "host", "device", "device reserved" …
    pool: str

    def read(self) -> Reading:
        """Return bytes allocated now, and the most since the last call (at least the bytes allocated now)."""


class Counters(Protocol):
    """Counts the bytes that a manager of memory holds; its counters are read where memory is read."""

    def counters(self) -> Mapping[str, int]:
        """Return bytes by name: a pool ("pinned") or the part of it that a component has ("device/transformer")."""


class DeviceTimer(Protocol):
    """Times an asynchronous device: it marks points in the device's queues, and reads their times after the work.

    A point is the object that `record` returns, for torch an event. Recording takes microseconds and does not wait.
    """

    #: The device's name in a profile's meta.
    name: str
    #: The device's memory in bytes, or None if that is unknown; the timeline draws it as a line.
    memory_bytes: int | None

    def record(self) -> Any:
        """Mark a point at the end of the queue in use, and return it without waiting."""

    def lane_of(self, mark: Any) -> str:
        """Return the lane of a point: "compute" or "copy"."""

    def synchronize(self) -> None:
        """Wait until the device has reached every point; called when recording starts and when a profile is read."""

    def elapsed_ns(self, first: Any, second: Any) -> int:
        """Return the nanoseconds from one point to another; the device has reached both."""
