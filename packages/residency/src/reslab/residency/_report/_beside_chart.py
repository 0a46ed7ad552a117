"""Bounds beside measurement as a picture: a band from floor to ceiling, a mark where the run came out.

    beside_chart(pl.concat(beside(limits[name], profiles[name]) for name in plans))

Times are on a scale of powers of ten, so that a stage of a millisecond and one of a minute can be compared: equal
distances are equal ratios, and how far a mark lies to the right of its band is how far it is from the card's best.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, PALETTE, Figure, gib

#: What is shorter in every plan than this share of the longest is left out: the picture is about where time goes.
_SMALL = 1e-2


def beside_chart(rows: pl.DataFrame) -> Figure:
    """Draw for each plan and stage the band of its bounds and the measured time.

    Args:
        rows: What `beside` returns, of one plan or of several concatenated.
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
    """Return three significant digits: a scale of powers of ten has no zero, and a floor may be one."""
    return float(f"{max(seconds, 1e-6):.3g}")


def _caption(rows: pl.DataFrame) -> str:
    sums = rows.group_by("plan", maintain_order=True).agg(pl.col("floor_s", "measured_s", "ceiling_s").sum())
    told = [
        f"{row['plan']}: {row['measured_s']:.2g} s, bounds {row['floor_s']:.2g} to {row['ceiling_s']:.2g}"
        for row in sums.rows(named=True)
    ]
    return (
        "Bands go from the floor to what it takes if nothing overlaps, points are what was measured; all stages "
        f"together, {'; '.join(told)}."
    )
