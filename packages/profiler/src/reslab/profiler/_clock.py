"""Time and memory as arguments: with a fake clock and a described memory, every number in a test is exact.

    Profiler(clock=FakeClock(), memory=FakeMemory())      # from reslab.profiler.testing

A clock is called and returns integer nanoseconds; `time.perf_counter_ns` is one. A memory reader says how much is
allocated now and what the most was since it was last asked: a device's allocator knows its true peak, a process's
resident size is only sampled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple, Protocol

#: Returns integer nanoseconds that never decrease.
Clock = Callable[[], int]


class Reading(NamedTuple):
    """What a memory reader says: bytes allocated now, and the most since it was last asked."""

    allocated_bytes: int
    peak_bytes: int


class MemoryReader(Protocol):
    """Says how much memory is allocated; asked at the borders of runs and stages, so it should take microseconds."""

    #: Whose memory it reads: "host", "device" …
    pool: str

    def read(self) -> Reading:
        """Return bytes allocated now, and the most since the last call (at least the bytes allocated now)."""


class StatmMemory:
    """Resident bytes of this process, read from Linux's /proc (about 4 µs); its peak is what was sampled."""

    pool = "host"

    def __init__(self) -> None:
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read(self) -> Reading:
        """Return the resident bytes now, as both values."""
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            resident = int(statm.read().split(b" ", 2)[1]) * self._page_bytes
        return Reading(resident, resident)

    def __repr__(self) -> str:
        return "process_memory()"


class PsutilMemory:
    """Resident bytes of this process on systems without /proc, by psutil (about 12 µs)."""

    pool = "host"

    def __init__(self) -> None:
        import psutil  # type: ignore[import-untyped]  # no dependency: asked for only where it is installed

        self._process = psutil.Process()

    def read(self) -> Reading:
        """Return the resident bytes now, as both values."""
        resident = self._process.memory_info().rss
        return Reading(resident, resident)

    def __repr__(self) -> str:
        return "process_memory()"


def process_memory() -> MemoryReader | None:
    """Return the cheapest reader of this process's resident bytes, or None where there is no way to ask.

    >>> memory = process_memory()
    >>> memory is None or memory.read().allocated_bytes > 0
    True
    """
    if os.path.exists("/proc/self/statm"):
        return StatmMemory()
    return PsutilMemory() if find_spec("psutil") else None
