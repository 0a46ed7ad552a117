"""A clock and a memory that do as they are told, so that every number in a test is exact.

clock, memory = FakeClock(), FakeMemory()
with Profiler(clock=clock, memory=memory) as prof, prof.span("load"):
    clock.advance(1_500)
    memory.allocate(4096)
"""

from __future__ import annotations

from reslab.profiler._clock import Reading

__all__ = ["FakeClock", "FakeMemory"]


class FakeClock:
    """A clock that stands still until it is advanced.

    >>> clock = FakeClock()
    >>> clock.advance(1_500)
    >>> clock()
    1500

    Args:
        start_ns: What it shows first, in nanoseconds.
        tick_ns: How far it goes on after each look.
    """

    def __init__(self, start_ns: int = 0, *, tick_ns: int = 0) -> None:
        self.now_ns = start_ns
        self.tick_ns = tick_ns

    def __call__(self) -> int:
        """Return the time it shows, in nanoseconds."""
        now_ns = self.now_ns
        self.now_ns += self.tick_ns
        return now_ns

    def advance(self, ns: int) -> None:
        """Go on by `ns` nanoseconds; a clock never goes back, so ValueError for a negative number."""
        if ns < 0:
            raise ValueError(f"a clock never goes back, but was advanced by {ns} ns")
        self.now_ns += ns

    def __repr__(self) -> str:
        return f"FakeClock(now_ns={self.now_ns})"


class FakeMemory:
    """A memory that holds what was allocated and remembers its peak, like a device's allocator.

    >>> memory = FakeMemory()
    >>> memory.allocate(100); memory.allocate(-60)
    >>> memory.read(), memory.read()
    (Reading(allocated_bytes=40, peak_bytes=100), Reading(allocated_bytes=40, peak_bytes=40))

    Args:
        pool: Whose memory it pretends to be.
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
