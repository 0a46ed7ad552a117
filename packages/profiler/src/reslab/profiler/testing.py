"""A fake clock, a fake memory and a simulated device, so that every number in a test is exact.

    clock, memory = FakeClock(), FakeMemory()
    with Profiler(clock=clock, memory=memory) as prof, prof.span("load"):
        clock.advance(1_500)
        memory.allocate(4096)

The device is asynchronous, as accelerators are: the host launches work and continues at once, each lane of the device
works its own queue off in order, and the host must wait to learn that it has finished. So a test, or a notebook, can
show exactly what the host's clock misses.

    device = SimulatedDevice(clock)
    with Profiler(clock=clock, device=device) as prof:
        ...
        device.launch(5_000_000)       # 5 ms of work on the compute lane; on the host no time has passed
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from reslab.profiler._model._schema import COMPUTE
from reslab.profiler._record._instruments import Reading

__all__ = ["FakeClock", "FakeMemory", "Point", "SimulatedDevice"]


class FakeClock:
    """A clock that stands still until it is advanced.

    >>> clock = FakeClock()
    >>> clock.advance(1_500)
    >>> clock()
    1500

    Args:
        start_ns: The first reading, in nanoseconds.
        tick_ns: The nanoseconds that each reading advances the clock by.
    """

    def __init__(self, start_ns: int = 0, *, tick_ns: int = 0) -> None:
        self.now_ns = start_ns
        self.tick_ns = tick_ns

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        now_ns = self.now_ns
        self.now_ns += self.tick_ns
        return now_ns

    def advance(self, ns: int) -> None:
        """Advance the clock by `ns` nanoseconds; raise ValueError for a negative number."""
        if ns < 0:
            raise ValueError(f"a clock never goes back, but was advanced by {ns} ns")
        self.now_ns += ns

    def __repr__(self) -> str:
        return f"FakeClock(now_ns={self.now_ns})"


class FakeMemory:
    """A memory that counts allocated bytes and keeps their peak, like a device's allocator.

    >>> memory = FakeMemory()
    >>> memory.allocate(100); memory.allocate(-60)
    >>> memory.read(), memory.read()
    (Reading(allocated_bytes=40, peak_bytes=100), Reading(allocated_bytes=40, peak_bytes=40))

    Args:
        pool: The pool that it stands for.
    """

    def __init__(self, *, pool: str = "device") -> None:
        self.pool = pool
        self.allocated_bytes = 0
        self._peak_bytes = 0

    def allocate(self, nbytes: int) -> None:
        """Allocate `nbytes`, or free them if negative."""
        self.allocated_bytes += nbytes
        self._peak_bytes = max(self._peak_bytes, self.allocated_bytes)

    def read(self) -> Reading:
        """Return bytes allocated now, and the most since the last call."""
        reading = Reading(self.allocated_bytes, self._peak_bytes)
        self._peak_bytes = self.allocated_bytes
        return reading

    def __repr__(self) -> str:
        return f"FakeMemory(pool={self.pool!r}, allocated_bytes={self.allocated_bytes})"


class Point(NamedTuple):
    """A point in a lane's queue, and the time at which the lane reaches it; made by `SimulatedDevice.record`."""

    lane: str
    at_ns: int


class SimulatedDevice:
    """A device with lanes: each works its own queue off in order while the host continues.

    >>> clock = FakeClock()
    >>> device = SimulatedDevice(clock)
    >>> with device.lane("copy"):
    ...     device.launch(700)
    ...     copied = device.record()
    >>> device.launch(400); device.wait(copied); device.launch(400)      # the compute lane stands still for 300 ns
    >>> clock()
    0
    >>> device.synchronize(); clock()
    1100

    It is a `DeviceTimer`. Work starts when the host has launched it and the lane has finished the work before it.

    Args:
        clock: The host's clock; launching and synchronising advance it.
        name: The device's name in a profile's meta.
        memory_bytes: The bytes of the device's memory; None for unknown.
        launch_ns: The nanoseconds that one launch costs the host.
    """

    def __init__(
        self, clock: FakeClock, *, name: str = "simulated", memory_bytes: int | None = None, launch_ns: int = 0
    ) -> None:
        self.name = name
        self.memory_bytes = memory_bytes
        self.launch_ns = launch_ns
        #: How often the host waited for the whole device.
        self.synchronizations = 0
        self._clock = clock
        self._lane = COMPUTE
        self._free_ns: dict[str, int] = {}

    def launch(self, ns: int) -> None:
        """Launch `ns` nanoseconds of work on the current lane, without waiting."""
        self._clock.advance(self.launch_ns)
        self._free_ns[self._lane] = self._reached_ns() + ns

    @contextmanager
    def lane(self, name: str) -> Iterator[None]:
        """Make `name` ("compute" or "copy") the current lane within the block."""
        before, self._lane = self._lane, name
        try:
            yield
        finally:
            self._lane = before

    def wait(self, mark: Point) -> None:
        """Make the current lane, and not the host, wait until another lane has reached `mark`."""
        self._free_ns[self._lane] = max(self._reached_ns(), mark.at_ns)

    def record(self) -> Point:
        """Return a point at the end of the current lane's queue."""
        return Point(self._lane, self._reached_ns())

    def lane_of(self, mark: Point) -> str:
        """Return the lane of a point."""
        return mark.lane

    def synchronize(self) -> None:
        """Advance the host's clock until every lane has finished."""
        self.synchronizations += 1
        self._clock.advance(max([0, *(free_ns - self._clock.now_ns for free_ns in self._free_ns.values())]))

    def elapsed_ns(self, first: Point, second: Point) -> int:
        """Return the time from one point to another; raise ValueError if the device has not reached them."""
        if (ahead := max(first.at_ns, second.at_ns) - self._clock.now_ns) > 0:
            raise ValueError(f"the device gets there in {ahead} ns; call synchronize() before elapsed_ns()")
        return second.at_ns - first.at_ns

    def _reached_ns(self) -> int:
        """Return the time at which the current lane could begin work that is launched now."""
        return max(self._clock.now_ns, self._free_ns.get(self._lane, 0))

    def __repr__(self) -> str:
        return f"SimulatedDevice(name={self.name!r}, lanes={sorted(self._free_ns)})"
