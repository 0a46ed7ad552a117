"""The hot path: what is kept when a span begins and when it ends.

Being told of a span may cost a microsecond, so nothing is formatted, looked up or allocated for it here: `begin` and
`end` each append one fixed-width entry to a flat list of their thread and return. What the entries mean is worked out
afterwards, once, in `_decode`. Measured on one core of the machine this was written on: 0.6 µs a pair, of which the
two clock reads are 0.13.

An entry is appended by one `+=`, which an interrupt cannot split: the record holds whole entries at every moment. Its
first slot says how wide it is:

    kind, name, index, nbytes, now      a span begins (the first slot is the kind's own text)
    END, error, now                     the innermost open span ends; error is a class name or None
    BEFORE, now, allocated, peak        memory, read before a run or stage begins
    AFTER, now, allocated, peak         memory, read after it has ended
    NAMES, table                        the profile names settled for the run that begins next

Memory is read outside of the span it describes, so that the reading (4 µs) is never part of a stage's time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from reslab.profiler._clock import Clock, MemoryReader
from reslab.profiler._schema import BORDERS
from reslab.stages import Kind

Log = list[Any]


class StageNames(NamedTuple):
    """What is filed beside a stage's registered name."""

    profile_name: str | None = None
    stage_class: str | None = None


#: Names by registered name, as settled when a run starts.
NameTable = Mapping[str, StageNames]


class Mark(IntEnum):
    """First slot of an entry that does not begin a span."""

    END = 0
    BEFORE = 1
    AFTER = 2
    NAMES = 3


_WIDTH: dict[Any, int] = {Mark.END: 3, Mark.BEFORE: 4, Mark.AFTER: 4, Mark.NAMES: 2}
_BEGIN_WIDTH = 5


class _Track(threading.local):
    """One thread's log, and for each of its open spans whether memory is to be read when it ends."""

    def __init__(self, logs: list[Log]) -> None:  # called again by each thread that touches it first
        self.slots: tuple[Log, list[bool]] = ([], [])
        logs.append(self.slots[0])


class Recorder:
    """An observer that keeps what it is told, for `_decode` to read later."""

    def __init__(self, clock: Clock, memory: MemoryReader | None) -> None:
        self._clock = clock
        self._memory = memory
        self._logs: list[Log] = []
        self._track = _Track(self._logs)

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Note that a span begins; see `reslab.stages.Observer` for the arguments."""
        log, borders = self._track.slots
        if kind in BORDERS:
            borders.append(True)
            self._border(log, kind, name)
        else:
            borders.append(False)
        log += (kind, name, index, nbytes, self._clock())

    def end(self, error: BaseException | None = None) -> None:
        """Note that the innermost span of this thread has ended, with the error it raised, if any."""
        log, borders = self._track.slots
        # The class's name and not the exception: that would keep its frames, and all their tensors, alive.
        log += (Mark.END, error and type(error).__name__, self._clock())
        if borders and borders.pop() and self._memory is not None:
            log += (Mark.AFTER, self._clock(), *self._memory.read())

    def _border(self, log: Log, kind: str, name: str) -> None:
        if kind == Kind.RUN:
            log += (Mark.NAMES, self._run_begins(name))
        if self._memory is not None:
            log += (Mark.BEFORE, self._clock(), *self._memory.read())

    def _run_begins(self, pipeline_name: str) -> NameTable:
        """Return the stages' names, settled by now, of the pipeline whose run begins."""
        return {}


def entries(log: Log) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a log, one tuple each.

    >>> list(entries(["step", "step", 0, 0, 10, Mark.END, None, 25]))
    [('step', 'step', 0, 0, 10), (<Mark.END: 0>, None, 25)]
    """
    at = 0
    while at < len(log):
        width = _WIDTH.get(log[at], _BEGIN_WIDTH)
        yield tuple(log[at : at + width])
        at += width
