"""Compare two profiles, or two sets of repeats: which stage changed, by how much, and whether that exceeds the noise.

    compare(before, after)                                  # profiles of one or more runs each
    compare([run_1, run_2, run_3, run_4], [run_5, …])       # or sets of them
    compare(Profile.load("baseline.parquet"), today)        # a saved set of repeats is a baseline

A stage's time is the sum over its calls in one run, so a stage that runs twice is compared as a whole, and each run
gives one number a stage (`repeats`). A run that did not call a stage spent no time in it. A run that raised an error
is left out, because it did not finish its work.

The medians of both sides are compared. The noise band around their difference holds the true shift with a probability
of 95 % (`_shift`). A stage is called slower or faster only where the band leaves zero out and the difference exceeds
both the tolerance and a thousandth of the run: with enough repeats even a negligible difference is certain. Both
directions count, because a stage that became twice as fast overnight perhaps did not do its work.

Read on in `_unequal_work` (whether two sides may be compared) and `_comparison` (the result).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import polars as pl

from reslab.profiler._compare._comparison import Comparison
from reslab.profiler._compare._shift import Interval, shift_interval
from reslab.profiler._compare._unequal_work import Labels, Profiles, UnequalWorkError, work_differences
from reslab.profiler._model._resource_tables import inconsistencies
from reslab.profiler._model._schema import COMPARISON, Change, ComparedTime
from reslab.profiler._model._tables import UNATTRIBUTED_STAGE
from reslab.profiler._profile import Profile
from reslab.stages import Kind

CONFIDENCE = 0.95
NEGLIGIBLE = 0.001  # of the whole run: a stage may double there without being called slower

Row = dict[str, Any]


def compare(
    a: Profile | Sequence[Profile],
    b: Profile | Sequence[Profile],
    *,
    time: str | None = None,
    tolerance: float = 0.05,
    labels: tuple[str, str] = ("a", "b"),
    unequal_work: bool = False,
) -> Comparison:
    """Compare two profiles, or two sets of repeats, stage by stage.

    >>> from reslab.profiler import Profiler
    >>> from reslab.profiler.testing import FakeClock
    >>> def repeats(*times_ns):
    ...     with Profiler(clock=(clock := FakeClock()), memory=None) as prof:
    ...         for ns in times_ns:
    ...             prof.begin("run", "lab"), prof.begin("stage", "decode"), clock.advance(ns), prof.end(), prof.end()
    ...     return prof.profile
    >>> compare(repeats(100, 101, 102, 103), repeats(120, 121, 122, 123))
    Comparison(a → b: slower=1, same=1)

    Args:
        a: The first side, often the baseline: one profile, which may hold several runs, or several profiles.
        b: The second side.
        time: A `ComparedTime`: "device_ns" or "host_ns". By default the device's time where both sides have it for
            every stage, because a host that runs ahead of its device waits in another stage than the slow one.
        tolerance: Relative difference below which a stage is the same, whatever the noise.
        labels: What to call the two sides.
        unequal_work: Compare although the runs did not do the same work; the remarks say what differs.

    Returns:
        A `Comparison`. Runs that raised an error are left out, and its remarks say how many.

    Raises:
        UnequalWorkError: The two sides did not do the same work.
        ValueError: A side has no finished run, or no times of the kind that is compared.
    """
    sides = [[a] if isinstance(a, Profile) else list(a), [b] if isinstance(b, Profile) else list(b)]
    time = ComparedTime.of(time, "time") if time else _common_time([*sides[0], *sides[1]])
    reasons = work_differences(*sides, labels=labels)
    if reasons and not unequal_work:
        respects = "; ".join(reasons)
        raise UnequalWorkError(f"not the same work: {respects}. Repeat one of them, or compare with unequal_work=True.")
    joined = _joined(*(repeats(side, time=time, label=label) for side, label in zip(sides, labels, strict=True)))
    whole = {row["pipeline"]: median(row["ns"] or row["ns_b"]) for row in joined if row["stage"] is None}
    table = _table([_compared(row, whole[row["pipeline"]], tolerance) for row in joined])
    return Comparison(
        stages=table.filter(pl.col("stage").is_not_null()),
        runs=table.filter(pl.col("stage").is_null()),
        labels=labels,
        remarks=tuple(dict.fromkeys(_remarks(sides, labels, reasons))),
        tolerance=tolerance,
        time=time,
    )


def _common_time(profiles: Profiles) -> ComparedTime:
    """Return the device's time where every stage has one, else the host's."""
    stages = (profile.spans.filter(pl.col("kind") == Kind.STAGE.value) for profile in profiles)
    timed = all(own.height and own["device_ns"].null_count() == 0 for own in stages)
    return ComparedTime.DEVICE if timed else ComparedTime.HOST


def _joined(a: pl.DataFrame, b: pl.DataFrame) -> list[Row]:
    """Return one row a stage of either side, in the order of running."""
    if a["pipeline"].n_unique() == b["pipeline"].n_unique() == 1:  # then its name may differ
        b = b.with_columns(pipeline=pl.lit(a["pipeline"][0]))
    keys = ["pipeline", "stage"]
    both = a.join(b, on=keys, how="full", coalesce=True, nulls_equal=True, suffix="_b", maintain_order="left_right")
    return both.rows(named=True)


def _compared(row: Row, whole_ns: float, tolerance: float) -> Row:
    a, b = row["ns"] or [], row["ns_b"] or []
    a_ns, b_ns = (median(side) if side else None for side in (a, b))
    band = shift_interval(a, b, confidence=CONFIDENCE) if a and b else None
    difference = (b_ns or 0) - (a_ns or 0)
    least = max(tolerance * (a_ns or 0), NEGLIGIBLE * whole_ns)
    return {
        "pipeline": row["pipeline"],
        "stage": row["stage"],
        "change": Change.NEW if not a else Change.GONE if not b else _change(difference, band, least),
        "a_ms": _ms(a_ns),
        "b_ms": _ms(b_ns),
        "difference_ms": _ms(difference),
        "relative": difference / a_ns if a_ns and b else None,
        "low_ms": _ms(band and band.low),
        "high_ms": _ms(band and band.high),
        "coverage": band and band.coverage,
        "a_runs": len(a),
        "b_runs": len(b),
        "a_peak_bytes": row["allocated_peak_bytes"],
        "b_peak_bytes": row["allocated_peak_bytes_b"],
    }


def _change(difference_ns: float, band: Interval | None, least_ns: float) -> Change:
    if band is None or band.coverage < CONFIDENCE:
        return Change.UNSURE
    if band.low <= 0 <= band.high or abs(difference_ns) <= least_ns:
        return Change.SAME
    return Change.SLOWER if difference_ns > 0 else Change.FASTER


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6


def _table(rows: Sequence[Row]) -> pl.DataFrame:
    """Return the rows as a frame of `COMPARISON`, the largest difference first."""
    changes = pl.Enum([change.value for change in Change])
    worst_first = sorted(rows, key=lambda row: -abs(row["difference_ms"]))
    return pl.DataFrame(worst_first, schema=COMPARISON, schema_overrides={"change": changes})


def _remarks(sides: Sequence[Profiles], labels: Labels, reasons: Sequence[str]) -> Iterator[str]:
    """Yield the sentences that a reader of the numbers must know."""
    if reasons:
        yield f"not the same work: {'; '.join(reasons)}"
    for profiles, label in zip(sides, labels, strict=True):
        if failed := failed_runs(profiles):
            yield f"{failed} of the runs of {label} raised an error and are left out"
        for profile in profiles:
            yield from (f"{label} does not add up: {sentence}" for sentence in inconsistencies(profile.spans))


_RUN = ["profile", "run", "pipeline"]
_PEAK = pl.col("allocated_peak_bytes").max()


def repeats(profiles: Sequence[Profile], *, time: ComparedTime, label: str) -> pl.DataFrame:
    """Return one row a stage with its times as a list, one number a run.

    Columns: pipeline, stage (null for the run as a whole), ns (the list), allocated_peak_bytes (the highest).

    Args:
        profiles: One or more, each of one or more runs.
        time: The column of spans to add up.
        label: The name of the set, for errors.

    Raises:
        ValueError: No run finished, or none has times of this kind.
    """
    spans = pl.concat([profile.spans.with_columns(profile=pl.lit(n)) for n, profile in enumerate(profiles)])
    spans = spans.with_columns(pl.col("stage", "name").cast(pl.String))
    runs = spans.filter((pl.col("kind") == Kind.RUN.value) & pl.col("error").is_null())
    runs = runs.select("profile", "run", "allocated_peak_bytes", pl.col(time).alias("run_ns"), pipeline="name")
    calls = spans.filter((pl.col("kind") == Kind.STAGE.value) & pl.col(time).is_not_null())
    calls = calls.join(runs.select(_RUN), on=["profile", "run"])
    if calls.is_empty():
        reason = f"no stage with a {time}" if runs.height else "no finished run"
        times = [each.value for each in ComparedTime]
        times = [each.value for each in ComparedTime]
        raise ValueError(f"{label} has {reason}; record one with Profiler(pipeline), or choose another of {times}")
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


def _each_stage(calls: pl.DataFrame, runs: pl.DataFrame, time: ComparedTime) -> pl.DataFrame:
    sums = calls.group_by(*_RUN, "stage").agg(pl.col(time).sum().alias("ns"), _PEAK)
    places = calls.select("pipeline", "stage").unique(maintain_order=True)
    each = runs.select(_RUN).join(places, on="pipeline", maintain_order="left_right")
    each = each.join(sums, on=[*_RUN, "stage"], how="left", maintain_order="left")
    return each.with_columns(pl.col("ns").fill_null(0))


def _unattributed(stages: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    inside = stages.group_by(_RUN).agg(inside_ns=pl.col("ns").sum())
    timed = runs.drop_nulls("run_ns").join(inside, on=_RUN, maintain_order="left")  # no event times a run on the device
    return timed.select(*_RUN, stage=pl.lit(UNATTRIBUTED_STAGE), ns=pl.col("run_ns") - pl.col("inside_ns"))


def _whole(table: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    sums = table.group_by(_RUN, maintain_order=True).agg(pl.col("ns").sum())
    return sums.join(runs.drop("run_ns"), on=_RUN, maintain_order="left")
