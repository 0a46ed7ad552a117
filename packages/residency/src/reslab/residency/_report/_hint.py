"""What would help where nothing fits: by how much a plan misses, where, and the smallest change with which it fits.

missing(limits)              # bytes, of the device and of the host
smallest_change(limits)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from reslab.profiler import gib
from reslab.residency._bounds._bounds import Bounds


def missing(limits: Bounds) -> int:
    """Return the bytes that a plan lacks, of the device and of the host together; 0 where it fits."""
    return limits.memory.missing_device_bytes + limits.memory.missing_host_bytes


def smallest_change(limits: Bounds) -> str:
    """Return by how much the plan that comes nearest misses, in which stage, and what it would take to fit."""
    memory, card = limits.memory, limits.device
    short, wanted = [], []
    if memory.missing_device_bytes:
        short.append(f"{_up(memory.missing_device_bytes)} on the device in {memory.peak_stage}")
        wanted.append(
            f"{_up(card.free_bytes + memory.missing_device_bytes)} free on it instead of {gib(card.free_bytes)}"
        )
    if memory.missing_host_bytes:
        short.append(f"{_up(memory.missing_host_bytes)} of host memory")
        wanted.append(
            f"{_up(card.host_memory_bytes + memory.missing_host_bytes)} in the host instead of "
            f"{gib(card.host_memory_bytes)}"
        )
    smaller = ", or with a smaller or shorter request" * bool(memory.missing_device_bytes)
    sentences = [
        f"Nearest is {limits.plan.name!r}, which lacks {' and '.join(short)}.",
        f"It fits with {' and '.join(wanted)}{smaller}.",
        *_slack(limits),
    ]
    return " ".join(sentences)


def _slack(limits: Bounds) -> Iterator[str]:
    memory = limits.memory
    left = memory.free_bytes - memory.peak_bytes
    if memory.missing_device_bytes and memory.fits_host and left >= 0:
        yield (
            f"Only {gib(memory.slack_bytes)} for torch's allocator are in the way: with "
            f"PYTORCH_ALLOC_CONF=expandable_segments:True it takes less, and pool_slack_bytes={left} plans for that."
        )


def _up(nbytes: int) -> str:
    """Return a size in GiB, rounded up, so that as much does suffice."""
    return f"{math.ceil(nbytes / 2**30 * 100) / 100:.2f} GiB"
