"""The lower half of a timeline: what holds how much of a memory, and how much there is.

    memory_chart(memory, Limit("device", 24 * 2**30, until_ns=98_700_000), x=x, color=color, unit_ns=1e6)

Between two samples the first one holds, so areas are steps. The dashed line is the highest that the allocator saw since
the sample before: a stage's peak lies between its borders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from reslab.profiler._draw_lanes import WIDTH_PX
from reslab.profiler._hues import OTHER_COLOR
from reslab.profiler._resident import pool_bytes, resident_bytes
from reslab.profiler._units import bytes_unit, format_bytes

if TYPE_CHECKING:
    import altair as alt

_HEIGHT_PX = 120
_ROOM = 1.2  # above the highest line, for words


class Limit(NamedTuple):
    """Which memory is drawn, how much of it there is (if known), and how far in time the last sample holds."""

    pool: str
    there_bytes: int | None
    until_ns: int


def memory_chart(
    memory: pl.DataFrame, limit: Limit, *, x: alt.X, color: alt.Color, unit_ns: float
) -> alt.LayerChart | alt.FacetChart:
    """Draw a pool's resident bytes by component, its peaks and its limit.

    Args:
        memory: A frame of `MEMORY_SCHEMA`.
        limit: Which memory, how much, how long.
        x: The time axis, over the field `start`.
        color: The colours of components, over the field `component`.
        unit_ns: How many nanoseconds the axis counts as one.
    """
    import altair as alt  # takes two seconds

    held, whole = resident_bytes(memory, pool=limit.pool), pool_bytes(memory, pool=limit.pool).drop_nulls()
    highest = max([limit.there_bytes or 0, *held["resident_bytes"], *whole["peak_bytes"]])
    unit, unit_bytes = bytes_unit(highest)
    held_until = _until(held, limit.until_ns).rows(named=True)
    steps = [_step(row, "resident_bytes", unit_ns, unit_bytes) for row in held_until]
    peaks = [_step(row, "peak_bytes", unit_ns, unit_bytes) for row in whole.rows(named=True)]
    room = alt.Scale(domain=[0, _ROOM * highest / unit_bytes], nice=False)
    y = alt.Y("size:Q", title=f"{limit.pool} ({unit})", axis=alt.Axis(tickCount=4), scale=room)
    areas = alt.Chart(alt.Data(values=steps)).mark_area(interpolate="step-after", clip=True, opacity=0.85)
    areas = areas.encode(x=x, y=y.stack("zero"), color=color, tooltip=["component:N", "bytes:N"])
    layers = [areas.properties(name="memory")]
    if peaks:
        line = alt.Chart(alt.Data(values=peaks)).mark_line(interpolate="step-before", clip=True, size=1.2)
        layers.append(line.encode(x=x, y=y, strokeDash=alt.value([3, 2]), color=alt.value(OTHER_COLOR)))
        layers.append(_words("peak", peaks[-1]["size"], y))
    if limit.there_bytes is not None:
        there = limit.there_bytes / unit_bytes
        layers.append(alt.Chart(alt.Data(values=[{"size": there}])).mark_rule(size=1.5).encode(y=y))
        layers.append(_words(f"{format_bytes(limit.there_bytes)} of {limit.pool} memory", there, y))
    return alt.layer(*layers).properties(width=WIDTH_PX, height=_HEIGHT_PX)


def _words(text: str, size: float, y: alt.Y) -> alt.Chart:
    """Write above a line, at the right edge."""
    import altair as alt

    words = alt.Chart(alt.Data(values=[{"size": size, "text": text}])).mark_text(
        align="right", baseline="bottom", dy=-2
    )
    return words.encode(y=y, text="text:N", x=alt.value(WIDTH_PX - 4))


def _until(held: pl.DataFrame, until_ns: int) -> pl.DataFrame:
    """Return the steps with one more for each component, where the last of them ends."""
    last = held.group_by("component", maintain_order=True).last().with_columns(at_ns=pl.lit(until_ns, pl.Int64))
    return pl.concat([held, last.select(held.columns)])


def _step(row: dict[str, Any], size: str, unit_ns: float, unit_bytes: float) -> dict[str, Any]:
    value = {"start": round(row["at_ns"] / unit_ns, 6), "size": round(row[size] / unit_bytes, 6)}
    return value | {"component": row["component"], "bytes": format_bytes(row[size])} if "component" in row else value
