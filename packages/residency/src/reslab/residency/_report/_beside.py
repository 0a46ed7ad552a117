"""Bounds beside measurement, stage by stage: one plan that was bounded, and then run and profiled.

    with apply(pipeline, plan) as managed:
        pipeline.run(**request)                     # puts weights where they wait; not what is to be measured
        with Profiler(pipeline, counters=managed) as prof:
            pipeline.run(**request)
    frame = beside(bounds(rehearsal, plan, card), prof.profile)
    beside_chart(frame); kept_row(limits, prof.profile, rehearsal).write_csv("mine.csv")

Where a device was timed, a stage took what the device took, else what passed on the host's clock. Bytes moved have to
be the plan's exactly. Times have no such duty: a kernel below its best is above the floor, and one far below it above
the ceiling too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reslab.profiler import Profile
from reslab.residency._bounds._bounds import Bounds
from reslab.residency._rehearse._rehearsal import Rehearsal

BESIDE: Mapping[str, Any] = {
    "plan": pl.String,
    "stage": pl.String,
    "floor_s": pl.Float64,
    "measured_s": pl.Float64,
    "ceiling_s": pl.Float64,
    "over_floor": pl.Float64,  # measured ÷ floor; null where the floor is 0
    "planned_bytes": pl.Int64,  # to be copied to the device
    "moved_bytes": pl.Int64,  # that were
    "peak_bytes": pl.Int64,  # on the device at most, as bounded
    "measured_peak_bytes": pl.Int64,  # by torch's allocator; null where none keeps books, as on a CPU
}
KEPT: Mapping[str, Any] = {
    "pipeline": pl.String,
    "request": pl.String,  # without prompt, image and paths
    "device": pl.String,
    "link_gb_s": pl.Float64,
    "plan": pl.String,
    "plan_fingerprint": pl.String,
    "weight_bytes": pl.Int64,
    "moved_bytes": pl.Int64,
    "floor_s": pl.Float64,
    "measured_s": pl.Float64,
    "ceiling_s": pl.Float64,
    "peak_bytes": pl.Int64,
    "measured_peak_bytes": pl.Int64,
    "versions": pl.String,
}


def beside(limits: Bounds, profile: Profile) -> pl.DataFrame:
    """Return a row a stage that computes or copies: the columns of `BESIDE`; of several runs their mean.

    Args:
        limits: The bounds of the plan on the device that it ran on.
        profile: Of runs under that plan.

    Raises:
        ValueError: The profile lacks stages of the run that was bounded.
    """
    measured, rows = _measured(profile), []
    if missing := [row.stage for row in limits.rows if row.stage not in measured]:
        raise ValueError(
            f"the profile lacks {len(missing)} of the {len(limits.rows)} stages that were bounded, such as "
            f"{missing[0]!r}; profile the pipeline that was rehearsed"
        )
    for row in limits.rows:
        if row.ceiling_ns:
            seconds, moved, peak = measured[row.stage]
            floor, ceiling = row.floor_ns / 1e9, row.ceiling_ns / 1e9
            times = floor, seconds, ceiling, seconds / floor if floor else None
            rows.append((limits.plan.name, row.stage, *times, row.moved_bytes, moved, row.peak_bytes, peak))
    return pl.DataFrame(rows, schema=dict(BESIDE), orient="row")


def kept_row(limits: Bounds, profile: Profile, rehearsal: Rehearsal) -> pl.DataFrame:
    """Return one row about a whole run, to be kept and compared: the columns of `KEPT`.

    It names no person, path or prompt: the request without what is private, the device, the versions.

    Args:
        limits: The bounds of the plan on the device that it ran on.
        profile: Of runs under that plan.
        rehearsal: What was bounded.
    """
    stages = profile.stages()
    runs = stages.row(-1, named=True)["calls"]
    measured = _measured(profile)
    peaks = [peak for _seconds, _moved, peak in measured.values() if peak is not None]
    row = {
        "pipeline": rehearsal.meta["pipeline"],
        "request": ", ".join(f"{name}={value}" for name, value in sorted(rehearsal.meta["request"].items())),
        "device": limits.device.name,
        "link_gb_s": round(limits.device.link_bytes_per_s / 1e9, 2),
        "plan": limits.plan.name,
        "plan_fingerprint": limits.plan.fingerprint,
        "weight_bytes": int(rehearsal.components["weight_bytes"].sum()),
        "moved_bytes": sum(moved for _seconds, moved, _peak in measured.values()),
        "floor_s": round(limits.floor_ns / 1e9, 4),
        "measured_s": round(float(stages["host_ms"].sum()) / 1e3 / runs, 4),
        "ceiling_s": round(limits.ceiling_ns / 1e9, 4),
        "peak_bytes": limits.peak_bytes,
        "measured_peak_bytes": max(peaks, default=None),
        "versions": ", ".join(f"{name} {each}" for name, each in sorted(profile.meta["versions"].items())),
    }
    return pl.DataFrame([row], schema=dict(KEPT))


def _measured(profile: Profile) -> dict[str, tuple[float, int, int | None]]:
    """Return by stage the seconds and the bytes moved in one run, and the peak of the device's memory."""
    stages = profile.stages().with_columns(pl.col("stage").cast(pl.String))
    runs = int(stages.tail(1)["calls"].sum()) or 1
    moved = profile.transfers().group_by(pl.col("stage").cast(pl.String)).agg(pl.col("moved_bytes").sum())
    has_books = "device" in profile.memory.filter(pl.col("component").is_null())["pool"].cast(pl.String)
    rows: list[dict[str, Any]] = stages.join(moved, on="stage", how="left", maintain_order="left").to_dicts()
    return {
        row["stage"]: (
            (row["host_ms"] if row["device_ms"] is None else row["device_ms"]) / 1e3 / runs,
            (row["moved_bytes"] or 0) // runs,
            row["allocated_peak_bytes"] if has_books else None,
        )
        for row in rows
    }
