"""What more memory buys, by the way it is spent: time of a pass against memory, a line a way.

    ways_chart(rows)     # columns way, device_bytes, expected, measured

Where two lines lie over the same memory, the lower one spends it better. Lines join what is expected, points are what
was measured; where they agree, one knows why.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import PALETTE, Figure

_HUES = [PALETTE[hue] for hue in ("orange", "blue", "green", "purple")]
_WIDTH_PX, _HEIGHT_PX = 500, 260
_UNITS = (("MiB", 2**20), ("GiB", 2**30))


def ways_chart(rows: pl.DataFrame) -> Figure:
    """Draw the time of a pass against the memory that it takes, for up to four ways of spending it.

    Args:
        rows: Columns `way` (a label), `device_bytes`, `expected` and `measured`: times as multiples of a pass in which
            nothing is moved; `measured` is null where nothing was.

    Raises:
        ValueError: There are more ways than hues.
    """
    import altair as alt  # takes two seconds

    ways = rows["way"].unique(maintain_order=True).to_list()
    if len(ways) > len(_HUES):
        raise ValueError(f"{len(ways)} ways cannot be told apart by colour; draw {len(_HUES)} at most")
    unit, unit_bytes = _unit(rows)
    values = [_point(row, unit_bytes) for row in rows.sort("device_bytes", maintain_order=True).rows(named=True)]
    top = max(max(value["expected"], value["measured"] or 0) for value in values)
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("size:Q", title=f"weights on the device ({unit})", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color(
            "way:N",
            title=None,
            scale=alt.Scale(domain=ways, range=_HUES[: len(ways)]),
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
    return Figure.from_altair(chart.properties(width=_WIDTH_PX, height=_HEIGHT_PX), caption=_caption(rows))


def _unit(rows: pl.DataFrame) -> tuple[str, int]:
    return _UNITS[int(rows["device_bytes"].max() >= 4 * 2**30)]  # type: ignore[operator]


def _point(row: dict[str, Any], unit_bytes: int) -> dict[str, Any]:
    return {
        "way": row["way"],
        "size": round(row["device_bytes"] / unit_bytes, 2),
        "expected": round(row["expected"], 4),
        "measured": None if row["measured"] is None else round(row["measured"], 4),
    }


def _caption(rows: pl.DataFrame) -> str:
    """Say where equal memory makes most of a difference."""
    pairs = rows.drop_nulls("measured").group_by("device_bytes", maintain_order=True)
    spread = pairs.agg(by=pl.col("measured").max() - pl.col("measured").min()).sort("by", descending=True)
    said = "Lines are expected, points measured; at 1 nothing is waited for."
    if not spread.height or not spread["by"][0]:
        return said
    unit, unit_bytes = _unit(rows)
    at = rows.drop_nulls("measured").filter(pl.col("device_bytes") == spread["device_bytes"][0])
    found = ", ".join(f"{way} ×{ratio:.2f}" for way, ratio in at.select("way", "measured").rows())
    return f"With the same {at['device_bytes'][0] / unit_bytes:.0f} {unit}: {found}. {said}"
