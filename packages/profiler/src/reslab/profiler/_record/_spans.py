"""Build spans column by column, give each its place, and turn them into a frame.

A span takes its `Place` from the span around it and adds its own coordinate, so that a filter on one coordinate finds
everything below it:

    inside = place_within(Place(run=0, stage="denoise"), Kind.STEP, "step", index=3, names={})
    inside.stage, inside.step      # ("denoise", 3)

A run inherits no stage: a pipeline that runs inside another's stage has stages of its own. Most spans share kind, name
and place with others, so these are rows of a separate table, and a span keeps only the number of its row. That makes
reading a hundred thousand spans a matter of a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from reslab.profiler._model._schema import HOST, spans_frame
from reslab.profiler._record._record import NameTable, StageNames
from reslab.stages import Kind


class Place(NamedTuple):
    """The kind, name and coordinates of a span: its own, and those of the spans around it."""

    kind: str = ""
    name: str = ""
    lane: str = HOST
    run: int | None = None
    stage: str | None = None
    registered_name: str | None = None
    stage_class: str | None = None
    component: str | None = None
    block: str | None = None
    step: int | None = None
    guidance_pass: str | None = None


def place_within(outer: Place, kind: str, name: str, *, index: int, names: NameTable, lane: str | None = None) -> Place:
    """Return the place of a span that begins at `outer`.

    >>> inside = place_within(Place(run=0, stage="denoise"), "transfer", "transformer/7@refine", index=-1, names={})
    >>> inside.stage, inside.component, inside.block
    ('refine', 'transformer', '7')

    Args:
        outer: The place of the span around it.
        kind: A `reslab.stages.Kind`, or "span".
        name: The name as observers get it. A transfer's name ends in "@" and a registered name where the transfer
            serves another stage than the running one.
        index: The number of the step, for a step.
        names: Profile names and classes of stages by registered name.
        lane: The lane of the span; None for the lane of the span around it.
    """
    here = outer._replace(kind=kind, name=name, lane=lane or outer.lane)
    match kind:
        case Kind.STAGE:
            return _in_stage(here, name, names)
        case Kind.STEP:
            return here._replace(step=index)
        case Kind.PASS:
            return here._replace(guidance_pass=name)
        case Kind.COMPONENT:
            return here._replace(component=name.partition(".")[0], block=None)
        case Kind.TRANSFER | Kind.WAIT:
            what, _, served = name.partition("@")
            component, _, block = what.partition("/")
            if served not in ("", here.registered_name):
                here = _in_stage(here, served, names)
            return here._replace(component=component or None, block=block or None)
        case _:
            return here


def _in_stage(here: Place, registered_name: str, names: NameTable) -> Place:
    profile_name, stage_class = names.get(registered_name, StageNames())
    stage = Place(stage=profile_name or registered_name, registered_name=registered_name, stage_class=stage_class)
    return stage._replace(kind=here.kind, name=here.name, lane=here.lane, run=here.run)


@dataclass(slots=True, kw_only=True)
class BorderMemory:
    """Memory of a run or stage, in bytes: before it began, after it ended, and the most in between."""

    before: int
    after: int | None = None
    peak: int


@dataclass(slots=True)
class SpanColumns:
    """Columns of spans under construction: lists hold a value for each span, mappings only for some spans."""

    parents: list[int | None] = field(default_factory=list)
    place_rows: list[int] = field(default_factory=list)
    details: list[int] = field(default_factory=list)
    start_ns: list[int] = field(default_factory=list)
    end_ns: list[int] = field(default_factory=list)
    device_start_ns: dict[int, int] = field(default_factory=dict)
    device_end_ns: dict[int, int] = field(default_factory=dict)
    borders: dict[int, BorderMemory] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    places: list[Place] = field(default_factory=lambda: [Place()])

    def add(self, parent: int | None, place_row: int, detail: int, now: int) -> int:
        """Begin a span and return its number."""
        self.parents.append(parent)
        self.place_rows.append(place_row)
        self.details.append(detail)
        self.start_ns.append(now)
        self.end_ns.append(now)
        return len(self.parents) - 1

    def place(self, span: int) -> Place:
        """Return the place of a span."""
        return self.places[self.place_rows[span]]

    def to_frame(self, *, origin_ns: int) -> pl.DataFrame:
        """Return the spans as a frame of `SPAN_SCHEMA`, times counted from `origin_ns`."""
        places = spans_frame(**dict(zip(Place._fields, zip(*self.places, strict=True), strict=True)))
        sparse: dict[str, Mapping[int, Any]] = {
            "device_start_ns": self.device_start_ns,
            "device_ns": self.device_end_ns,
            "error": self.errors,
            **{f"allocated_{when}_bytes": self._memory(when) for when in ("before", "after", "peak")},
        }
        count = range(len(self.parents))
        frame = spans_frame(
            span=count,
            parent=self.parents,
            start_ns=self.start_ns,
            host_ns=self.end_ns,
            moved_bytes=self.details,
            **{name: [values.get(span) for span in count] for name, values in sparse.items() if values},
        )
        placed = frame.with_columns(places[self.place_rows].select(Place._fields))
        return placed.with_columns(*_DURATIONS).with_columns(
            pl.col("start_ns", "device_start_ns") - origin_ns,
            moved_bytes=pl.when(kind=Kind.TRANSFER.value).then(pl.col("moved_bytes").clip(0)),
            stall_ns=pl.when(kind=Kind.WAIT.value, lane=HOST).then(pl.coalesce("device_ns", "host_ns")),
        )

    def _memory(self, when: str) -> Mapping[int, int | None]:
        return {span: getattr(border, when) for span, border in self.borders.items()}


# while spans are collected, host_ns and device_ns hold their ends; here they become durations
_DURATIONS = (pl.col("host_ns") - pl.col("start_ns"), pl.col("device_ns") - pl.col("device_start_ns"))
