"""What to change first: the same video on the same card, with twice as much of one thing at a time.

    advice = what_helps(rehearsal, card, instead={"LTX-2.3 distilled": another})
    advice.says                # which change helps most, and which change nothing
    advice.frame               # a row a change: the columns of `ADVICE`

Each change is surveyed like the card itself (`_survey`), so the plan follows the change. What costs no money, another
model for the same video, comes first. Times are bounds: changes are ranked by what the video takes at least, and where
that is the same, by what it takes if nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import polars as pl

from reslab.residency._device._spec import DeviceSpec
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._tune._answer import Answer
from reslab.residency._tune._survey import survey
from reslab.stages.support import Compared

AS_IT_IS = "as it is"
ADVICE: Mapping[str, Any] = {
    "change": pl.String,
    "plan": pl.String,
    "fits": pl.Boolean,
    "keep": pl.Int64,  # blocks of the streaming component that stay; null where it does not stream
    "floor_s": pl.Float64,  # at least: all copying hides behind compute
    "ceiling_s": pl.Float64,  # if nothing overlaps
    "faster": pl.Float64,  # floor as it is ÷ floor with the change
}
#: A change of less than this share of the time is none.
_NOTICED = 0.01
_LINK = ("link_bytes_per_s", "link_back_bytes_per_s", "link_pageable_bytes_per_s")
#: What can be had twice as much of, by the figures of a device that double.
_DOUBLED = {
    "link ×2": _LINK,
    "memory of the card ×2": ("memory_bytes", "free_bytes"),
    "memory of the host ×2": ("host_memory_bytes", "pinnable_bytes"),
    "disk ×2": ("disk_bytes_per_s",),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Advice(Compared):
    """What helps one video on one card.

    Attributes:
        frame: A row a change, the card as it is first: the columns of `ADVICE`.
        says: Which change helps most, and which change nothing, in sentences.
    """

    frame: pl.DataFrame = field(repr=False)
    says: str

    def _repr_html_(self) -> str:
        shown = self.frame.with_columns(pl.col("floor_s", "ceiling_s").round(0), pl.col("faster").round(1))
        return f"<p>{escape(self.says)}</p>{shown._repr_html_()}"


def what_helps(rehearsal: Rehearsal, card: DeviceSpec, *, instead: Mapping[str, Rehearsal] | None = None) -> Advice:
    """Find what helps most to make one video faster on one card: twice the link, memory, host memory or disk.

    Args:
        rehearsal: Of the video.
        card: The card, with its host.
        instead: Other models for the same video, by name: changes that cost no money.

    Raises:
        RehearsalError, DeviceError: For anything else than rehearsals and devices.
    """
    now = survey(rehearsal, card)[0]
    free = {name: survey(other, card)[0] for name, other in (instead or {}).items()}
    bought = {name: survey(rehearsal, _doubled(card, name))[0] for name in _changes(card)}
    rows = [_row(name, answer, now) for name, answer in ({AS_IT_IS: now} | free | bought).items()]
    frame = pl.DataFrame(rows, schema=dict(ADVICE), orient="row")
    return Advice(frame=frame, says=" ".join(_sentences(frame, set(free), now)))


def _changes(card: DeviceSpec) -> list[str]:
    """Return what can be changed: memory that is one has neither a link nor a host of its own."""
    return [name for name in _DOUBLED if not card.unified or name == "memory of the card ×2"]


def _doubled(card: DeviceSpec, change: str) -> DeviceSpec:
    return replace(card, name=change, **{name: 2 * getattr(card, name) for name in _DOUBLED[change]})


def _row(change: str, answer: Answer, now: Answer) -> tuple[Any, ...]:
    floor, ceiling = answer.bounds.floor_ns, answer.bounds.ceiling_ns
    faster = now.bounds.floor_ns / floor if floor and now.fits and answer.fits else None
    return change, answer.plan.name, answer.fits, answer.keep, floor / 1e9, ceiling / 1e9, faster


def _sentences(frame: pl.DataFrame, free: set[str], now: Answer) -> Iterator[str]:
    rows = frame.rows(named=True)
    first, changes = rows[0], rows[1:]
    yield f"As it is: {_took(first)}." if now.fits else f"It does not fit as it is. {now.hint}"
    if now.fits and _waits_for_the_host(now):
        ns = now.device.host_ns_per_operation
        yield f"Most of that the host takes for issuing operations, {ns / 1e3:g} µs each, which no faster card changes."
    for row in changes:
        if row["change"] in free and row["fits"]:
            yield f"{row['change']}, which costs nothing: {_took(row)}{_times(row)}."
    bought = [row for row in changes if row["change"] not in free]
    useful = sorted((row for row in bought if row["fits"] and _notices(row, first)), key=_speed)
    if useful:
        yield f"Of what can be bought, {useful[0]['change']} helps most: {_took(useful[0])}{_times(useful[0])}."
        others = [f"{row['change']}{_times(row)}" for row in useful[1:]]
        if others:
            yield f"Less: {', '.join(others)}."
    nothing = [row["change"] for row in bought if row not in useful]
    if nothing and now.fits:
        yield f"{_listed(nothing)} {'changes' if len(nothing) == 1 else 'change'} nothing."
    elif nothing:
        yield f"{_listed(nothing)}: it still does not fit."


def _waits_for_the_host(now: Answer) -> bool:
    by_host = sum(row.floor_ns for row in now.bounds.rows if row.limited_by == "host")
    return by_host > now.bounds.floor_ns / 2


def _notices(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Tell whether a change makes it fit, or saves more than a hundredth of either time."""
    if not first["fits"]:
        return bool(row["fits"])
    return any(row[name] < (1 - _NOTICED) * first[name] for name in ("floor_s", "ceiling_s"))


def _speed(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sort by what it takes at least, to three digits, then by what it takes if nothing overlaps."""
    return float(f"{row['floor_s']:.3g}"), row["ceiling_s"]


def _took(row: Mapping[str, Any]) -> str:
    floor, ceiling = (_seconds(row[name]) for name in ("floor_s", "ceiling_s"))
    return f"at least {floor}, {ceiling} if nothing overlaps" if floor != ceiling else f"at least {floor}"


def _times(row: Mapping[str, Any]) -> str:
    if row["faster"] is None:
        return ""
    return f" (×{row['faster']:.1f} as fast)" if row["faster"] >= 1.05 else f" ({row['faster'] - 1:.0%} faster)"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _listed(names: list[str]) -> str:
    text = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return text[0].upper() + text[1:]
