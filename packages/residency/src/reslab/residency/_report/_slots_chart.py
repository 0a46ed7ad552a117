"""The picture of slots: what lies where on the device while blocks stream, and what is copied meanwhile.

    slots_chart(slot_times({"deeper prefetch": deep, "resident blocks": kept}, workload, copy=3))

A plan a panel, all on one axis of time. On top the two lanes: computing, with the stalls in it, and copying. Below, a
row for every block's worth of memory: what is copied into it, how long it is there (a thin line), when it computes.
Panels of equal height need equal memory, and the shorter one is faster.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure
from reslab.residency._report._slots import COMPUTES, COMPUTING, COPIED, COPYING, STALLS, THERE

#: States with their colour, in the order of the legend.
_HUES = {COMPUTES: "blue", STALLS: "vermilion", COPIED: "orange", THERE: "grey"}
_WIDTH_PX, _ROW_PX, _DIGIT_PX = 580, 15, 5.0


def slots_chart(times: pl.DataFrame) -> Figure:
    """Draw what lies where, for each plan.

    Args:
        times: What `slot_times` returns.

    Raises:
        ValueError: There is nothing to draw.
    """
    import altair as alt  # takes two seconds

    if not times.height:
        raise ValueError("there is nothing to draw; slot_times wants a workload with calls, and a plan at least")
    until = _until(times)
    last = max(until.values())
    x = alt.X(
        "start:Q",
        title="time (1 = one block computes)",
        scale=alt.Scale(domain=[0, last], nice=False),
        axis=alt.Axis(tickCount=8, grid=False),
    )
    plans = list(until)
    parts = [
        _panel(times.filter(pl.col("plan") == plan), x if plan == plans[-1] else x.axis(None), _WIDTH_PX / last)
        for plan in plans
    ]
    return Figure.from_altair(alt.vconcat(*parts, spacing=10), caption=_caption(times, until))


def _panel(times: pl.DataFrame, x: Any, px: float) -> Any:
    """Draw one plan; `px` is the width of one unit of time."""
    import altair as alt

    places = times["place"].unique(maintain_order=True).to_list()
    drawn = [THERE, COPIED, STALLS, COMPUTES]  # over each other
    rows = sorted(times.rows(named=True), key=lambda row: drawn.index(row["state"]))
    color = alt.Color(
        "state:N",
        title=None,
        scale=alt.Scale(domain=list(_HUES), range=[PALETTE[hue] for hue in _HUES.values()]),
        legend=alt.Legend(orient="top", symbolType="square", symbolStrokeWidth=0, offset=2),
    )
    y = alt.Y("place:N", scale=alt.Scale(domain=places), title=None, axis=BARE_AXIS)
    base = alt.Chart(alt.Data(values=[_bar(row, px) for row in rows]))
    is_thin, is_dark = alt.when(f"datum.state === '{THERE}'"), alt.when(f"datum.state === '{COPIED}'")
    bars = base.mark_bar(stroke="white", strokeWidth=0.4).encode(
        x=x,
        x2="end:Q",
        y=y,
        color=color,
        size=is_thin.then(alt.value(3)).otherwise(alt.value(_ROW_PX - 3)),
        tooltip=["place:N", "block:N", "state:N", "start:Q", "end:Q"],
    )
    ink = is_dark.then(alt.value("black")).otherwise(alt.value("white"))
    names = base.mark_text(fontSize=9).encode(x="middle:Q", y=y, text="text:N", color=ink)
    title = alt.Title(_heading(times), anchor="start", fontSize=12, offset=4)
    return alt.layer(bars, names).properties(width=_WIDTH_PX, height=alt.Step(_ROW_PX), title=title)


def _bar(row: dict[str, Any], px: float) -> dict[str, Any]:
    name = str(row["block"])
    room = (row["end"] - row["start"]) * px
    is_named = row["state"] in (COPIED, COMPUTES) and row["block"] >= 0 and len(name) * _DIGIT_PX + 1 < room
    return {
        "place": row["place"],
        "state": row["state"],
        "block": name if row["block"] >= 0 else "outside the blocks",
        "start": round(row["start"], 4),
        "end": round(row["end"], 4),
        "middle": round((row["start"] + row["end"]) / 2, 4),
        "text": name if is_named else "",
    }


def _heading(times: pl.DataFrame) -> str:
    """Say what a panel is about, how much memory it takes and when it is done."""
    places = times.filter(~pl.col("place").is_in([COMPUTING, COPYING]))["place"].n_unique()
    return f"{times['plan'][0]}: memory for {places} block{'s' * (places > 1)}, done at {max(times['end']):g}"


def _until(times: pl.DataFrame) -> dict[str, float]:
    return dict(times.group_by("plan", maintain_order=True).agg(pl.col("end").max()).rows())


def _caption(times: pl.DataFrame, until: dict[str, float]) -> str:
    copies = times.filter(pl.col("place") == COPYING)["plan"].value_counts(name="copies")
    counts = dict(copies.rows())
    said = [f"{plan}: {counts.get(plan, 0)} copies, done at {end:g}" for plan, end in until.items()]
    computes = times.filter(pl.col("state") == COMPUTES, pl.col("place") == COMPUTING).height // len(until)
    return f"Computing alone takes {computes}. {'; '.join(said)}. Numbers are blocks."
