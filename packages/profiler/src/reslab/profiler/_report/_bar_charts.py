"""Bar charts of a profile: one bar a stage, or one bar a denoising step.

    stage_bars(stages(profile.spans)).save("stages.svg")
    step_bars(steps(profile.spans)).save("steps.svg")

Bars of stages stand in the order of running and carry their own labels, so no axis, grid or legend is needed. Stages
have one hue, a stage that failed has another, and the time that no stage accounts for is grey. Where a device was
timed, a bar is as long as the device's time, with the host's time beside it.

The step chart shows a slow first step, which a mean over all steps hides. The first step of a fresh process pays for
work that happens once: kernels are chosen or compiled, memory is reserved, weights arrive. A time per step taken from
it is wrong for all others. So each step stands beside the others of its stage; the dashed line is their median. Where
the device was timed, its time is drawn: the host is often ahead, and its steps only show when it handed work over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.profiler._model._tables import UNATTRIBUTED_STAGE
from reslab.profiler._report._figure import BARE_AXIS, PALETTE, Figure
from reslab.profiler._units import format_ns, format_share, time_unit

if TYPE_CHECKING:
    import altair as alt


Row = dict[str, Any]


def stage_bars(stages: pl.DataFrame) -> Figure:
    """Draw the time of the runs, one bar a stage.

    Args:
        stages: The frame that `Profile.stages` returns.

    Returns:
        Bars in the order of running, labelled with time and share; the length of a bar is its time.
    """
    import altair as alt  # takes two seconds

    runs = dict(stages.filter(pl.col("stage") == UNATTRIBUTED_STAGE).select("pipeline", "calls").iter_rows())
    stages = with_device_share(stages)
    rows = [_bar(row, runs) for row in stages.rows(named=True)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", sort=[row["label"] for row in rows], title=None, axis=BARE_AXIS),
        x=alt.X("ms:Q", axis=None),
    )
    bars = base.mark_bar(height=14, cornerRadiusEnd=2).encode(
        color=alt.Color("color:N", scale=None),
        tooltip=["label:N", "registered:N", "calls:Q", "time:N", "share:N"],
    )
    labels = base.mark_text(align="left", dx=5).encode(text="text:N")
    chart = alt.layer(bars, labels).properties(width=420, height=alt.Step(22))
    return Figure.from_altair(chart, caption=_caption(stages))


def with_device_share(stages: pl.DataFrame) -> pl.DataFrame:
    """Return the stages with a column `device_share`, of the pipeline's runs; null where no device was timed."""
    return stages.with_columns(device_share=pl.col("device_ms") / pl.col("host_ms").sum().over("pipeline"))


def _bar(row: Row, runs: Mapping[str, int]) -> Row:
    ms = row["host_ms"] if row["device_ms"] is None else row["device_ms"]
    time, share = (
        format_ns(ms * 1e6),
        format_share(row["share"] if row["device_share"] is None else row["device_share"]),
    )
    beside = [] if row["device_ms"] is None else [f"{format_ns(row['host_ms'] * 1e6)} on the host"]
    return {
        "label": f"{row['pipeline']}: {row['stage']}" if len(runs) > 1 else row["stage"],
        "registered": ", ".join(row["registered_names"]),
        "calls": row["calls"],
        "ms": round(ms, 6),
        "time": time,
        "share": share,
        "text": " · ".join([time, share, *beside, *_remarks(row, runs[row["pipeline"]])]),
        "color": bar_color(row),
    }


def _remarks(row: Row, runs: int) -> Iterator[str]:
    """Yield the facts about a stage that a reader would not expect: several names, more calls than runs, an error."""
    if len(row["registered_names"]) > 1:
        yield f"{len(row['registered_names'])} stages under one name"
    if row["calls"] != runs:
        yield f"{row['calls']} calls"
    if row["errors"]:
        yield f"{row['errors']} failed"


def bar_color(row: Row) -> str:
    """Return the colour of a row of `Profile.stages`: grey for unattributed time, vermilion for an error, else blue."""
    if row["stage"] == UNATTRIBUTED_STAGE:
        return PALETTE["grey"]
    return PALETTE["vermilion" if row["errors"] else "blue"]


def _caption(stages: pl.DataFrame) -> str:
    """Return one sentence about the bars: the longest stage, and the time that no stage accounts for."""
    if stages.is_empty():
        return "No run was recorded."
    pipeline = stages["pipeline"][0]
    own = stages.filter(pl.col("pipeline") == pipeline)
    on_device = own["device_ms"].count() > 0
    by = "device_share" if on_device else "share"
    outside, inside = own.row(-1, named=True), own[:-1].sort(by, descending=True, nulls_last=True, maintain_order=True)
    total = format_ns(float(own["host_ms"].sum()) * 1e6)
    runs = f"{total} in {outside['calls']} runs of" if outside["calls"] > 1 else f"{total} of"
    longest = f"{inside['stage'][0]} took {format_share(inside[by][0])}" if inside.height else "Stages took 0 %"
    rest = format_share(outside["share"]).replace("<", "under ")
    where, whose = (" on the device", " of the host's time") if on_device else ("", "")
    return f"{longest} of the {runs} {pipeline!r}{where}; {rest}{whose} was spent outside any stage."


#: A step that takes this many times the median of the others is drawn as slow.
SLOW = 1.25


def step_bars(steps: pl.DataFrame) -> Figure:
    """Draw the time of each step, stage by stage, on one scale.

    Args:
        steps: The frame that `Profile.steps` returns.

    Raises:
        ValueError: There are no steps.
    """
    import altair as alt  # takes two seconds

    on_device = steps["device_ms"].null_count() == 0
    per_call = pl.col("device_ms") / pl.col("calls") if on_device else pl.col("mean_ms")
    steps = steps.with_columns(step_ms=per_call)
    stages = [rows.rows(named=True) for _, rows in steps.group_by("pipeline", "stage", maintain_order=True)]
    if not stages:
        raise ValueError("no denoising step was recorded, so there is no step to draw; bars() draws the stages")
    unit, unit_ns = time_unit(max(steps["step_ms"]) * 1e6)
    y = alt.Y("time:Q", title=f"a step on the {'device' if on_device else 'host'} ({unit})", axis=alt.Axis(tickCount=4))
    charts = [_stage_chart(rows, y if place == 0 else y.axis(None), unit_ns) for place, rows in enumerate(stages)]
    chart = alt.hconcat(*charts, spacing=24).resolve_scale(y="shared")
    return Figure.from_altair(chart, caption=f"{'; '.join(map(_sentence, stages))}.")


def _stage_chart(rows: Sequence[Row], y: alt.Y, unit_ns: float) -> alt.LayerChart | alt.FacetChart:
    import altair as alt

    values = [_step_bar(row, rows, unit_ns) for row in rows]
    title = f"step of {rows[0]['stage']}"
    x = alt.X("step:O", title=title, axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    tips = ["step:O", "takes:N", "ratio:N", "calls:Q"]
    bars = base.mark_bar(width={"band": 0.8}).encode(color=alt.Color("color:N", scale=None), tooltip=tips)
    words = base.mark_text(baseline="bottom", dy=-3).encode(text="text:N")
    usual = alt.Chart(alt.Data(values=[{"time": values[-1]["usual"]}])).mark_rule(strokeDash=[3, 2]).encode(y=y)
    width = max(len(rows) * 24, 8 * len(title))
    return alt.layer(bars, usual, words).properties(width=width, height=130)


def _step_bar(row: Row, rows: Sequence[Row], unit_ns: float) -> Row:
    ratio = row["step_ms"] / _others(row, rows) if _others(row, rows) else 1
    return {
        "step": row["step"],
        "time": round(row["step_ms"] * 1e6 / unit_ns, 6),
        "usual": round(median(other["step_ms"] for other in rows) * 1e6 / unit_ns, 6),
        "takes": format_ns(row["step_ms"] * 1e6),
        "ratio": f"{ratio:.2f} × the median of the others",
        "calls": row["calls"],
        "text": f"{ratio:.1f} ×" if ratio >= SLOW else "",
        "color": PALETTE["orange" if ratio >= SLOW else "blue"],
    }


def _others(row: Row, rows: Sequence[Row]) -> float:
    """Return the median of the other steps, or the step's own time where there are none."""
    others = [other["step_ms"] for other in rows if other is not row]
    return median(others or [row["step_ms"]])


def _sentence(rows: Sequence[Row]) -> str:
    first, stage = rows[0], rows[0]["stage"]
    took = format_ns(first["step_ms"] * 1e6)
    if len(rows) == 1 or not _others(first, rows):
        return f"The only step of {stage} took {took}"
    ratio = first["step_ms"] / _others(first, rows)
    others = f"the median of the {len(rows) - 1} others" if len(rows) > 2 else "the other"
    return f"The first step of {stage} took {took}, {ratio:.1f} times {others}"
