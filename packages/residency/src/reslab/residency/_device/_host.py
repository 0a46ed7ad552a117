"""Memory of the host that this process may use: what there is, what a container allows, and what can be pinned.

    host_memory(machine)            # HostMemory(limit_bytes=…, available_bytes=…, usable_bytes=…, pinnable_bytes=…, …)

A plan may have what is available now, less a reserve: Python, the driver and the files that are read take memory too.

In a container the machine's memory says little: a control group's limit ends the process long before. Groups lie
inside each other, so the smallest limit on the way to the root counts, and what a group uses is counted without the
file cache, which the kernel gives up when asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from reslab.residency._device._machine import Machine

_ROOT = PurePosixPath("/sys/fs/cgroup")
#: A limit of a control group (v1) above this means none: it is the largest page-aligned 64-bit number.
_UNLIMITED = 2**60
#: Of what is available, what a plan leaves free: with 43.4 GiB available a plan for 40.9 was killed (sglang #39021).
_RESERVE = 0.1
#: What WSL2's driver lets a process pin; reported for LTX-Desktop (issues 141 and 163).
_WSL2_PINNABLE = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Bytes of host memory: allowed, available now, for a plan to use, and to be pinned, with the reasons."""

    limit_bytes: int
    available_bytes: int
    usable_bytes: int
    pinnable_bytes: int
    limited_by: str
    pinnable_because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where one version of control groups keeps its numbers."""

    controller: str
    root: PurePosixPath
    limit: str
    usage: str
    cache: str


_V2 = _Files(controller="", root=_ROOT, limit="memory.max", usage="memory.current", cache="inactive_file")
_V1 = _Files(
    controller="memory",
    root=_ROOT / "memory",
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    cache="total_inactive_file",
)


def host_memory(machine: Machine, *, held_bytes: int = 0) -> HostMemory:
    """Return what this process may use of the host's memory.

    Args:
        machine: The machine.
        held_bytes: What of it the process holds now and gives up for what it is asked for, such as loaded weights.
    """
    total, available = machine.memory()
    groups = list(_groups(machine))
    limit = min((limit for limit, _ in groups), default=total)
    left = min((max(limit - usage, 0) for limit, usage in groups), default=available)
    available = min(available, left)
    pinnable, why = _pinnable(machine, min(total, limit), available + held_bytes)
    return HostMemory(
        limit_bytes=min(total, limit),
        available_bytes=available,
        usable_bytes=available - round(available * _RESERVE),
        pinnable_bytes=pinnable,
        limited_by="the container's control group" if limit < total else "the machine's memory",
        pinnable_because=why,
    )


def _pinnable(machine: Machine, limit: int, available: int) -> tuple[int, str]:
    if "microsoft" in machine.release.casefold():
        return min(_WSL2_PINNABLE, available), "WSL2 pins 1 GiB"
    if machine.system == "Windows":
        return min(limit // 2, available), "Windows pins half of the memory at most"
    return available, "what is available can be pinned"


def _groups(machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield limit and usage of every control group around this process that has a limit."""
    for line in (machine.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for version in (_V2, _V1):
            if version.controller in controllers.split(","):
                yield from _limits(machine, version, PurePosixPath(path))


def _limits(machine: Machine, version: _Files, path: PurePosixPath) -> Iterator[tuple[int, int]]:
    for group in (path, *path.parents):
        folder = version.root / group.relative_to("/")
        limit = (machine.read(str(folder / version.limit)) or "max").strip()
        if limit.isdigit() and int(limit) < _UNLIMITED:
            usage = int((machine.read(str(folder / version.usage)) or "0").strip())
            yield int(limit), usage - _cache(machine.read(str(folder / "memory.stat")) or "", version.cache)


def _cache(stat: str, name: str) -> int:
    return next((int(line.split()[1]) for line in stat.splitlines() if line.split()[:1] == [name]), 0)
