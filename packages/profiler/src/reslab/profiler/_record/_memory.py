"""The memory of this process, read in microseconds, with the peak of each stage.

    process_memory().read()      # Reading(allocated_bytes=…, peak_bytes=…)

Linux keeps the highest resident size of a process and resets it on request (proc(5), `clear_refs`, value 5). So the
peak between two readings is exact rather than sampled. The price: another reader of `VmHWM` sees the reset, too.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from reslab.profiler._record._instruments import MemoryReader, Reading

_KIB = 1024
_FORGET_PEAK = b"5"


class ProcMemory:
    """Resident bytes of this process and their peak, from Linux's /proc (about 6 µs)."""

    pool = "host"

    def __init__(self) -> None:  # opening costs as much as reading: both stay open
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._forget = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def read(self) -> Reading:
        """Return the resident bytes now, and the most since the last call."""
        status = os.pread(self._status, 4096, 0)
        os.write(self._forget, _FORGET_PEAK)
        return Reading(_bytes_of(status, b"VmRSS:"), _bytes_of(status, b"VmHWM:"))

    def __repr__(self) -> str:
        return "process_memory()"


class PsutilMemory:
    """Resident bytes of this process without /proc, from psutil (about 12 µs); the peak is the sample itself."""

    pool = "host"

    def __init__(self) -> None:
        import psutil  # type: ignore[import-untyped]  # not a dependency: imported only where it is installed

        self._process = psutil.Process()

    def read(self) -> Reading:
        """Return the resident bytes now, as both values."""
        resident = self._process.memory_info().rss
        return Reading(resident, resident)

    def __repr__(self) -> str:
        return "process_memory()"


def process_memory() -> MemoryReader | None:
    """Return the best reader of this process's resident bytes, or None where the system offers none.

    >>> memory = process_memory()
    >>> memory is None or memory.read().allocated_bytes > 0
    True
    """
    return _process_memory(os.getpid())


@cache
def _process_memory(_pid: int) -> MemoryReader | None:  # by process: after a fork, /proc/self is another
    if os.access("/proc/self/clear_refs", os.W_OK):
        return ProcMemory()
    return PsutilMemory() if find_spec("psutil") else None


def _bytes_of(status: bytes, field: bytes) -> int:
    start = status.index(field) + len(field)
    return int(status[start : status.index(b"kB", start)]) * _KIB
