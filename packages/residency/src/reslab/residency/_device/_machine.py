"""What `detect` reads from a machine, so that a test can hand it another one.

    detect(machine=replace(this_machine(), torch=None))      # the same machine, as it would be without torch

torch is looked for only here, and only when a machine is described: nothing else in this package needs it.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The doors to one machine.

    Args:
        torch: The torch module, or None where it is not installed.
        read: Returns a file's text, or None where there is none.
        driver: Runs nvidia-smi with arguments and returns what it prints, or None where it does not run.
        memory: Returns total and available bytes of host memory.
        system: "Linux", "Windows" or "Darwin".
        release: The kernel's release; WSL2 names itself in it.
        cpus: Processors that this process may use.
        chip: Returns the name of an Apple chip, such as "Apple M4 Max", or None elsewhere.
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
    """Return the machine that this runs on."""
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
