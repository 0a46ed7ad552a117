"""Bounds compared with measurement, stage by stage: a plan that was bounded, then run and profiled.

    with apply(pipeline, plan) as managed:
        pipeline.run(**request)                     # a first run, not measured, moves weights to their places
        with Profiler(pipeline, counters=managed) as prof:
            pipeline.run(**request)
    frame = compare_bounds(bounds(rehearsal, plan, card), prof.profile)
    charts.compared_bounds(frame)
    record_row(limits, prof.profile, rehearsal).write_csv("mine.csv")

The time of a stage is the device's where the device was timed, else the host's. Bytes moved must equal the plan's.
Times need not lie within the bounds: a kernel below its best throughput takes longer than the floor, and one far below
it longer than the ceiling.

The chart draws a band from floor to ceiling and a point for the measured time. The axis is logarithmic, so that a stage
of a millisecond and one of a minute can be compared: equal distances are equal ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure, Profile, gib
from reslab.residency._predict._bounds import Bounds
from reslab.residency._rehearse._rehearsal import Rehearsal

COMPARED_BOUNDS: Mapping[str, Any] = {
    "plan": pl.String,
    "stage": pl.String,
    "floor_s": pl.Float64,
    "measured_s": pl.Float64,
    "ceiling_s": pl.Float64,
    "over_floor": pl.Float64,  # measured ÷ floor; null if the floor is 0
    "planned_bytes": pl.Int64,  # copied to the device, by the plan
    "moved_bytes": pl.Int64,  # copied to the device, as measured
    "peak_bytes": pl.Int64,  # most bytes on the device, as bounded
    "measured_peak_bytes": pl.Int64,  # by torch's allocator; null where there is no allocator, as on a CPU
}
RECORD: Mapping[str, Any] = {
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


def compare_bounds(limits: Bounds, profile: Profile) -> pl.DataFrame:
    """Compare bounds with measurement: a row a stage that computes or copies, averaged over runs.

    Args:
        limits: The bounds of the plan on the device that ran it.
        profile: The profile of runs under that plan.

    Returns:
        The columns of `COMPARED_BOUNDS`.

    Raises:
        ValueError: The profile lacks stages that were bounded.
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
    return pl.DataFrame(rows, schema=dict(COMPARED_BOUNDS), orient="row")


def record_row(limits: Bounds, profile: Profile, rehearsal: Rehearsal) -> pl.DataFrame:
    """Return one row about a whole run, to save and compare: the columns of `RECORD`.

    The row has the request, the device and the versions, but no user name, path or prompt.

    Args:
        limits: The bounds of the plan on the device that ran it.
        profile: The profile of runs under that plan.
        rehearsal: The rehearsal that was bounded.
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
    return pl.DataFrame([row], schema=dict(RECORD))


def _measured(profile: Profile) -> dict[str, tuple[float, int, int | None]]:
    """Return by stage the seconds and the bytes moved in one run, and the peak of device memory."""
    stages = profile.stages().with_columns(pl.col("stage").cast(pl.String))
    runs = int(stages.tail(1)["calls"].sum()) or 1
    moved = profile.transfers().group_by(pl.col("stage").cast(pl.String)).agg(pl.col("moved_bytes").sum())
    has_allocator = "device" in profile.memory.filter(pl.col("component").is_null())["pool"].cast(pl.String)
    rows: list[dict[str, Any]] = stages.join(moved, on="stage", how="left", maintain_order="left").to_dicts()
    return {
        row["stage"]: (
            (row["host_ms"] if row["device_ms"] is None else row["device_ms"]) / 1e3 / runs,
            (row["moved_bytes"] or 0) // runs,
            row["allocated_peak_bytes"] if has_allocator else None,
        )
        for row in rows
    }


#: Stages below this share of the longest stage, in every plan, are left out, since the chart shows where time goes.
_SMALL = 1e-2


def compared_bounds(rows: pl.DataFrame) -> Figure:
    """Draw the band of bounds and the measured time, for each plan and stage.

    Args:
        rows: The frame that `compare_bounds` returns, for one plan, or for several concatenated.
    """
    import altair as alt  # takes two seconds

    longest = pl.max_horizontal("measured_s", "ceiling_s").max().over("stage")
    shown = rows.filter(longest > _SMALL * longest.max())
    bars = [_bar(row) for row in shown.rows(named=True)]
    stages, plans = (list(dict.fromkeys(shown[name])) for name in ("stage", "plan"))
    x = alt.X("floor:Q", scale=alt.Scale(type="log"), title="seconds", axis=alt.Axis(format="~g", tickCount=5))
    base = alt.Chart().encode(
        y=alt.Y("stage:N", sort=stages, title=None, axis=BARE_AXIS),
        tooltip=["plan:N", "stage:N", "bounds:N", "measured:N", "moved:N"],
    )
    bands = base.mark_bar(height=12, color=PALETTE["blue"], opacity=0.5).encode(x=x, x2="ceiling:Q")
    floors = base.mark_tick(thickness=2, size=14, color=PALETTE["blue"]).encode(x="floor:Q")
    marks = base.mark_point(size=50, filled=True, opacity=1, color=PALETTE["vermilion"]).encode(x="seconds:Q")
    labels = base.mark_text(align="left", dx=9).encode(x="right:Q", text="label:N")
    chart = alt.layer(bands, floors, marks, labels, data=alt.Data(values=bars)).properties(
        width=430, height=alt.Step(22)
    )
    heads = alt.Header(orient="top", labelAnchor="start", labelFontWeight="bold", labelPadding=4)
    faceted = chart.facet(row=alt.Row("plan:N", sort=plans, title=None, header=heads), spacing=12)
    return Figure.from_altair(faceted, caption=_caption(rows))


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    floor, seconds, ceiling = row["floor_s"], row["measured_s"], row["ceiling_s"]
    ratio = f", ×{row['over_floor']:.1f} of the floor" if row["over_floor"] else ""
    return {
        "plan": row["plan"],
        "stage": row["stage"],
        "floor": _rounded(floor),
        "ceiling": _rounded(ceiling),
        "seconds": _rounded(seconds),
        "right": _rounded(max(seconds, ceiling)),
        "bounds": f"{floor:.2g} to {ceiling:.2g} s",
        "measured": f"{seconds:.2g} s",
        "label": f"{seconds:.2g} s{ratio}",
        "moved": f"{gib(row['moved_bytes'])} copied",
    }


def _rounded(seconds: float) -> float:
    """Return three significant digits, and never zero, which a logarithmic scale does not have."""
    return float(f"{max(seconds, 1e-6):.3g}")


def _caption(rows: pl.DataFrame) -> str:
    sums = rows.group_by("plan", maintain_order=True).agg(pl.col("floor_s", "measured_s", "ceiling_s").sum())
    times = [
        f"{row['plan']}: {row['measured_s']:.2g} s, bounds {row['floor_s']:.2g} to {row['ceiling_s']:.2g}"
        for row in sums.rows(named=True)
    ]
    return (
        "Bands go from the floor to the time if nothing overlaps; points are measured. All stages together, "
        f"{'; '.join(times)}."
    )
