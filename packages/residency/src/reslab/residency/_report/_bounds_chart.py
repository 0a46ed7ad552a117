"""The bounds of a plan, stage by stage: at least, and if nothing overlaps.

    bounds_chart(bounds(rehearsal, plan, card).stages())

The full bar is the floor, where every copy hides behind compute; its outline goes on to the ceiling, where none does.
So the hollow part is all that overlapping can win, and the colour says what the floor is bound by.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure, gib

#: What a floor is bound by, with its colour.
LIMITS = {"compute": "blue", "memory": "green", "host": "purple", "copy": "vermilion"}


def bounds_chart(stages: pl.DataFrame) -> Figure:
    """Draw what each stage takes at least, and if nothing overlaps.

    Args:
        stages: What `Bounds.stages` returns.

    Returns:
        A bar a stage that computes or copies: its floor, and hollow beyond it what copying adds where nothing hides.
    """
    import altair as alt  # takes two seconds

    shown = stages.filter(pl.col("calls") > 0).cast({"stage": pl.String, "limited_by": pl.String})
    rows = [_bar(row) for row in shown.iter_rows(named=True)]
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
    return Figure.from_altair(chart, caption=_caption(shown))


def _bar(row: dict[str, Any]) -> dict[str, Any]:
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


def _caption(stages: pl.DataFrame) -> str:
    floor, ceiling = (float(stages[name].sum()) / 1e9 for name in ("floor_ns", "ceiling_ns"))
    most = stages.sort("ceiling_ns", descending=True).row(0, named=True)
    return (
        f"The run takes at least {_seconds(floor)}, and {_seconds(ceiling)} if nothing overlaps, most of it in "
        f"{most['stage']}: "
        "bounds by roofline, not predictions."
    )
