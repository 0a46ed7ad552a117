"""The change that helps most: the same video on the same card, with one resource doubled at a time.

    advice = what_helps(rehearsal, card, instead={"LTX-2.3 distilled": another})
    advice.says                # which change helps most, and which do not help
    advice.frame               # a row a change: the columns of `ADVICE`

Each change is surveyed like the card itself (`_survey`), so that the plan follows the change. Another model for the
same video costs no money, so it comes first. Times are bounds: changes are ranked by the floor, and by the ceiling
where floors are equal.
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
    "keep": pl.Int64,  # resident blocks of the component that streams; null if it does not stream
    "floor_s": pl.Float64,  # at least: all copying hides behind compute
    "ceiling_s": pl.Float64,  # if nothing overlaps
    "faster": pl.Float64,  # floor as it is ÷ floor with the change
}
#: The smallest share of the time that counts as a change.
_NOTICED = 0.01
_LINK = ("link_bytes_per_s", "link_back_bytes_per_s", "link_pageable_bytes_per_s")
#: Resources that can be doubled, with the figures of a device that double.
_DOUBLED = {
    "link ×2": _LINK,
    "memory of the card ×2": ("memory_bytes", "free_bytes"),
    "memory of the host ×2": ("host_memory_bytes", "pinnable_bytes"),
    "disk ×2": ("disk_bytes_per_s",),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Advice(Compared):
    """The changes that help one video on one card.

    Attributes:
        frame: A row a change, after a row for the card as it is: the columns of `ADVICE`.
        says: Sentences that say which change helps most, and which do not help.
    """

    frame: pl.DataFrame = field(repr=False)
    says: str

    def _repr_html_(self) -> str:
        shown = self.frame.with_columns(pl.col("floor_s", "ceiling_s").round(0), pl.col("faster").round(1))
        return f"<p>{escape(self.says)}</p>{shown._repr_html_()}"


def what_helps(rehearsal: Rehearsal, card: DeviceSpec, *, instead: Mapping[str, Rehearsal] | None = None) -> Advice:
    """Find the change that makes one video fastest on one card: twice the link, memory, host memory or disk.

    Args:
        rehearsal: The rehearsed run of the video.
        card: The card, with its host.
        instead: Other models for the same video, by name; they cost no money.

    Raises:
        RehearsalError, DeviceError: An argument is neither rehearsals nor devices.
    """
    now = survey(rehearsal, card)[0]
    free = {name: survey(other, card)[0] for name, other in (instead or {}).items()}
    bought = {name: survey(rehearsal, _doubled(card, name))[0] for name in _changes(card)}
    rows = [_row(name, answer, now) for name, answer in ({AS_IT_IS: now} | free | bought).items()]
    frame = pl.DataFrame(rows, schema=dict(ADVICE), orient="row")
    return Advice(frame=frame, says=" ".join(_sentences(frame, set(free), now)))


def _changes(card: DeviceSpec) -> list[str]:
    """Return the changes that a card allows; unified memory has no link and no separate host."""
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
        yield f"The host takes most of that to issue operations, {ns / 1e3:g} µs each; no faster card changes it."
    for row in changes:
        if row["change"] in free and row["fits"]:
            yield f"{row['change']}, which costs nothing: {_took(row)}{_times(row)}."
    bought = [row for row in changes if row["change"] not in free]
    useful = sorted((row for row in bought if row["fits"] and _notices(row, first)), key=_speed)
    if useful:
        best = useful[0]
        yield f"Of the changes that cost money, {best['change']} helps most: {_took(best)}{_times(best)}."
        others = [f"{row['change']}{_times(row)}" for row in useful[1:]]
        if others:
            yield f"These help less: {', '.join(others)}."
    nothing = [row["change"] for row in bought if row not in useful]
    if nothing and now.fits:
        yield f"{_listed(nothing)} {'does' if len(nothing) == 1 else 'do'} not help."
    elif nothing:
        yield f"It does not fit with {' or '.join(nothing)} either."


def _waits_for_the_host(now: Answer) -> bool:
    by_host = sum(row.floor_ns for row in now.bounds.rows if row.limited_by == "host")
    return by_host > now.bounds.floor_ns / 2


def _notices(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Return whether a change makes the video fit, or saves more than a hundredth of either time."""
    if not first["fits"]:
        return bool(row["fits"])
    return any(row[name] < (1 - _NOTICED) * first[name] for name in ("floor_s", "ceiling_s"))


def _speed(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return a key that sorts by the floor, to three digits, then by the ceiling."""
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
