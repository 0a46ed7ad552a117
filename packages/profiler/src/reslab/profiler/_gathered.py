"""What the logs of all threads have told so far, and the questions that reading the next of them asks.

    gathered = Gathered(pools=["host"])
    row = gathered.place_row(0, "stage", "denoise", 3, lane=None)      # looked up, or made
    gathered.under_way(now)                                            # what the host did then

Most spans share their place with others, so a place is worked out once and looked up ever after.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from reslab.profiler._record import NameTable
from reslab.profiler._schema import HOST
from reslab.profiler._spans import Place, Spans, place_within
from reslab.stages import Kind

_RUN, _STEP = Kind.RUN.value, Kind.STEP.value

#: When, whose memory, of which component, bytes allocated, and the most since the sample before.
Sample = tuple[int, str, str | None, int, int | None]


class Gathered:
    """What the logs of all threads have told so far."""

    def __init__(self, pools: Sequence[str]) -> None:
        self.pools = pools
        self.spans = Spans()
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
