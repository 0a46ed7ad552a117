"""Card × size: for each the plan that keeps most and fits, what it takes, and what it moves.

    survey(rehearsals, ["RTX 4090", "H100"]).frame          # a row a card and size: the columns of `SURVEY`
    answer = survey(rehearsal, "RTX 4090")                  # one of each
    answer.plan, answer.why, answer.code()

Plans are tried in the order of what they keep: everything resident; components swapped for their stages; one component
streaming with as many of its blocks as fit, all others streaming too; the same with the others on disk; and at last
with itself on disk, for hosts with little memory. Where none fits, the same again with the VAE decoding in tiles, which
changes its bits. It is a reader's first answer, by bounds: nothing is optimised. Each of these plans is a preset of
that name, so `preset(name, rehearsal, device=card)` gives it too.

What would help where nothing fits: by how much a plan misses, where, and the smallest change with which it fits.

missing(limits)              # bytes, of the device and of the host
smallest_change(limits)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from reslab.profiler import gib
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import SURVEYED, TILED, main_component
from reslab.residency._plan._workload import Workload
from reslab.residency._predict._arguments import Devices, Rehearsals, many_devices, many_rehearsals
from reslab.residency._predict._bounds import Bounds
from reslab.residency._predict._preset import checked_slack, roomy
from reslab.residency._predict._rehearsed import workload
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._tune._answer import Answer, frame

if TYPE_CHECKING:
    import polars as pl

    from reslab.residency._plan._code import Code


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
    allocator_slack_bytes: int | None = None,
) -> Survey:
    """Find for each device and rehearsed run the plan that keeps most and fits.

    Args:
        rehearsals: One or several; by label, or without labels by the size they were requested with.
        devices: One card or several, or their names.
        component: Which one keeps as many blocks as fit where it does not fit whole; by default the transformer, or
            else the heaviest that has blocks.
        allocator_slack_bytes: What the allocator takes beyond what is alive; by default as in `bounds`.

    Returns:
        The answers; their rows are in `frame`.

    Raises:
        RehearsalError, DeviceError: For anything else than rehearsals and devices.
        PlanError: There is no such component with blocks; it names the nearest.
    """
    runs, cards = many_rehearsals(rehearsals, "a survey"), many_devices(devices, "a survey")
    slack = checked_slack(allocator_slack_bytes)
    return Survey(
        tuple(
            _answer(label, run, card, component=component, allocator_slack_bytes=slack)
            for card in cards
            for label, run in runs.items()
        )
    )


def _answer(
    label: str, run: Rehearsal, card: DeviceSpec, *, component: str | None, allocator_slack_bytes: int | None
) -> Answer:
    tried = []
    for name in _names(run):
        limits = roomy(name, run, card, component=component, allocator_slack_bytes=allocator_slack_bytes)
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


def missing(limits: Bounds) -> int:
    """Return the bytes that a plan lacks, of the device and of the host together; 0 where it fits."""
    return limits.memory.missing_device_bytes + limits.memory.missing_host_bytes


def smallest_change(limits: Bounds) -> str:
    """Return by how much the plan that comes nearest misses, in which stage, and what it would take to fit."""
    memory, card = limits.memory, limits.device
    short, wanted = [], []
    if memory.missing_device_bytes:
        short.append(f"{_up(memory.missing_device_bytes)} on the device in {memory.peak_stage}")
        wanted.append(
            f"{_up(card.free_bytes + memory.missing_device_bytes)} free on it instead of {gib(card.free_bytes)}"
        )
    if memory.missing_host_bytes:
        short.append(f"{_up(memory.missing_host_bytes)} of host memory")
        wanted.append(
            f"{_up(card.host_memory_bytes + memory.missing_host_bytes)} in the host instead of "
            f"{gib(card.host_memory_bytes)}"
        )
    smaller = ", or with a smaller or shorter request" * bool(memory.missing_device_bytes)
    sentences = [
        f"Nearest is {limits.plan.name!r}, which lacks {' and '.join(short)}.",
        f"It fits with {' and '.join(wanted)}{smaller}.",
        *_slack(limits),
    ]
    return " ".join(sentences)


def _slack(limits: Bounds) -> Iterator[str]:
    memory = limits.memory
    left = memory.free_bytes - memory.peak_bytes
    if memory.missing_device_bytes and memory.fits_host and left >= 0:
        yield (
            f"Only the {gib(memory.slack_bytes)} of slack for torch's allocator do not fit: with "
            "PYTORCH_ALLOC_CONF=expandable_segments:True it takes less, and "
            f"allocator_slack_bytes={left} plans for that."
        )


def _up(nbytes: int) -> str:
    """Return a size in GiB, rounded up, so that as much does suffice."""
    return f"{math.ceil(nbytes / 2**30 * 100) / 100:.2f} GiB"
