"""The hot path: record that a span begins and that it ends.

An observer may take a microsecond, so nothing is formatted, looked up or waited for here: `begin` and `end` each append
one entry to a flat list of their thread and return. `_decode` interprets the entries afterwards, once. A pair takes
0.7 µs, measured on one shared core, of which the two clock reads are 0.15 µs.

The storage is a plain list that grows, because it is the fastest that was measured: a list of fixed size with an index
takes 0.08 µs more a pair, and columns in `array`s take 0.25 µs more. One `+=` is the only store, so an interrupt falls
before or after it, and the log holds whole entries at every moment. An entry is four slots wide:

    kind, name, detail, now         a span begins; detail is a transfer's bytes, else the index
    END, error, 0, now              the innermost open span ends; error is a class name or None
    DEVICE, mark, 0, 0              where the device's queue was, for the span that begins next or ended just before
    BEFORE, readings, counters, now memory, read before a run or stage begins
    AFTER, readings, counters, now  memory, read after it has ended
    NAMES, table, 0, 0              the profile names settled for the run that begins next
    CLOSE, error, 0, now            every open span of this thread ends here

Memory is read, and the device's queue is marked, outside of the span, so that neither is part of its time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from reslab.profiler._model._schema import BORDERS, SPAN
from reslab.profiler._record._instruments import Clock, Counters, DeviceTimer, MemoryReader
from reslab.stages import Kind

Log = list[Any]

#: Slots of an entry.
WIDTH = 4

UNFINISHED = "unfinished"


class StageNames(NamedTuple):
    """The profile name and the class of a stage."""

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


class _ThreadLog(threading.local):
    """One thread's log, and the kinds of its open spans."""

    def __init__(self, tracks: list[tuple[Log, list[str]]]) -> None:  # called by each thread that touches it first
        self.slots: tuple[Log, list[str]] = ([], [])
        tracks.append(self.slots)


class Recorder:
    """An observer that logs every event, for `_decode` to read later.

    Args:
        clock: Returns integer nanoseconds.
        memory: Readers, read at the borders of runs and stages: the first for the columns of spans, all for samples.
        counters: The counters of a manager of memory, read where memory is read.
        device: The timer whose queue is marked where spans begin and end, except spans that the user named.
    """

    def __init__(
        self, clock: Clock, memory: Sequence[MemoryReader], counters: Counters | None, device: DeviceTimer | None
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._counters = counters
        self._device = device
        self._tracks: list[tuple[Log, list[str]]] = []
        self._track = _ThreadLog(self._tracks)

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
        """Note that a user's span begins: `begin` without the steps that only a pipeline's events need."""
        log, kinds = self._track.slots
        kinds.append(SPAN)
        log += (SPAN, name, -1, self._clock())

    def end_span(self, error: BaseException | None) -> None:
        """Note that a user's span has ended, with the error it raised, if any."""
        log, kinds = self._track.slots
        log += (END, error and type(error).__name__, 0, self._clock())
        if kinds:
            kinds.pop()

    def close(self) -> None:
        """End the open spans of all threads, so that the next recording begins outside of them."""
        for log, kinds in self._tracks:
            log += (Mark.CLOSE, UNFINISHED, 0, self._clock())
            kinds.clear()

    def logs(self) -> list[Log]:
        """Return the logs of all threads that recorded anything; the threads still write to them."""
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
        """Return the settled names of the stages of the pipeline whose run begins."""
        return {}

    def _stage_begins(self, name: str) -> None:
        """Add the names of a stage that was unknown when the run began: a run may find sections of a stock pipeline."""


class SpanBlock:
    """A `with` block that is recorded; it keeps no state between beginning and end, so one serves all spans of a name.

    A generator in its place would cost a microsecond more.
    """

    __slots__ = ("_begin", "_end", "_name")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._begin, self._end, self._name = recorder.begin_span, recorder.end_span, name

    def __enter__(self) -> None:
        self._begin(self._name)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._end(error)
