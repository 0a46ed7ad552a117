"""The link between host and device, timed with the engine's own copies.

    measure_link("cuda:0")          # pinned and pageable to the device, and back: 3.8 GiB copied, a second on a GPU

The buffers are so large that the cost of issuing a copy does not show. The best of several repeats counts, since
other work can only slow a copy down. On a CPU the copy stays within host memory, as moving weights does there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from reslab.residency._device._spec import LinkSpeed
from reslab.residency._engine import _accelerator
from reslab.residency._engine._layout import BufferLayout, HostBuffer, copy_on_host

#: Bytes of one copy; a block of LTX-2.3 has three times as many.
NBYTES = 2**28


def measure_link(
    device: torch.device | str | None = None,
    *,
    nbytes: int = NBYTES,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> LinkSpeed:
    """Time copies to a device and back.

    The host needs twice `nbytes` during the call, the device once.

    >>> measure_link("cpu", nbytes=1_000, repeats=1, clock=iter(range(100)).__next__)
    LinkSpeed('cpu': 1e-06 GB/s pinned, 1e-06 GB/s pageable, 1e-06 GB/s back)

    Args:
        device: The device, or torch's name for it; by default the accelerator in use, else the CPU.
        nbytes: Bytes of one copy.
        repeats: Number of timed copies of each kind; one more comes first and is not timed.
        clock: Function that returns seconds.

    Raises:
        ValueError: For a size or a number of repeats below 1.
    """
    if nbytes < 1 or repeats < 1:
        raise ValueError(f"nbytes and repeats are whole numbers from 1 up, got {nbytes} and {repeats}")
    place = _accelerator.current() if device is None else torch.device(device)
    copy = copy_on_host if place.type == "cpu" else _accelerator.blocking_copy(place)
    target = torch.empty(nbytes, dtype=torch.uint8, device=place)
    pageable, pinned = (_filled(nbytes, pin) for pin in (None, _accelerator.pinner(place)))

    def rate(to: torch.Tensor, source: torch.Tensor) -> int:
        copy(to, source)
        return round(nbytes / min(_seconds(copy, to, source, clock) for _ in range(repeats)))

    try:
        return LinkSpeed(
            device=str(place),
            pinned_bytes_per_s=rate(target, pinned.staged()),
            pageable_bytes_per_s=rate(target, pageable.staged()),
            back_bytes_per_s=rate(pinned.staged(), target),
            nbytes=nbytes,
            repeats=repeats,
        )
    finally:
        pinned.close()


def _filled(nbytes: int, pin: Callable[[torch.Tensor], Callable[[], None]] | None) -> HostBuffer:
    """Return host memory with every page touched, so that no copy pays for page faults."""
    whole = None if pin is None else lambda memory: (memory.nbytes, pin(memory))
    memory = HostBuffer(BufferLayout((), nbytes, nbytes), pin=whole)
    memory.staged().fill_(1)
    return memory


def _seconds(
    copy: Callable[[torch.Tensor, torch.Tensor], None],
    target: torch.Tensor,
    source: torch.Tensor,
    clock: Callable[[], float],
) -> float:
    begun = clock()
    copy(target, source)
    return clock() - begun
