"""The readings of a machine that `detect` needs, and the host memory that this process may use.

    detect(machine=replace(this_machine(), torch=None))      # this machine as it would be without torch
    host_memory(this_machine())     # HostMemory(limit_bytes=…, available_bytes=…, usable_bytes=…, pinnable_bytes=…, …)

A `Machine` holds every reading as a function, so that a test can describe another machine. Of this folder, only this
module looks for torch, and only when a machine is described.

A plan may use the available host memory less a reserve, since Python, the driver and files being read take memory too.
In a container a control group's limit is smaller than the machine's memory and ends the process. Groups are nested, so
the smallest limit on the way to the root counts.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The doors to one machine.

    Args:
        torch: The torch module, or None if it is not installed.
        read: Function that returns the text of a file, or None if there is no such file.
        driver: Function that runs nvidia-smi with arguments and returns its output, or None if it does not run.
        memory: Function that returns total and available bytes of host memory.
        system: "Linux", "Windows" or "Darwin".
        release: The kernel's release; WSL2 names itself in it.
        cpus: Number of processors that this process may use.
        chip: Function that returns the name of an Apple chip, such as "Apple M4 Max", or None elsewhere.
    """

    torch: Any
    read: Callable[[str], str | None]
    driver: Callable[[Sequence[str]], str | None]
    memory: Callable[[], tuple[int, int]]
    system: str
    release: str
    cpus: int
    chip: Callable[[], str | None] = lambda: None


def this_machine() -> Machine:
    """Return a description of the machine that this process runs on."""
    usable = getattr(os, "sched_getaffinity", None)
    return Machine(
        torch=_torch(),
        read=_read,
        driver=_nvidia_smi,
        memory=_memory,
        system=platform.system(),
        release=platform.release(),
        cpus=len(usable(0)) if usable else os.cpu_count() or 1,
        chip=_chip,
    )


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return None


def _nvidia_smi(arguments: Sequence[str]) -> str | None:
    return _output("nvidia-smi", *arguments)


def _chip() -> str | None:
    found = _output("sysctl", "-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else None
    return found.strip() if found else None


def _output(name: str, *arguments: str) -> str | None:
    program = shutil.which(name)
    if program is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout if done.returncode == 0 else None


def _memory() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.total, memory.available


_ROOT = PurePosixPath("/sys/fs/cgroup")
#: A control group (v1) without a limit reports the largest page-aligned 64-bit number, which is above this.
_UNLIMITED = 2**60
#: The share of available memory that a plan leaves free; with 43.4 GiB available, a plan for 40.9 was killed
#: (sglang #39021).
_RESERVE = 0.1
#: The bytes that WSL2's driver lets a process pin; reported for LTX-Desktop (issues 141 and 163).
_WSL2_PINNABLE = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Bytes of host memory: the limit, available now, usable by a plan, and pinnable, with the reasons."""

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
    """Return the host memory that this process may use.

    Args:
        machine: The machine.
        held_bytes: Bytes that the process holds now and releases for what it pins, such as loaded weights.
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
        return min(limit // 2, available), "Windows pins at most half of the memory"
    return available, "all available memory can be pinned"


def _groups(machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield limit and usage of each control group around this process that has a limit."""
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
            # the kernel frees the file cache on demand, so it does not count as used
            yield int(limit), usage - _cache(machine.read(str(folder / "memory.stat")) or "", version.cache)


def _cache(stat: str, name: str) -> int:
    return next((int(line.split()[1]) for line in stat.splitlines() if line.split()[:1] == [name]), 0)
