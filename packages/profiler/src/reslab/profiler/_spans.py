"""One span in the making, where it lies, and how many of them become a frame.

A span takes its `Place` from the span around it and adds its own coordinate, so that a filter on one coordinate finds
everything below it:

    inside = place_within(Place(run=0, stage="denoise"), Kind.STEP, "step", index=3, names=StageNames())
    inside.stage, inside.step      # ("denoise", 3)

A run starts afresh: a pipeline that runs inside another's stage has stages of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from reslab.profiler._record import StageNames
from reslab.profiler._schema import BORDERS, spans_frame
from reslab.stages import Kind


class Place(NamedTuple):
    """Where a span lies: the coordinates it has itself or takes from the spans around it."""

    run: int | None = None
    stage: str | None = None
    registered_name: str | None = None
    stage_class: str | None = None
    component: str | None = None
    block: str | None = None
    step: int | None = None
    guidance_pass: str | None = None


@dataclass(slots=True, kw_only=True)
class Span:
    """One row in the making; filled from its beginning to its end."""

    span: int
    parent: int | None
    kind: str
    lane: str
    name: str
    place: Place
    start_ns: int
    end_ns: int = -1
    nbytes: int = 0
    allocated_before_bytes: int | None = None
    allocated_after_bytes: int | None = None
    allocated_peak_bytes: int | None = None
    error: str | None = None

    @property
    def is_border(self) -> bool:
        """Whether memory is read when it begins and ends."""
        return self.kind in BORDERS

    @property
    def host_ns(self) -> int:
        """Nanoseconds from its beginning to its end."""
        return self.end_ns - self.start_ns

    def raise_peak(self, peak_bytes: int) -> None:
        """Take `peak_bytes` for the peak if it is higher."""
        self.allocated_peak_bytes = max(self.allocated_peak_bytes or 0, peak_bytes)


def place_within(outer: Place, kind: str, name: str, *, index: int, names: StageNames) -> Place:
    """Return the place of a span that begins at `outer`.

    >>> place_within(Place(run=0), "transfer", "transformer/7", index=-1, names=StageNames())[4:6]
    ('transformer', '7')

    Args:
        outer: Place of the span around it; for a run, one that has only the run's number.
        kind: A `reslab.stages.Kind`, or "span".
        name: As told to the observer.
        index: Number of the step, if it is one.
        names: Profile name and class, if it is a stage.
    """
    match kind:
        case Kind.STAGE:
            return Place(outer.run, names.profile_name or name, name, names.stage_class)
        case Kind.STEP:
            return outer._replace(step=index)
        case Kind.PASS:
            return outer._replace(guidance_pass=name)
        case Kind.COMPONENT:
            return outer._replace(component=name.rpartition(".")[0] or name, block=None)
        case Kind.TRANSFER:
            component, _, block = name.partition("/")
            return outer._replace(component=component, block=block or None)
        case _:
            return outer


def to_frame(spans: Sequence[Span], *, origin_ns: int) -> pl.DataFrame:
    """Return the spans as a frame of `SPAN_SCHEMA`, times counted from `origin_ns`."""
    places = zip(*(span.place for span in spans), strict=True)
    return spans_frame(
        **dict(zip(Place._fields, places, strict=bool(spans))),
        **{name: [getattr(span, name) for span in spans] for name in _AS_IS},
        start_ns=[span.start_ns - origin_ns for span in spans],
        moved_bytes=[span.nbytes if span.kind == Kind.TRANSFER else None for span in spans],
        stall_ns=[span.host_ns if span.kind == Kind.WAIT else None for span in spans],
    )


_AS_IS = (
    "span",
    "parent",
    "kind",
    "lane",
    "name",
    "host_ns",
    "allocated_before_bytes",
    "allocated_after_bytes",
    "allocated_peak_bytes",
    "error",
)
