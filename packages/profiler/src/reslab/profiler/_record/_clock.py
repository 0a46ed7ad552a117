"""Time, memory and device as arguments: with a fake clock and a described device, every number in a test is exact.

    Profiler(clock=FakeClock(), memory=FakeMemory())      # from reslab.profiler.testing

What the profiler asks of the world, and nothing more: a clock, readers of memory, a manager's books, and a device on
whose queues points can be marked. `_memory` reads this process, `_torch` an accelerator, `testing` has fakes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

#: Returns integer nanoseconds that never decrease; `time.perf_counter_ns` is one.
Clock = Callable[[], int]


class Reading(NamedTuple):
    """What a memory reader says: bytes allocated now, and the most since it was last asked."""

    allocated_bytes: int
    peak_bytes: int


class MemoryReader(Protocol):
    """Says how much memory is allocated; asked at the borders of runs and stages, so it should take microseconds."""

    #: Whose memory it reads: "host", "device", "device reserved" …
    pool: str

    def read(self) -> Reading:
        """Return bytes allocated now, and the most since the last call (at least the bytes allocated now)."""


class Counters(Protocol):
    """What a manager of memory knows of its own: its counters are read where memory is."""

    def counters(self) -> Mapping[str, int]:
        """Return bytes by name: a pool ("pinned") or the part of it that a component has ("device/transformer")."""


class DeviceTimer(Protocol):
    """Times a device that works while the host goes on: points marked in its queues, asked for when it has finished.

    A point is whatever `record` returns, for torch an event. Recording takes microseconds and waits for nothing.
    """

    #: What the device is called in a profile's meta.
    name: str
    #: How much memory it has in all, if that is known; the timeline draws it as a line.
    memory_bytes: int | None

    def record(self) -> Any:
        """Mark the point that the queue in use has got to, and return it at once."""

    def lane_of(self, mark: Any) -> str:
        """Return "compute" or "copy": which of the device's lanes a point is on."""

    def synchronize(self) -> None:
        """Wait until the device has reached every point; called when recording starts and when it is read."""

    def elapsed_ns(self, first: Any, second: Any) -> int:
        """Return the nanoseconds from one point to another; both have been reached."""
