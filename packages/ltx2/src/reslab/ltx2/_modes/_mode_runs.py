"""Device modes run on this machine: the bytes that each moves and holds, and the time that a video takes.

    runs = compare_modes(pipe, request, link=residency.link_ratio(residency.device("H100"), rehearsal))
    runs                                     # in a notebook: a row for each mode
    runs.frame(); runs.chart()
    run_mode("original", pipe, request, settings={"transformer.resident": 4}).profile.timeline()

Each mode is planned as for a card, whose memory is not the host's; on a CPU a second copy in host memory stands for
it. Each mode makes two videos. The first finds out the calls and fetches the weights that stay; where the link is a
card's ratio of copying to computing, it also measures how fast this machine computes. The second video is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab import residency
from reslab.ltx2._device import default_device
from reslab.ltx2._modes._device_modes import UserSettings, device_mode
from reslab.profiler import Profile, Profiler
from reslab.residency import DeviceSpec, Plan, PlanError, Rehearsal
from reslab.stages import Pipeline
from reslab.stages.support import Compared

if TYPE_CHECKING:
    from reslab.profiler import Figure


RUNS: Mapping[str, Any] = {
    "mode": pl.String,
    "transformer": pl.String,  # its placement
    "link_bytes_per_s": pl.Int64,  # the limit of copies; null without one
    "moved_bytes": pl.Int64,  # to the device, for one video; no weight is ever copied back
    "stays_bytes": pl.Int64,  # on the device between videos
    "peak_bytes": pl.Int64,  # the peak of weights on the device, slots included
    "host_bytes": pl.Int64,  # host memory that holds weights
    "run_ns": pl.Int64,
    "stalled_ns": pl.Int64,  # the part of run_ns in which computing waited for weights
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModeRun(Compared):
    """Hold one video made in one device mode, and its measurements.

    Attributes:
        mode: The plan's name, such as "auto: snapshot".
        plan: The plan in force.
        profile: The profile of the measured run.
        result: The pipeline's result.
        link_bytes_per_s: The bandwidth to which copies were limited; None without a limit.
        moved_bytes: Bytes copied to the device for this video; no weight is ever copied back.
        stays_bytes: Weights on the device after the video.
        peak_bytes: The peak of weights on the device, slots included.
        host_bytes: Host memory that holds weights.
    """

    mode: str
    plan: Plan
    profile: Profile = field(repr=False)
    result: Any = field(repr=False)
    link_bytes_per_s: float | None
    moved_bytes: int
    stays_bytes: int
    peak_bytes: int
    host_bytes: int

    @property
    def run_ns(self) -> int:
        """Return the time that the video took, in nanoseconds."""
        return int(self.profile.spans.filter(pl.col("kind") == "run")["host_ns"].sum())

    @property
    def stalled_ns(self) -> int:
        """Return the part of that time in which computing waited for weights, in nanoseconds."""
        return round(float(self.profile.transfers()["stalled_ms"].sum()) * 1e6)

    def row(self) -> tuple[Any, ...]:
        """Return the run as a row with the columns of `RUNS`."""
        link = None if self.link_bytes_per_s is None else round(self.link_bytes_per_s)
        sizes = (self.moved_bytes, self.stays_bytes, self.peak_bytes, self.host_bytes)
        return (self.mode, repr(self.plan.placement("transformer")), link, *sizes, self.run_ns, self.stalled_ns)


@dataclass(frozen=True, kw_only=True)
class ModeRuns:
    """Hold runs of one request in several device modes, in the order in which they were made.

    Attributes:
        runs: The runs.
        free_bytes: The device memory that the modes were allowed; None for no limit.
    """

    runs: tuple[ModeRun, ...] = ()
    free_bytes: int | None = None

    def frame(self) -> pl.DataFrame:
        """Return a row for each run, with the columns of `RUNS`."""
        return pl.DataFrame([run.row() for run in self.runs], schema=dict(RUNS), orient="row")

    def chart(self) -> Figure:
        """Draw each run's peak of weights on the device against its time."""
        from reslab.ltx2._modes._mode_report import modes_chart

        return modes_chart(self.frame(), free_bytes=self.free_bytes)

    @cached_property
    def _by_mode(self) -> dict[str, ModeRun]:
        return {run.mode: run for run in self.runs}

    def __getitem__(self, mode: str) -> ModeRun:
        return self._by_mode[mode]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._by_mode)

    def __repr__(self) -> str:
        return f"ModeRuns({', '.join(run.mode for run in self.runs)})"

    def _repr_html_(self) -> str:
        from reslab.ltx2._modes._mode_report import modes_html

        return modes_html(self.frame())


MODES_COMPARED = ("original", "snapshot", "resident")
_ANY_LINK = "1 GB/s"  # a device with a link has memory of its own; its speed does not matter, modes decide by bytes


def compare_modes(
    pipe: Pipeline,
    request: Mapping[str, Any],
    *,
    modes: Iterable[str] = MODES_COMPARED,
    rehearsal: Rehearsal | None = None,
    free_bytes: int | None = None,
    link: Any = None,
    settings: UserSettings = None,
) -> ModeRuns:
    """Measure one video in each device mode, all over the same link.

    Args:
        pipe: A two-stage pipeline of this package.
        request: The arguments of `pipe.run`.
        modes: Values of `DeviceMode`.
        rehearsal: The rehearsal of that run; by default it is made.
        free_bytes: The device memory that the modes are allowed; by default there is no limit.
        link: The link, as for `residency.apply`. The first mode turns a card's ratio into a bandwidth, which all other
            modes use.
        settings: The user's settings, as for `device_mode`.

    Raises:
        PlanError: A mode does not fit in `free_bytes`, or contradicts a setting.
    """
    known, runs = rehearsal or residency.rehearse(pipe, **request), []
    for mode in modes:
        run = run_mode(mode, pipe, request, rehearsal=known, free_bytes=free_bytes, link=link, settings=settings)
        link = link if run.link_bytes_per_s is None else round(run.link_bytes_per_s)
        runs.append(run)
    return ModeRuns(runs=tuple(runs), free_bytes=free_bytes)


def run_mode(
    mode: str,
    pipe: Pipeline,
    request: Mapping[str, Any],
    *,
    rehearsal: Rehearsal | None = None,
    free_bytes: int | None = None,
    link: Any = None,
    settings: UserSettings = None,
) -> ModeRun:
    """Make two videos in one device mode and measure the second.

    Args:
        mode: "original", "snapshot", "resident" or "auto"; see `DeviceMode`.
        pipe: A two-stage pipeline of this package.
        request: The arguments of `pipe.run`.
        rehearsal: The rehearsal of that run; by default it is made.
        free_bytes: The device memory that the mode is allowed; by default there is no limit.
        link: The link, as for `residency.apply`.
        settings: The user's settings, as for `device_mode`.

    Raises:
        PlanError: The mode does not fit in `free_bytes`, or contradicts a setting; no weight was moved.
    """
    known = rehearsal or residency.rehearse(pipe, **request)
    plan = _fitting(mode, known, _as_a_card(free_bytes), settings)
    budget = residency.Budget(device_bytes=free_bytes)
    with residency.apply(pipe, plan, device=default_device(), link=link, budget=budget) as managed:
        pipe.run(**request)
        with Profiler(pipe, memory=None) as prof:
            result = pipe.run(**request)
        return ModeRun(
            mode=plan.name,
            plan=plan,
            profile=prof.profile,
            result=result,
            link_bytes_per_s=managed.link_bytes_per_s,
            moved_bytes=sum(managed.fetched_bytes.values()),
            stays_bytes=managed.device_bytes,
            peak_bytes=managed.peak_bytes,
            host_bytes=int(managed.table()["host_bytes"].sum()),
        )


def _as_a_card(free_bytes: int | None) -> DeviceSpec:
    card = residency.detect("cpu", link=_ANY_LINK)
    return card if free_bytes is None else replace(card, free_bytes=free_bytes)


def _fitting(mode: str, rehearsal: Rehearsal, card: DeviceSpec, settings: UserSettings) -> Plan:
    plan = device_mode(mode, rehearsal, device=card, settings=settings)
    limits = residency.bounds(rehearsal, plan, card)
    if not limits.fits:
        raise PlanError(f"{plan.name}: {limits.why} Nothing was moved; take another mode, or fewer resident blocks.")
    return plan
