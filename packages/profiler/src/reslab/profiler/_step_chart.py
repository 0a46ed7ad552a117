"""The step chart: a bar a denoising step, so that a slow first step is seen and not averaged away.

    step_bars(steps(profile.spans)).save("steps.svg")

The first step of a fresh process pays for what happens once: kernels that are chosen or compiled, memory that is
reserved, weights that arrive. A mean over all steps hides that, and a time per step taken from the first is wrong for
all others. So each step is held against the others of its stage; the dashed line is their median. Where the device was
timed, it is the device's time that is drawn: the host is often ahead, and its steps say when work was handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.profiler._units import format_ns, time_unit
from reslab.profiler._vega import PALETTE, Figure

if TYPE_CHECKING:
    import altair as alt

Row = dict[str, Any]

#: A step that takes this many times the median of the others is drawn as slow.
SLOW = 1.25


def step_bars(steps: pl.DataFrame) -> Figure:
    """Draw how long each step took, stage by stage, on one scale.

    Args:
        steps: What `Profile.steps` returns.

    Raises:
        ValueError: If there are no steps.
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

    values = [_bar(row, rows, unit_ns) for row in rows]
    title = f"step of {rows[0]['stage']}"
    x = alt.X("step:O", title=title, axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    tips = ["step:O", "takes:N", "ratio:N", "calls:Q"]
    bars = base.mark_bar(width={"band": 0.8}).encode(color=alt.Color("color:N", scale=None), tooltip=tips)
    words = base.mark_text(baseline="bottom", dy=-3).encode(text="text:N")
    usual = alt.Chart(alt.Data(values=[{"time": values[-1]["usual"]}])).mark_rule(strokeDash=[3, 2]).encode(y=y)
    width = max(len(rows) * 24, 8 * len(title))
    return alt.layer(bars, usual, words).properties(width=width, height=130)


def _bar(row: Row, rows: Sequence[Row], unit_ns: float) -> Row:
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
