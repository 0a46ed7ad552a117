"""Interrupts that wait until a change of the engine's state is complete.

    with masked():
        unit.leave(sources)          # Ctrl-C in here is raised at the end of the block

Only signals wait; an exception from another source is healed by the next call of the engine, see `_mover`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def masked() -> Iterator[None]:
    """Hold back an interrupt (Ctrl-C, or a notebook's stop button) within the block until its end."""
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
