"""From the logs of the hot path to frames: who lies inside whom.

Each thread's log is a string of brackets, read once from left to right with a stack of open spans. Two things are
repaired rather than refused, because the record of a run that went wrong is worth most: an end without a beginning
(recording started inside a span) is passed over, and what is still open at the end is closed there with the error
"unfinished".

The first log is that of the thread recorded first, the host lane. Transfers and waits that another thread tells of
are the copy lane: they hang under the run that was under way and belong to the stage that was.

    spans, memory = decode(logs, origin_ns=0, until_ns=clock(), pool="host")
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import count
from operator import itemgetter

import polars as pl

from reslab.profiler._record import Log, Mark, NameTable, StageNames, entries
from reslab.profiler._schema import COPY, HOST, memory_frame
from reslab.profiler._spans import Place, Span, place_within, to_frame
from reslab.stages import Kind

UNFINISHED = "unfinished"

Sample = tuple[int, int, int]


def decode(logs: Sequence[Log], *, origin_ns: int, until_ns: int, pool: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the spans and the memory samples that the logs tell of.

    Args:
        logs: One a thread, the host lane's first.
        origin_ns: The clock when the record started; times are counted from there.
        until_ns: The clock when it ended; what is still open is closed there.
        pool: Whose memory was read.
    """
    spans: list[Span] = []
    samples: list[Sample] = []
    runs = count()
    host = None
    for log in logs:
        _Decoder(spans, samples, runs, host=host).read(log, until_ns)
        host = host or spans[:]
    samples.sort(key=itemgetter(0))  # by time; the threads' samples interleave
    memory = memory_frame(
        at_ns=[now - origin_ns for now, _, _ in samples],
        pool=[pool] * len(samples),
        allocated_bytes=[allocated for _, allocated, _ in samples],
        peak_bytes=[peak for _, _, peak in samples],
    )
    return to_frame(spans, origin_ns=origin_ns), memory


class _Decoder:
    """Reads one thread's log; spans and samples of all threads gather in the same lists."""

    def __init__(
        self, spans: list[Span], samples: list[Sample], runs: Iterator[int], *, host: Sequence[Span] | None
    ) -> None:
        self.spans = spans
        self.samples = samples
        self.runs = runs
        self.host = host
        self.open: list[Span] = []
        self.tables: list[NameTable] = []
        self.next_table: NameTable = {}
        self.before: int | None = None
        self.ended: Span | None = None

    def read(self, log: Log, until_ns: int) -> None:
        for entry in entries(log):
            match entry:
                case (Mark.END, error, now):
                    self.end(error, now)
                case (Mark.BEFORE, now, allocated, peak):
                    self.sample_before(now, allocated, peak)
                case (Mark.AFTER, now, allocated, peak):
                    self.sample_after(now, allocated, peak)
                case (Mark.NAMES, table):
                    self.next_table = table
                case (kind, name, index, nbytes, now):
                    self.begin(str(kind), str(name), index, nbytes, now)
        while self.open:
            self.end(UNFINISHED, until_ns)

    def begin(self, kind: str, name: str, index: int, nbytes: int, now: int) -> None:
        parent, lane, outer = self.around(kind, now)
        if kind == Kind.RUN:
            outer = Place(run=next(self.runs))
            self.tables.append(self.next_table)
        names = self.tables[-1].get(name, StageNames()) if self.tables else StageNames()
        place = place_within(outer, kind, name, index=index, names=names)
        span = Span(span=len(self.spans), parent=parent, kind=kind, lane=lane, name=name, place=place, start_ns=now)
        span.nbytes = nbytes
        if span.is_border:
            span.allocated_before_bytes = span.allocated_peak_bytes = self.before
        self.spans.append(span)
        self.open.append(span)

    def end(self, error: str | None, now: int) -> None:
        self.ended = self.open.pop() if self.open else None
        if self.ended is not None:
            self.ended.end_ns, self.ended.error = now, error
            if self.ended.kind == Kind.RUN:
                self.tables.pop()

    def around(self, kind: str, now: int) -> tuple[int | None, str, Place]:
        """Return parent, lane and place for a span that begins now."""
        if self.open:
            return self.open[-1].span, self.open[-1].lane, self.open[-1].place
        if self.host is not None and kind in (Kind.TRANSFER, Kind.WAIT):
            run, place = _under_way(self.host, now)
            return run, COPY, place
        return None, HOST, Place()

    def sample_before(self, now: int, allocated: int, peak: int) -> None:
        self.samples.append((now, allocated, peak))
        self.before = allocated
        self.raise_peak(peak)

    def sample_after(self, now: int, allocated: int, peak: int) -> None:
        self.samples.append((now, allocated, peak))
        if self.ended is not None and self.ended.is_border:
            self.ended.allocated_after_bytes = allocated
            self.ended.raise_peak(peak)
            self.raise_peak(self.ended.allocated_peak_bytes or 0)

    def raise_peak(self, peak: int) -> None:
        """Let the innermost open run or stage know of a peak; when it ends, it tells the one around it."""
        for span in reversed(self.open):
            if span.is_border:
                return span.raise_peak(peak)


def _under_way(host: Sequence[Span], now: int) -> tuple[int | None, Place]:
    """Return the run under way at `now` on the host lane, and the place of the innermost span that was."""
    begun = bisect_right(host, now, key=lambda span: span.start_ns)
    span = host[begun - 1] if begun else None
    while span is not None and span.end_ns < now:
        span = _around(host, span)
    place = span.place if span is not None else Place()
    while span is not None and span.kind != Kind.RUN:
        span = _around(host, span)
    return (None if span is None else span.span), place


def _around(host: Sequence[Span], span: Span) -> Span | None:
    return None if span.parent is None else host[span.parent]
