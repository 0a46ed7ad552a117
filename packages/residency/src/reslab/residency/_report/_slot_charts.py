"""Charts of streaming blocks: the contents of the slots over time, and the time of a pass against memory.

    charts.slots(slot_times({"deeper prefetch": deep, "resident blocks": kept}, workload, copy=3))
    charts.memory_time(rows)     # columns way, device_bytes, expected, measured

`slots` has a panel for each plan, all on one time axis. On top are the two lanes: computing, with its stalls, and
copying. Below is a row for each block's worth of memory: when a block is copied into it, how long the block stays (a
thin line), and when it computes. Panels of equal height need equal memory; of those, the shorter panel is faster.

`memory_time` has a line for each way of spending memory, such as a deeper prefetch or more resident blocks. Where two
lines have the same memory, the lower one spends it better. Lines are expected times, points are measured.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure
from reslab.residency._predict._slot_times import COMPUTES, COMPUTING, COPIED, COPYING, STALLS, THERE

#: States with their colour, in the order of the legend.
_SLOT_HUES = {COMPUTES: "blue", STALLS: "vermilion", COPIED: "orange", THERE: "grey"}
_WIDTH_PX, _ROW_PX, _DIGIT_PX = 580, 15, 5.0


def slots(times: pl.DataFrame) -> Figure:
    """Draw the contents of the slots over time, for each plan.

    Args:
        times: The frame that `slot_times` returns.

    Raises:
        ValueError: The frame is empty.
    """
    import altair as alt  # takes two seconds

    if not times.height:
        raise ValueError("there are no times to draw; give slot_times a workload with calls, and at least one plan")
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
    return Figure.from_altair(alt.vconcat(*parts, spacing=10), caption=_slots_caption(times, until))


def _panel(times: pl.DataFrame, x: Any, px: float) -> Any:
    """Draw one plan; `px` is the width of one unit of time."""
    import altair as alt

    places = times["place"].unique(maintain_order=True).to_list()
    drawn = [THERE, COPIED, STALLS, COMPUTES]  # later states are drawn over earlier ones
    rows = sorted(times.rows(named=True), key=lambda row: drawn.index(row["state"]))
    color = alt.Color(
        "state:N",
        title=None,
        scale=alt.Scale(domain=list(_SLOT_HUES), range=[PALETTE[hue] for hue in _SLOT_HUES.values()]),
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
    """Return the heading of a panel: the plan, its memory and its end."""
    places = times.filter(~pl.col("place").is_in([COMPUTING, COPYING]))["place"].n_unique()
    return f"{times['plan'][0]}: memory for {places} block{'s' * (places > 1)}, done at {max(times['end']):g}"


def _until(times: pl.DataFrame) -> dict[str, float]:
    return dict(times.group_by("plan", maintain_order=True).agg(pl.col("end").max()).rows())


def _slots_caption(times: pl.DataFrame, until: dict[str, float]) -> str:
    copies = times.filter(pl.col("place") == COPYING)["plan"].value_counts(name="copies")
    counts = dict(copies.rows())
    said = [f"{plan}: {counts.get(plan, 0)} copies, done at {end:g}" for plan, end in until.items()]
    computes = times.filter(pl.col("state") == COMPUTES, pl.col("place") == COMPUTING).height // len(until)
    return f"Computing alone takes {computes}. {'; '.join(said)}. The numbers are those of blocks."


_WAY_HUES = [PALETTE[hue] for hue in ("orange", "blue", "green", "purple")]
_WIDTH_PX, _HEIGHT_PX = 500, 260
_UNITS = (("MiB", 2**20), ("GiB", 2**30))


def memory_time(rows: pl.DataFrame) -> Figure:
    """Draw the time of a pass against the memory of its weights, for up to four ways of spending memory.

    Args:
        rows: Columns `way` (a label), `device_bytes`, `expected` and `measured`. Times are multiples of a pass without
            moves; `measured` is null where none was taken.

    Raises:
        ValueError: There are more ways than hues.
    """
    import altair as alt  # takes two seconds

    ways = rows["way"].unique(maintain_order=True).to_list()
    if len(ways) > len(_WAY_HUES):
        raise ValueError(f"{len(ways)} ways cannot be told apart by colour; draw {len(_WAY_HUES)} at most")
    unit, unit_bytes = _unit(rows)
    values = [_point(row, unit_bytes) for row in rows.sort("device_bytes", maintain_order=True).rows(named=True)]
    top = max(max(value["expected"], value["measured"] or 0) for value in values)
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("size:Q", title=f"weights on the device ({unit})", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color(
            "way:N",
            title=None,
            scale=alt.Scale(domain=ways, range=_WAY_HUES[: len(ways)]),
            legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, labelLimit=300),
        ),
        tooltip=["way:N", "size:Q", "expected:Q", "measured:Q"],
    )
    scale = alt.Scale(domain=[0, 1.05 * top], nice=False)
    title = "time of a pass ÷ without moving"
    lines = base.mark_line(strokeWidth=1.5).encode(y=alt.Y("expected:Q", title=title, scale=scale))
    points = base.transform_filter("isValid(datum.measured)").mark_point(size=70, filled=True, opacity=1)
    free = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(strokeDash=[3, 3], color=PALETTE["grey"])
    chart = alt.layer(free.encode(y=alt.Y("one:Q", scale=scale)), lines, points.encode(y="measured:Q"))
    return Figure.from_altair(chart.properties(width=_WIDTH_PX, height=_HEIGHT_PX), caption=_ways_caption(rows))


def _unit(rows: pl.DataFrame) -> tuple[str, int]:
    return _UNITS[int(rows["device_bytes"].max() >= 4 * 2**30)]  # type: ignore[operator]


def _point(row: dict[str, Any], unit_bytes: int) -> dict[str, Any]:
    return {
        "way": row["way"],
        "size": round(row["device_bytes"] / unit_bytes, 2),
        "expected": round(row["expected"], 4),
        "measured": None if row["measured"] is None else round(row["measured"], 4),
    }


def _ways_caption(rows: pl.DataFrame) -> str:
    """Return the caption: the memory at which the measured ways differ most, and their times."""
    pairs = rows.drop_nulls("measured").group_by("device_bytes", maintain_order=True)
    spread = pairs.agg(by=pl.col("measured").max() - pl.col("measured").min()).sort("by", descending=True)
    said = "Lines are expected, points measured; at 1 no pass waits for a copy."
    if not spread.height or not spread["by"][0]:
        return said
    unit, unit_bytes = _unit(rows)
    at = rows.drop_nulls("measured").filter(pl.col("device_bytes") == spread["device_bytes"][0])
    found = ", ".join(f"{way} ×{ratio:.2f}" for way, ratio in at.select("way", "measured").rows())
    return f"With the same {at['device_bytes'][0] / unit_bytes:.0f} {unit}: {found}. {said}"
