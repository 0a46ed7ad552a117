"""Card × size: for each the plan that keeps most and fits, what it takes, and what it moves.

    survey(rehearsals, ["RTX 4090", "H100"]).frame          # a row a card and size: the columns of `SURVEY`
    answer = survey(rehearsal, "RTX 4090")                  # one of each
    answer.plan, answer.why, answer.code()

Plans are tried in the order of what they keep: everything resident; components swapped for their stages; one component
streaming with as many of its blocks as fit, all others streaming too; the same with the others on disk; and at last
with itself on disk, for hosts with little memory. Where none fits, the same again with the VAE decoding in tiles, which
changes its bits. It is a reader's first answer, by bounds: nothing is optimised. Each of these plans is a preset of
that name, so `preset(name, rehearsal, device=card)` gives it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import polars as pl

from reslab.profiler import GIB
from reslab.residency._bounds._arguments import Devices, Rehearsals, many_devices, many_rehearsals
from reslab.residency._bounds._bounds import Bounds
from reslab.residency._bounds._named import checked_slack
from reslab.residency._bounds._roomy import roomy
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import SURVEYED, TILED, main_component
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._report._answer import Answer
from reslab.residency._report._hint import missing, smallest_change

if TYPE_CHECKING:
    from reslab.residency._plan._code import Code

SURVEY: Mapping[str, Any] = {
    "device": pl.String,
    "size": pl.String,
    "plan": pl.String,  # a preset: all resident, swap, streaming …
    "fits": pl.Boolean,  # False: no plan fits, and the row is about the one that comes nearest
    "keep": pl.Int64,  # blocks of the streaming component that stay; null where it does not stream
    "floor_s": pl.Float64,  # at least: all copying hides behind compute
    "ceiling_s": pl.Float64,  # if nothing overlaps
    "resident_s": pl.Float64,  # the same run without a copy
    "peak_gib": pl.Float64,
    "moved_gib": pl.Float64,
    "host_gib": pl.Float64,
    "why": pl.String,
    "hint": pl.String,  # the smallest change with which it would fit; empty where it does
}


@dataclass(frozen=True, slots=True)
class Survey(Sequence[Answer]):
    """Answers, card by card and size by size; what it says of the only one, where there is one.

    Attributes:
        answers: In the order of cards, and of rehearsals for each.
    """

    answers: tuple[Answer, ...]

    @property
    def frame(self) -> pl.DataFrame:
        """Return a row an answer, with the columns of `SURVEY`: to filter, to select from, to draw."""
        return frame(self.answers)

    @property
    def plan(self) -> Plan:
        """Return the plan of the only answer."""
        return self._only.plan

    @property
    def bounds(self) -> Bounds:
        """Return the bounds of the only answer."""
        return self._only.bounds

    @property
    def fits(self) -> bool:
        """Tell whether the only answer's plan fits."""
        return self._only.fits

    @property
    def why(self) -> str:
        """Return why the only answer's plan fits, or does not."""
        return self._only.why

    @property
    def hint(self) -> str:
        """Return the smallest change with which the only answer's plan would fit; empty where it does."""
        return self._only.hint

    @property
    def workload(self) -> Workload:
        """Return sizes and calls of the only answer's run with its plan, as for `apply(known=...)`."""
        return self._only.workload

    def code(self) -> str:
        """Return the Python that loads and runs the only answer; see `Answer.code`."""
        return self._only.code()

    def as_code(self, tool: str) -> Code:
        """Return the only answer's plan for another tool; see `Plan.as_code`."""
        return self._only.as_code(tool)

    @property
    def _only(self) -> Answer:
        if len(self.answers) != 1:
            raise ValueError(
                f"this survey has {len(self.answers)} answers, each with its own; take one, as in survey[0]"
            )
        return self.answers[0]

    @overload
    def __getitem__(self, place: int) -> Answer: ...

    @overload
    def __getitem__(self, place: slice) -> Survey: ...

    def __getitem__(self, place: Any) -> Answer | Survey:
        if isinstance(place, str):
            raise TypeError(f"a survey is a sequence of answers; its columns are in its frame: survey.frame[{place!r}]")
        return Survey(self.answers[place]) if isinstance(place, slice) else self.answers[place]

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __repr__(self) -> str:
        fit = sum(answer.fits for answer in self.answers)
        return f"Survey({len(self.answers)} answers, {fit} fit)" if len(self.answers) != 1 else repr(self.answers[0])

    def _repr_html_(self) -> str:
        return self.answers[0]._repr_html_() if len(self.answers) == 1 else self.frame._repr_html_()


def survey(
    rehearsals: Rehearsals,
    devices: Devices,
    *,
    component: str | None = None,
    pool_slack_bytes: int | None = None,
) -> Survey:
    """Find for each device and rehearsed run the plan that keeps most and fits.

    Args:
        rehearsals: One or several; by label, or without labels by the size they were requested with.
        devices: One card or several, or their names.
        component: Which one keeps as many blocks as fit where it does not fit whole; by default the transformer, or
            else the heaviest that has blocks.
        pool_slack_bytes: What the allocator takes beyond what is alive; by default as in `bounds`.

    Returns:
        The answers; their rows are in `frame`.

    Raises:
        RehearsalError, DeviceError: For anything else than rehearsals and devices.
        PlanError: There is no such component with blocks; it names the nearest.
    """
    runs, cards = many_rehearsals(rehearsals, "a survey"), many_devices(devices, "a survey")
    slack = checked_slack(pool_slack_bytes)
    return Survey(
        tuple(
            _answer(label, run, card, component=component, pool_slack_bytes=slack)
            for card in cards
            for label, run in runs.items()
        )
    )


def frame(answers: Iterable[Answer]) -> pl.DataFrame:
    """Return a row an answer: the columns of `SURVEY`."""
    return pl.DataFrame(list(map(_row, answers)), schema=dict(SURVEY), orient="row")


def _answer(
    label: str, run: Rehearsal, card: DeviceSpec, *, component: str | None, pool_slack_bytes: int | None
) -> Answer:
    tried = []
    for name in _names(run):
        limits = roomy(name, run, card, component=component, pool_slack_bytes=pool_slack_bytes)
        if limits.fits:
            break
        tried.append(limits)
    else:
        limits = min(tried, key=missing)
    main = main_component(workload(run), component)
    kept = limits.plan.placement(main) if main is not None else None
    return Answer(
        label=label,
        bounds=limits,
        rehearsal=run,
        keep=kept.resident if kept is not None and kept.streams else None,
        hint="" if limits.fits else smallest_change(limits),
    )


def _names(run: Rehearsal) -> Iterator[str]:
    yield from SURVEYED
    if run.calls["tiled_trace"].null_count() < run.calls.height:
        yield from (name + TILED for name in SURVEYED)


def _row(answer: Answer) -> tuple[Any, ...]:
    limits = answer.bounds
    return (
        limits.device.name,
        answer.label,
        limits.plan.name,
        limits.fits,
        answer.keep,
        *_seconds(limits),
        limits.peak_bytes / GIB,
        limits.moved_bytes / GIB,
        (limits.memory.pinned_bytes + limits.memory.pageable_bytes) / GIB,
        answer.why,
        answer.hint,
    )


def _seconds(limits: Bounds) -> tuple[float | None, ...]:
    """Return the least, the most, and the time without a copy; None each where the device's rates are not known."""
    if limits.unknown:
        return None, None, None
    return limits.floor_ns / 1e9, limits.ceiling_ns / 1e9, limits.compute_ns / 1e9
