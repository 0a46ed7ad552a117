"""The upper half of a timeline: a row a lane, a bar a span.

What has a component has its colour; the rest is grey and carries its name where there is room. Thousands of bars would
make the page slow and are too short to see, so only the longest are drawn.

    lanes_chart(lane_bars(profile.spans), x=x, color=color, unit_ns=1e6)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.profiler._hues import OTHER_COLOR
from reslab.profiler._lanes import LANES, STALL
from reslab.profiler._units import format_bytes, format_ns
from reslab.profiler._vega import BARE_AXIS

if TYPE_CHECKING:
    import altair as alt

MOST_BARS = 4000
WIDTH_PX = 620

NONE = "–"
_LETTER_PX = 6.5


def lanes_chart(bars: pl.DataFrame, *, x: alt.X, color: alt.Color, unit_ns: float) -> alt.LayerChart | alt.FacetChart:
    """Draw the bars.

    Args:
        bars: What `lane_bars` returns.
        x: The time axis, over the field `start`.
        color: The colours of components, over the field `component`.
        unit_ns: How many nanoseconds the axis counts as one.
    """
    import altair as alt  # takes two seconds

    longest = bars.sort(pl.col("start_ns") - pl.col("end_ns"), maintain_order=True).head(MOST_BARS)
    px_per_ns = WIDTH_PX / max([1, *bars["end_ns"]])
    values = [_bar(row, unit_ns, px_per_ns) for row in longest.sort("lane", "start_ns").iter_rows(named=True)]
    lanes = [lane for lane in LANES if lane in bars["lane"]]
    y = alt.Y("lane:N", scale=alt.Scale(domain=lanes), title=None, axis=BARE_AXIS)
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    has_component = alt.when(f"datum.component !== '{NONE}'")
    drawn = base.mark_bar(height=17, stroke=OTHER_COLOR, strokeWidth=0.5, clip=True).encode(
        x2="end:Q",
        color=has_component.then(color).otherwise(alt.value(OTHER_COLOR)),
        fillOpacity=has_component.then(alt.value(1)).otherwise(alt.value(0.3)),
        tooltip=["label:N", "stage:N", "component:N", "begins:N", "takes:N", "moves:N"],
    )
    names = base.mark_text(align="left", dx=3, clip=True).encode(text="text:N")
    return alt.layer(drawn.properties(name="lanes"), names).properties(width=WIDTH_PX, height=alt.Step(22))


def _bar(row: dict[str, Any], unit_ns: float, px_per_ns: float) -> dict[str, Any]:
    took_ns = row["end_ns"] - row["start_ns"]
    fits = len(row["label"]) * _LETTER_PX + 4 < took_ns * px_per_ns
    return {
        "lane": row["lane"],
        "label": row["label"] + (f" ({row['error']})" if row["error"] else ""),
        "stage": row["stage"] or NONE,
        "component": STALL if row["lane"] == STALL else row["component"] or NONE,
        "start": round(row["start_ns"] / unit_ns, 6),
        "end": round(row["end_ns"] / unit_ns, 6),
        "begins": format_ns(row["start_ns"]),
        "takes": format_ns(took_ns),
        "moves": format_bytes(row["moved_bytes"]) if row["moved_bytes"] else NONE,
        "text": row["label"] if fits and row["component"] is None and row["lane"] != STALL else "",
    }
