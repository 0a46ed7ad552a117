"""A survey of cards and sizes: for each pair the plan that keeps most and fits, its time, and the bytes it moves.

    survey(rehearsals, ["RTX 4090", "H100"]).frame          # a row a card and size: the columns of `SURVEY`
    answer = survey(rehearsal, "RTX 4090")                  # one of each
    answer.plan, answer.why, answer.code()

Plans are tried from the one that keeps most: everything resident; components swapped for their stages; one component
streaming with as many resident blocks as fit, while all others stream too; the same with the others on disk; and last
the component itself on disk, for hosts with little memory. If none fits, the same plans are tried with the VAE decoding
in tiles, which changes bits. A survey is a first answer by bounds: it optimises nothing. Each plan is a preset of its
name, so `preset(name, rehearsal, device=card)` returns it too.

If no plan fits, the answer is the nearest plan with a hint: by how much it misses, where, and the smallest change with
which it would fit.
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
from reslab.residency._predict._preset import checked_slack, fitted_preset
from reslab.residency._predict._rehearsed import workload
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._tune._answer import Answer, frame

if TYPE_CHECKING:
    import polars as pl

    from reslab.residency._plan._code import Code


@dataclass(frozen=True, slots=True)
class Survey(Sequence[Answer]):
    """Answers, card by card and size by size; with one answer, its attributes are the survey's too.

    Attributes:
        answers: The answers in the order of cards, and of rehearsals for each card.
    """

    answers: tuple[Answer, ...]

    @property
    def frame(self) -> pl.DataFrame:
        """Return a row an answer, with the columns of `SURVEY`."""
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
        """Return whether the only answer's plan fits."""
        return self._only.fits

    @property
    def why(self) -> str:
        """Return a sentence that says why the only answer's plan fits, or does not."""
        return self._only.why

    @property
    def hint(self) -> str:
        """Return the smallest change with which the only answer's plan would fit; "" if it fits."""
        return self._only.hint

    @property
    def workload(self) -> Workload:
        """Return sizes and calls of the only answer's run with its plan, for `apply(known=...)`."""
        return self._only.workload

    def code(self) -> str:
        """Return Python code that loads and runs the only answer; see `Answer.code`."""
        return self._only.code()

    def as_code(self, tool: str) -> Code:
        """Return the nearest settings of another tool for the only answer's plan; see `Plan.as_code`."""
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
    """Find the plan that keeps most and fits, for each device and rehearsed run.

    Args:
        rehearsals: One or several, by label; without labels, they are labelled by their requested size.
        devices: One card or several, or their names.
        component: The component that keeps as many blocks as fit if it does not fit whole; by default the transformer,
            or else the heaviest with blocks.
        allocator_slack_bytes: Bytes that torch's allocator holds beyond live tensors; the default is that of `bounds`.

    Returns:
        The answers; their rows are in `frame`.

    Raises:
        RehearsalError, DeviceError: An argument is neither rehearsals nor devices.
        PlanError: There is no such component with blocks; the message names the nearest.
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
        limits = fitted_preset(name, run, card, component=component, allocator_slack_bytes=allocator_slack_bytes)
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
    """Return the bytes that device and host lack together; 0 if the plan fits."""
    return limits.memory.missing_device_bytes + limits.memory.missing_host_bytes


def smallest_change(limits: Bounds) -> str:
    """Return sentences: by how much the nearest plan misses, in which stage, and the smallest change that would do."""
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
        f"The nearest plan is {limits.plan.name!r}, which lacks {' and '.join(short)}.",
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
    """Return a size in GiB, rounded up so that it suffices."""
    return f"{math.ceil(nbytes / 2**30 * 100) / 100:.2f} GiB"
