"""Ways out: interrupts that wait for the end of a swap, and what is said when memory does not suffice."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKED = re.compile(r"[Tt]ried to allocate ([0-9.]+ ?[KMGT]?i?B)")


@contextmanager
def masked() -> Iterator[None]:
    """Hold back an interrupt (Ctrl-C, or a notebook's stop button) that comes within the block until its end."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # signals reach the main thread alone; without a handler of Python's there is nothing to hold back
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])


def asked(error: BaseException) -> str:
    """Return how much an error of torch says was asked for.

    >>> asked(RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has …"))
    '1.50 GiB'
    """
    found = _ASKED.search(str(error))
    return found[1] if found else "an amount that torch does not tell"
