"""The hot path: what is kept when a span begins and when it ends.

Being told of a span may cost a microsecond, so nothing is formatted, looked up or waited for here: `begin` and `end`
each append one entry to a flat list of their thread and return. What the entries mean is worked out afterwards, once,
in `_decode`. Measured on one core of the machine this was written on: 0.7 µs a pair, of which the two clock reads are
0.15.

Why a plain list, which grows, and no storage of fixed size? It was measured: a list allocated beforehand with an index
beside it takes 0.08 µs more a pair, columns in `array`s 0.25 more. And one `+=` is the only store there is, so that an
interrupt falls before or after it: the record holds whole entries at every moment. An entry is four slots wide:

    kind, name, detail, now         a span begins; detail is a transfer's bytes, else the index
    END, error, 0, now              the innermost open span ends; error is a class name or None
    DEVICE, mark, 0, 0              where the device's queue was, for the span that begins next or ended just before
    BEFORE, readings, counters, now memory, read before a run or stage begins
    AFTER, readings, counters, now  memory, read after it has ended
    NAMES, table, 0, 0              the profile names settled for the run that begins next
    CLOSE, error, 0, now            everything open on this thread ends here

Memory is read, and the device's queue marked, outside of the span they describe, so that neither is part of its time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from reslab.profiler._profile._schema import BORDERS, SPAN
from reslab.profiler._record._clock import Clock, Counters, DeviceTimer, MemoryReader
from reslab.stages import Kind

Log = list[Any]

#: Slots of an entry.
WIDTH = 4

UNFINISHED = "unfinished"


class StageNames(NamedTuple):
    """What is filed beside a stage's registered name."""

    profile_name: str | None = None
    stage_class: str | None = None


#: Names by registered name, as settled when a run starts.
NameTable = Mapping[str, StageNames]


class Mark(IntEnum):
    """First slot of an entry that does not begin a span."""

    END = 0
    DEVICE = 1
    BEFORE = 2
    AFTER = 3
    NAMES = 4
    CLOSE = 5


END, DEVICE = Mark.END, Mark.DEVICE  # an attribute of a class takes longer to look up


class _Track(threading.local):
    """One thread's log, and the kinds of its open spans."""

    def __init__(self, tracks: list[tuple[Log, list[str]]]) -> None:  # called by each thread that touches it first
        self.slots: tuple[Log, list[str]] = ([], [])
        tracks.append(self.slots)


class Recorder:
    """An observer that keeps what it is told, for `_decode` to read later.

    Args:
        clock: Returns integer nanoseconds.
        memory: Read at the borders of runs and stages, the first for their columns, all for the samples.
        counters: A manager's books, read where memory is.
        device: Its queue is marked where spans begin and end, but for those the user named.
    """

    def __init__(
        self, clock: Clock, memory: Sequence[MemoryReader], counters: Counters | None, device: DeviceTimer | None
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._counters = counters
        self._device = device
        self._tracks: list[tuple[Log, list[str]]] = []
        self._track = _Track(self._tracks)

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Note that a span begins; see `reslab.stages.Observer` for the arguments."""
        log, kinds = self._track.slots
        if kind in BORDERS:
            self._border(log, kind, name)
        kinds.append(kind)
        if self._device is None or kind == SPAN:
            log += (kind, name, nbytes or index, self._clock())
        else:
            log += (DEVICE, self._device.record(), 0, 0, kind, name, nbytes or index, self._clock())

    def end(self, error: BaseException | None = None) -> None:
        """Note that the innermost span of this thread has ended, with the error it raised, if any."""
        log, kinds = self._track.slots
        kind = kinds.pop() if kinds else SPAN
        # The class's name and not the exception: that would keep its frames, and all their tensors, alive.
        if self._device is None or kind == SPAN:
            log += (END, error and type(error).__name__, 0, self._clock())
        else:
            log += (END, error and type(error).__name__, 0, self._clock(), DEVICE, self._device.record(), 0, 0)
        if kind in BORDERS:
            self._sample(log, Mark.AFTER)

    def begin_span(self, name: str) -> None:
        """Note that a span of the user's begins: `begin` without what only a pipeline's events need."""
        log, kinds = self._track.slots
        kinds.append(SPAN)
        log += (SPAN, name, -1, self._clock())

    def end_span(self, error: BaseException | None) -> None:
        """Note that a span of the user's has ended, with the error it raised, if any."""
        log, kinds = self._track.slots
        log += (END, error and type(error).__name__, 0, self._clock())
        if kinds:
            kinds.pop()

    def close(self) -> None:
        """End everything that is open on any thread, so that what is recorded later begins at the top."""
        for log, kinds in self._tracks:
            log += (Mark.CLOSE, UNFINISHED, 0, self._clock())
            kinds.clear()

    def logs(self) -> list[Log]:
        """Return the logs of all threads that recorded anything; they are still written to."""
        return [log for log, _kinds in self._tracks if log]

    def _border(self, log: Log, kind: str, name: str) -> None:
        if kind == Kind.RUN:
            log += (Mark.NAMES, self._run_begins(name), 0, 0)
        else:
            self._stage_begins(name)
        self._sample(log, Mark.BEFORE)

    def _sample(self, log: Log, mark: Mark) -> None:
        if self._memory or self._counters is not None:
            counters = dict(self._counters.counters()) if self._counters is not None else {}
            log += (mark, [reader.read() for reader in self._memory], counters, self._clock())

    def _run_begins(self, pipeline_name: str) -> NameTable:
        """Return the stages' names, settled by now, of the pipeline whose run begins."""
        return {}

    def _stage_begins(self, name: str) -> None:
        """Take up the names of a stage that was not known when the run began: a stock pipeline's may be found in it."""


class SpanBlock:
    """A `with` block that is recorded; it keeps nothing between beginning and end, so one serves all of its name.

    Written out because a generator would cost a microsecond more.
    """

    __slots__ = ("_begin", "_end", "_name")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._begin, self._end, self._name = recorder.begin_span, recorder.end_span, name

    def __enter__(self) -> None:
        self._begin(self._name)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._end(error)
