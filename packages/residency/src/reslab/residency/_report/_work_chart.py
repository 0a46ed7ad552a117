"""What a rehearsed run computes, as bars: a row a stage and component.

    work_chart(rehearsal.table()).save("work.svg")

Arithmetic decides what a run costs at least, whatever it runs on. Bars stand in the order of running and carry their
own labels: no axis, no grid, no legend.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure


def work_chart(table: pl.DataFrame) -> Figure:
    """Draw where the arithmetic of a run is.

    Args:
        table: What `Rehearsal.table` returns.

    Returns:
        A bar a stage, component and method, labelled with TFLOP, share and calls; its length is its TFLOP.
    """
    import altair as alt  # takes two seconds

    total = float(table["tflop"].sum())
    rows = [_bar(row, total) for row in table.iter_rows(named=True)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", sort=[row["label"] for row in rows], title=None, axis=BARE_AXIS),
        x=alt.X("tflop:Q", axis=None),
    )
    bars = base.mark_bar(height=14, cornerRadiusEnd=2, color=PALETTE["blue"]).encode(
        tooltip=["label:N", "text:N", "shapes:N"]
    )
    chart = alt.layer(bars, base.mark_text(align="left", dx=5).encode(text="text:N"))
    return Figure.from_altair(chart.properties(width=330, height=alt.Step(22)), caption=_caption(table, total))


def _bar(row: dict[str, Any], total: float) -> dict[str, Any]:
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


def _caption(table: pl.DataFrame, total: float) -> str:
    first = table.sort("tflop", descending=True).row(0, named=True)
    return (
        f"{first['component']} in {first['stage']} is {_share(first['tflop'] / total)} of {total / 1000:,.3g} PFLOP; "
        "counted in a rehearsal, not measured."
    )
