"""One video made in one device mode, and several of them beside each other: frozen data, and the frame of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.profiler import Profile
from reslab.residency import Plan
from reslab.stages import Compared

if TYPE_CHECKING:
    from reslab.profiler import Figure

RUNS: Mapping[str, Any] = {
    "mode": pl.String,
    "transformer": pl.String,  # its placement
    "link_bytes_per_s": pl.Int64,  # what copies were held to; null without a limit
    "moved_bytes": pl.Int64,  # to the device, for one video; nothing is ever copied back
    "stays_bytes": pl.Int64,  # on the device between videos
    "peak_bytes": pl.Int64,  # of weights on the device, slots included
    "host_bytes": pl.Int64,  # of host memory that holds weights
    "run_ns": pl.Int64,
    "stalled_ns": pl.Int64,  # of run_ns, in which computing waited for weights
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModeRun(Compared):
    """One video made in one device mode.

    Attributes:
        mode: The plan's name, such as "auto: snapshot".
        plan: Where the weights lived.
        profile: Of the measured run.
        result: What the pipeline returned.
        link_bytes_per_s: What copies were held to; None without a limit.
        moved_bytes: Copied to the device for this video; nothing is ever copied back.
        stays_bytes: On the device when the video was done.
        peak_bytes: Of weights on the device, at most, slots included.
        host_bytes: Of host memory that holds weights.
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
        """How long the video took."""
        return int(self.profile.spans.filter(pl.col("kind") == "run")["host_ns"].sum())

    @property
    def stalled_ns(self) -> int:
        """For how much of that computing waited for weights."""
        return round(float(self.profile.transfers()["stalled_ms"].sum()) * 1e6)

    def row(self) -> tuple[Any, ...]:
        """Return its row of the frame `RUNS`."""
        link = None if self.link_bytes_per_s is None else round(self.link_bytes_per_s)
        sizes = (self.moved_bytes, self.stays_bytes, self.peak_bytes, self.host_bytes)
        return (self.mode, repr(self.plan.placement("transformer")), link, *sizes, self.run_ns, self.stalled_ns)


@dataclass(frozen=True, kw_only=True)
class ModeRuns:
    """Runs of one request in several device modes, in the order in which they were made.

    Attributes:
        runs: The runs.
        free_bytes: What the device was taken to have free; None for no limit.
    """

    runs: tuple[ModeRun, ...] = ()
    free_bytes: int | None = None

    def frame(self) -> pl.DataFrame:
        """Return a row a run: the columns of `RUNS`."""
        return pl.DataFrame([run.row() for run in self.runs], schema=dict(RUNS), orient="row")

    def chart(self) -> Figure:
        """Draw what each run held of the device against how long it took."""
        from reslab.ltx2._mode_report import modes_chart

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
        from reslab.ltx2._mode_report import modes_html

        return modes_html(self.frame())
