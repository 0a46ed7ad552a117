"""Decode the logs of the hot path into frames: one row a span, and one row a memory sample.

    spans, memory = decode(logs, origin_ns=0, until_ns=clock(), pools=["host"])

Each thread's log is a string of brackets, read once from left to right with a stack of open spans (`_LogReader`). Two
defects are repaired rather than refused, because the record of a failed run is worth most. An end without a beginning
(recording started inside a span) is skipped. A span that is still open at the end is closed there with the error
"unfinished".

The host lane is the first thread that recorded a run, or the first thread if none did. The copy lane holds the
transfers and waits of other threads, and those made while another queue of the device than the compute lane's is in
use. A span of the copy lane lies inside the run that was running on the host lane. It belongs to the stage that its
name gives, else to the stage that was running.

Most spans share their place with others, so `DecodedLogs` computes each place once and looks it up from then on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter

import polars as pl

from reslab.profiler._model._schema import BORDERS, COPY, HOST, memory_frame
from reslab.profiler._record._device_time import Reached
from reslab.profiler._record._instruments import Reading
from reslab.profiler._record._record import DEVICE, END, UNFINISHED, WIDTH, Log, Mark, NameTable
from reslab.profiler._record._spans import BorderMemory, Place, SpanColumns, place_within
from reslab.stages import Kind

_RUN, _STEP = Kind.RUN.value, Kind.STEP.value

#: Time, pool, component, bytes allocated, and the most bytes allocated since the sample before.
Sample = tuple[int, str, str | None, int, int | None]


class DecodedLogs:
    """Spans and memory samples decoded so far, with the look-ups that decoding the next log needs."""

    def __init__(self, pools: Sequence[str]) -> None:
        self.pools = pools
        self.spans = SpanColumns()
        self.samples: list[Sample] = []
        self.names: list[NameTable] = []  # by run
        self.place_rows: dict[tuple[int, str, str, int, str | None], int] = {}
        self.host_spans: list[int] = []  # the host lane's, once its log has been read

    def begin_run(self, outer_row: int, name: str, names: NameTable) -> int:
        """Return the row of the place of a new run."""
        self.names.append(names)
        run = Place(kind=_RUN, name=name, lane=self.spans.places[outer_row].lane, run=len(self.names) - 1)
        self.spans.places.append(run)
        return len(self.spans.places) - 1

    def place_row(self, outer_row: int, kind: str, name: str, index: int, lane: str | None) -> int:
        """Return the row of the place of a span; looked up, because most spans share theirs with others."""
        key = (outer_row, kind, name, index if kind == _STEP else -1, lane)
        if (row := self.place_rows.get(key)) is None:
            row = self.place_rows[key] = len(self.spans.places)
            outer = self.spans.places[outer_row]
            names = self.names[outer.run] if outer.run is not None else {}
            self.spans.places.append(place_within(outer, str(kind), name, index=index, names=names, lane=lane))
        return row

    def own_spans(self) -> list[int]:
        """Return the spans so far that are on the host lane."""
        return [span for span in range(len(self.spans.parents)) if self.spans.place(span).lane == HOST]

    def under_way(self, now: int) -> int | None:
        """Return the innermost span that was open at `now` on the host lane."""
        begun = bisect_right(self.host_spans, now, key=self.spans.start_ns.__getitem__)
        span = self.host_spans[begun - 1] if begun else None
        while span is not None and self.spans.end_ns[span] < now:
            span = self.spans.parents[span]
        return span

    def run_around(self, span: int | None) -> int | None:
        """Return the innermost run that `span` is, or lies in."""
        while span is not None and self.spans.place(span).kind != _RUN:
            span = self.spans.parents[span]
        return span


_COPYING = frozenset({Kind.TRANSFER.value, Kind.WAIT.value})


def decode(
    logs: Sequence[Log], *, origin_ns: int, until_ns: int, pools: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the spans and the memory samples in the logs.

    Args:
        logs: One a thread, in the order of their first use.
        origin_ns: The clock when the record started; times are counted from there.
        until_ns: The clock when the record ended; open spans end there.
        pools: The pools that the readings of a sample belong to, in order.
    """
    record = DecodedLogs(pools)
    for number, log in enumerate(sorted(logs, key=lambda log: _RUN not in log[::WIDTH])):
        if number == 1:
            record.host_spans = record.own_spans()
        _LogReader(record).read(log, until_ns)
    record.samples.sort(key=itemgetter(0))  # by time; the threads' samples interleave
    at_ns, pool, component, allocated, peak = zip(*record.samples, strict=True) if record.samples else [()] * 5
    memory = memory_frame(
        at_ns=[now - origin_ns for now in at_ns],
        pool=pool,
        component=component,
        allocated_bytes=allocated,
        peak_bytes=peak,
    )
    return record.spans.to_frame(origin_ns=origin_ns), memory


class _LogReader:
    """Reads one thread's log."""

    def __init__(self, record: DecodedLogs) -> None:
        self.record = record
        self.spans = record.spans
        self.open: list[int] = []
        self.ended: int | None = None
        self.next_names: NameTable = {}
        self.next_memory: Reading | None = None
        self.next_device: Reached | None = None

    def read(self, log: Log, until_ns: int) -> None:
        log = log[:]  # a copy, because another thread may append meanwhile
        for head, what, detail, now in zip(*(log[slot::WIDTH] for slot in range(WIDTH)), strict=True):
            if head is END:
                self.end(what, now)
            elif not isinstance(head, Mark):
                self.begin(head, what, detail, now)
            elif head is DEVICE:
                self.reached(what)
            elif head is Mark.NAMES:
                self.next_names = what
            elif head is Mark.CLOSE:
                self.close(now)
            else:
                self.sample(head, what, detail, now)
        self.close(until_ns)

    def begin(self, kind: str, name: str, detail: int, now: int) -> None:
        parent = around = self.open[-1] if self.open else None
        lane = None
        if kind in _COPYING and self.is_copy():
            lane, around = COPY, self.record.under_way(now) if around is None else around
            parent = self.record.run_around(around)
        outer_row = 0 if around is None else self.spans.place_rows[around]
        if kind == _RUN:
            place_row = self.record.begin_run(outer_row, name, self.next_names)
        else:
            place_row = self.record.place_row(outer_row, kind, name, detail, lane)
        span = self.spans.add(parent, place_row, detail, now)
        self.open.append(span)
        if self.next_device is not None:
            self.spans.device_start_ns[span] = self.next_device.at_ns
            self.next_device = None
        if self.next_memory is not None and kind in BORDERS:
            allocated, _ = self.next_memory
            self.spans.borders[span] = BorderMemory(before=allocated, peak=allocated)

    def is_copy(self) -> bool:
        """Tell whether a transfer or wait that begins now is on the copy lane."""
        if self.next_device is not None and self.next_device.lane == COPY:
            return True
        return not self.open and bool(self.record.host_spans)

    def end(self, error: str | None, now: int) -> None:
        self.ended = self.open.pop() if self.open else None
        if self.ended is not None:
            self.spans.end_ns[self.ended] = now
            if error is not None:
                self.spans.errors[self.ended] = error

    def close(self, now: int) -> None:
        while self.open:
            self.end(UNFINISHED, now)
        self.ended = None

    def reached(self, point: Reached) -> None:
        """Take the device's time as the end of the span that has just ended, else as the start of the next span."""
        if self.ended in self.spans.device_start_ns and self.ended not in self.spans.device_end_ns:
            self.spans.device_end_ns[self.ended] = point.at_ns
        else:
            self.next_device = point

    def sample(self, mark: Mark, readings: Sequence[Reading], counters: Mapping[str, int], now: int) -> None:
        own = [(now, pool, None, *reading) for pool, reading in zip(self.record.pools, readings, strict=True)]
        books = [(*name.partition("/")[::2], nbytes) for name, nbytes in counters.items()]
        self.record.samples += own + [(now, pool, component or None, nbytes, None) for pool, component, nbytes in books]
        border = self.spans.borders.get(self.ended) if mark is Mark.AFTER and self.ended is not None else None
        for allocated, peak in readings[:1]:
            self.next_memory = readings[0]
            if border is not None:
                border.after, border.peak = allocated, max(border.peak, peak)
            self.raise_peak(border.peak if border is not None else peak)

    def raise_peak(self, peak: int) -> None:
        """Raise the peak of the innermost open run or stage; when that ends, it raises the one around it."""
        for span in reversed(self.open):
            if (border := self.spans.borders.get(span)) is not None:
                border.peak = max(border.peak, peak)
                return
