"""Charts of a run: its bounds by stage, its arithmetic, and the plans that fit by card and size.

    charts.bounds(residency.bounds(rehearsal, plan, card).stages())
    charts.work(rehearsal.table()).save("work.svg")
    charts.survey(residency.survey(rehearsals, cards))

In `bounds` the full bar of a stage is its floor, where every copy hides behind compute; the outline goes on to the
ceiling, where no copy does. The hollow part is the most that overlap can save; the colour says what limits the floor.

`work` has a bar for each stage and component in the order of running, with its label at the bar in place of an axis.
`survey` has a cell for each card and size: the plan, and its time at least and if nothing overlaps.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure, gib
from reslab.residency._plan._presets import TILED
from reslab.residency._tune._survey import Survey

#: Limits of a floor, with their hues.
LIMITS = {"compute": "blue", "memory": "green", "host": "purple", "copy": "vermilion"}


def bounds(stages: pl.DataFrame) -> Figure:
    """Draw the time of each stage at least, and if nothing overlaps.

    Args:
        stages: The frame that `Bounds.stages` returns.

    Returns:
        A bar a stage that computes or copies: full up to its floor, hollow up to its ceiling.
    """
    import altair as alt  # takes two seconds

    shown = stages.filter(pl.col("calls") > 0).cast({"stage": pl.String, "limited_by": pl.String})
    rows = [_bounds_bar(row) for row in shown.iter_rows(named=True)]
    limits = {limit: PALETTE[hue] for limit, hue in LIMITS.items() if limit in shown["limited_by"]}
    scale = alt.Scale(domain=list(limits), range=list(limits.values()))
    color = alt.Color("limit:N", title="bound by", scale=scale, legend=alt.Legend(orient="top"))
    outline = alt.Stroke("limit:N", scale=scale, legend=None)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("stage:N", sort=[row["stage"] for row in rows], title=None, axis=BARE_AXIS),
        tooltip=["stage:N", "text:N", "limit:N", "moves:N"],
    )
    floors = base.mark_bar(height=14).encode(x=alt.X("floor:Q", axis=None), color=color)
    beyond = base.mark_bar(height=13, fillOpacity=0, strokeWidth=1).encode(x="floor:Q", x2="ceiling:Q", stroke=outline)
    labels = base.mark_text(align="left", dx=5).encode(x="ceiling:Q", text="text:N")
    chart = alt.layer(floors, beyond, labels).properties(width=400, height=alt.Step(24))
    return Figure.from_altair(chart, caption=_bounds_caption(shown))


def _bounds_bar(row: dict[str, Any]) -> dict[str, Any]:
    floor, ceiling = row["floor_ns"] / 1e9, row["ceiling_ns"] / 1e9
    return {
        "stage": row["stage"],
        "floor": round(floor, 4),
        "ceiling": round(ceiling, 4),
        "limit": row["limited_by"],
        "text": f"{_seconds(floor)} to {_seconds(ceiling)}"
        if _seconds(floor) != _seconds(ceiling)
        else _seconds(floor),
        "moves": f"{gib(row['moved_bytes'])} copied",
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.2g} s"


def _bounds_caption(stages: pl.DataFrame) -> str:
    floor, ceiling = (float(stages[name].sum()) / 1e9 for name in ("floor_ns", "ceiling_ns"))
    most = stages.sort("ceiling_ns", descending=True).row(0, named=True)
    return (
        f"The run takes at least {_seconds(floor)}, and {_seconds(ceiling)} if nothing overlaps, most of it in "
        f"{most['stage']}: "
        "bounds by roofline, not predictions."
    )


def work(table: pl.DataFrame) -> Figure:
    """Draw the arithmetic of each stage and component of a run.

    Args:
        table: The frame that `Rehearsal.table` returns.

    Returns:
        A bar a stage, component and method, labelled with TFLOP, share and calls; its length is its TFLOP.
    """
    import altair as alt  # takes two seconds

    total = float(table["tflop"].sum())
    rows = [_work_bar(row, total) for row in table.iter_rows(named=True)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", sort=[row["label"] for row in rows], title=None, axis=BARE_AXIS),
        x=alt.X("tflop:Q", axis=None),
    )
    bars = base.mark_bar(height=14, cornerRadiusEnd=2, color=PALETTE["blue"]).encode(
        tooltip=["label:N", "text:N", "shapes:N"]
    )
    chart = alt.layer(bars, base.mark_text(align="left", dx=5).encode(text="text:N"))
    return Figure.from_altair(chart.properties(width=330, height=alt.Step(22)), caption=_work_caption(table, total))


def _work_bar(row: dict[str, Any], total: float) -> dict[str, Any]:
    tflop = f"{row['tflop']:,.0f}" if row["tflop"] >= 1000 else f"{row['tflop']:.3g}"
    calls = f"{row['calls']} calls" if row["calls"] > 1 else "1 call"
    return {
        "label": f"{row['stage']}: {row['component']}",
        "tflop": round(row["tflop"], 3),
        "shapes": row["shapes"],
        "text": f"{tflop} TFLOP · {_share(row['tflop'] / total)} · {calls}",
    }


def _share(share: float) -> str:
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _work_caption(table: pl.DataFrame, total: float) -> str:
    first = table.sort("tflop", descending=True).row(0, named=True)
    return (
        f"{first['component']} in {first['stage']} is {_share(first['tflop'] / total)} of {total / 1000:,.3g} PFLOP; "
        "counted in a rehearsal, not measured."
    )


_HUES = {
    "everything resident": "green",
    "swapped stage by stage": "blue",
    "blocks stream from host memory": "orange",
    "blocks stream from disk": "purple",
    "does not fit": "vermilion",
}
_PLANS = {
    "all resident": "everything resident",
    "swap": "swapped stage by stage",
    "streaming": "blocks stream from host memory",
    "streaming, others from disk": "blocks stream from host memory",
    "streaming from disk": "blocks stream from disk",
}


def survey(rows: pl.DataFrame | Survey) -> Figure:
    """Draw a cell for each card and size: the plan that keeps most and fits, and its bounds.

    Args:
        rows: The `Survey`, or rows of its frame.
    """
    import altair as alt  # takes two seconds

    rows = rows.frame if isinstance(rows, Survey) else rows
    cells = [_cell(row) for row in rows.rows(named=True)]
    held = list(dict.fromkeys(cell["plan"] for cell in cells))
    domain = [plan for plan in _HUES if plan in held]
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X(
            "size:N", sort=None, title=None, axis={"orient": "top", "labelAngle": 0, "ticks": False, "domain": False}
        ),
        y=alt.Y("device:N", sort=None, title=None, axis={"ticks": False, "domain": False}),
        tooltip=["device:N", "size:N", "plan:N", "text:N", "keeps:N", "why:N"],
    )
    tiles = base.mark_rect(filled=False, strokeWidth=2, cornerRadius=3, height=34, width=106).encode(
        color=alt.Color(
            "plan:N",
            title=None,
            scale=alt.Scale(domain=domain, range=[PALETTE[_HUES[plan]] for plan in domain]),
            legend=alt.Legend(orient="bottom", symbolType="square", columns=2, labelLimit=300),
        )
    )
    times = base.mark_text(dy=-7).encode(text="text:N")
    kept = base.mark_text(dy=8, fontSize=10).encode(text="keeps:N")
    chart = alt.layer(tiles, times, kept).properties(width=alt.Step(112), height=alt.Step(40))
    return Figure.from_altair(chart, caption=_survey_caption(rows))


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    plan = _PLANS[row["plan"].removesuffix(TILED)] if row["fits"] else "does not fit"
    stays = f"{row['keep']} blocks stay" if row["keep"] is not None else f"{row['peak_gib']:.0f} GiB at the peak"
    return {
        "device": row["device"],
        "size": row["size"],
        "plan": plan,
        "text": _range(row["floor_s"], row["ceiling_s"]) if row["fits"] else "–",
        "keeps": (stays + ", in tiles" * row["plan"].endswith(TILED)) if row["fits"] else "does not fit",
        "why": f"{row['why']} {row['hint']}".rstrip(),
    }


def _range(floor_s: float | None, ceiling_s: float | None) -> str:
    if floor_s is None or ceiling_s is None:
        return "no times known"
    least, most = (f"{seconds:,.0f}" for seconds in (floor_s, ceiling_s))
    return f"{least} s" if least == most else f"{least} to {most} s"


def _survey_caption(rows: pl.DataFrame) -> str:
    fits, count = int(rows["fits"].sum()), rows.height
    return (
        f"{fits} of {count} combinations of card and size fit. In each cell the seconds for one video, at least and if "
        "nothing overlaps, with the plan that keeps most on the card: bounds by roofline, not predictions."
    )
