"""A set of repeats as numbers: for each stage a list of times, one a run.

Calls of one stage in one run are added up, so that a stage that runs twice is compared with itself as a whole. A run
that did not call a stage spent no time in it. A run that raised an error is left out: it did not finish its work.

    repeats([profile], time="host_ns", label="baseline")        # pipeline, stage, ns, allocated_peak_bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from reslab.profiler._tables import UNATTRIBUTED
from reslab.stages import Kind

if TYPE_CHECKING:
    from reslab.profiler._profile import Profile

TIMES = ("host_ns", "device_ns")

_RUN = ["profile", "run", "pipeline"]
_PEAK = pl.col("allocated_peak_bytes").max()


def repeats(profiles: Sequence[Profile], *, time: str, label: str) -> pl.DataFrame:
    """Return pipeline, stage (null for the run as a whole), `ns` (a list, one number a run) and the highest peak.

    Args:
        profiles: One or more, each of one or more runs.
        time: One of `TIMES`.
        label: What to call them in an error.

    Raises:
        ValueError: If no run finished, or none has times of this sort.
    """
    spans = pl.concat([profile.spans.with_columns(profile=pl.lit(n)) for n, profile in enumerate(profiles)])
    spans = spans.with_columns(pl.col("stage", "name").cast(pl.String))
    runs = spans.filter((pl.col("kind") == Kind.RUN.value) & pl.col("error").is_null())
    runs = runs.select("profile", "run", "allocated_peak_bytes", pl.col(time).alias("run_ns"), pipeline="name")
    calls = spans.filter((pl.col("kind") == Kind.STAGE.value) & pl.col(time).is_not_null())
    calls = calls.join(runs.select(_RUN), on=["profile", "run"])
    if calls.is_empty():
        reason = f"no stage with a {time}" if runs.height else "no finished run"
        raise ValueError(
            f"{label} has {reason}; record one with Profiler(pipeline), or choose another of {list(TIMES)}"
        )
    stages = _each_stage(calls, runs, time)
    table = pl.concat([stages, _unattributed(stages, runs)], how="diagonal")
    return (
        pl.concat([table, _whole(table, runs)], how="diagonal")
        .group_by("pipeline", "stage", maintain_order=True)
        .agg("ns", _PEAK)
    )


def failed_runs(profiles: Sequence[Profile]) -> int:
    """Return how many runs raised an error."""
    runs = (profile.spans.filter(pl.col("kind") == Kind.RUN.value) for profile in profiles)
    return sum(run["error"].count() for run in runs)


def _each_stage(calls: pl.DataFrame, runs: pl.DataFrame, time: str) -> pl.DataFrame:
    sums = calls.group_by(*_RUN, "stage").agg(pl.col(time).sum().alias("ns"), _PEAK)
    places = calls.select("pipeline", "stage").unique(maintain_order=True)
    each = runs.select(_RUN).join(places, on="pipeline", maintain_order="left_right")
    each = each.join(sums, on=[*_RUN, "stage"], how="left", maintain_order="left")
    return each.with_columns(pl.col("ns").fill_null(0))


def _unattributed(stages: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    inside = stages.group_by(_RUN).agg(inside_ns=pl.col("ns").sum())
    timed = runs.drop_nulls("run_ns").join(inside, on=_RUN, maintain_order="left")  # no event times a run on the device
    return timed.select(*_RUN, stage=pl.lit(UNATTRIBUTED), ns=pl.col("run_ns") - pl.col("inside_ns"))


def _whole(table: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    sums = table.group_by(_RUN, maintain_order=True).agg(pl.col("ns").sum())
    return sums.join(runs.drop("run_ns"), on=_RUN, maintain_order="left")
