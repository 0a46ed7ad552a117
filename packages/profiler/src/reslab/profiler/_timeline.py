"""The timeline: what ran when on which lane, over what was resident meanwhile.

    timeline(profile.spans, profile.memory)     # drag: move; Ctrl and the wheel: zoom; double click: see all again

Above, a lane a row: the host's stages, steps, passes and calls, then the device's compute, its copies and its stalls,
as far as the profile has them (`_draw_lanes`). Below, on the same axis, the bytes that each component holds, and the
memory that there is as a line (`_draw_memory`). A component has one colour in both (`_hues`).
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from reslab.profiler._draw_lanes import MOST_BARS, lanes_chart
from reslab.profiler._draw_memory import Limit, memory_chart
from reslab.profiler._hues import OTHER_COLOR, STALL_COLOR, component_hues
from reslab.profiler._lanes import STALL, covered_ns, lane_bars
from reslab.profiler._resident import OTHER, first_pool, pool_bytes, resident_bytes
from reslab.profiler._schema import COMPUTE, COPY
from reslab.profiler._units import format_bytes, format_ns, format_share, time_unit
from reslab.profiler._vega import Figure, Spec
from reslab.stages import Kind

# The wheel alone scrolls the page.
_ZOOM = "wheel![event.ctrlKey || event.metaKey || event.altKey]"


def timeline(
    spans: pl.DataFrame, memory: pl.DataFrame, *, pool: str | None = None, device_bytes: int | None = None
) -> Figure:
    """Draw the lanes of a profile over its memory.

    Args:
        spans: A frame of `SPAN_SCHEMA`, measured or predicted.
        memory: A frame of `MEMORY_SCHEMA`.
        pool: Whose memory to draw; by default the device's if it was read, else what was read first.
        device_bytes: How much memory the device has, if that is known.
    """
    import altair as alt  # takes two seconds

    bars, pool = lane_bars(spans), pool or first_pool(memory) or ""
    held = resident_bytes(memory, pool=pool)
    until_ns = max([0, *bars["end_ns"], *held["at_ns"]])
    unit, unit_ns = time_unit(until_ns)
    hues = _hues(bars, held)
    scale = alt.Scale(domain=list(hues), range=list(hues.values()))
    legend = alt.Legend(title=None, orient="top", symbolType="square", symbolStrokeWidth=0, offset=4)
    color = alt.Color("component:N", scale=scale, legend=legend if hues else None)
    domain = alt.Scale(domain=[0, until_ns / unit_ns], nice=False, zero=False)
    x = alt.X("start:Q", title=f"time ({unit})", axis=alt.Axis(tickCount=8), scale=domain)
    parts = [lanes_chart(bars, x=x.axis(None) if held.height else x, color=color, unit_ns=unit_ns)]
    if held.height:
        limit = Limit(pool, device_bytes if pool == "device" else None, until_ns)
        parts.append(memory_chart(memory, limit, x=x, color=color, unit_ns=unit_ns))
    chart = alt.vconcat(*parts, spacing=8).resolve_scale(color="shared")
    figure = Figure.from_altair(chart, caption=_caption(spans, memory, bars, pool))
    return replace(figure, spec={**figure.spec, "params": [_zoom(figure.spec)]})


def _zoom(spec: Spec) -> Spec:
    """Return the selection that moves both parts along together; Altair itself would warn that two charts have it."""
    select = {"type": "interval", "encodings": ["x"], "zoom": _ZOOM}
    views = [part["layer"][0]["name"] for part in spec["vconcat"]]  # Altair adds a number to each
    return {"name": "zoom", "select": select, "bind": "scales", "views": views}


def _hues(bars: pl.DataFrame, held: pl.DataFrame) -> dict[str, str]:
    holders = held.filter(pl.col("resident_bytes") > 0)["component"].unique(maintain_order=True)
    drawn = bars.filter(pl.col("lane") != STALL)["component"].drop_nulls()
    hues = component_hues([*drawn, *holders.filter(holders != OTHER)])
    hues |= {STALL: STALL_COLOR} if STALL in bars["lane"] else {}
    return hues | ({OTHER: OTHER_COLOR} if OTHER in holders else {})


def _caption(spans: pl.DataFrame, memory: pl.DataFrame, bars: pl.DataFrame, pool: str) -> str:
    """Say in one sentence how long it took, how much of that the device's lanes were busy, and the peak of memory."""
    runs = spans.filter(pl.col("kind") == Kind.RUN.value, pl.col("parent").is_null())
    took_ns = sum(runs["host_ns"]) or max([0, *bars["end_ns"]])
    names = " and ".join(f"{name!r}" for name in runs["name"].cast(pl.String).unique(maintain_order=True))
    parts = [f"{format_ns(took_ns)} of {names}" if names else format_ns(took_ns)]
    words = {COMPUTE: "compute was busy for", COPY: "copies took", STALL: "stalls took"}
    for lane, said in words.items():
        if covered := covered_ns(bars.filter(pl.col("lane") == lane)):
            parts.append(f"{said} {format_share(covered / took_ns)}")
    peak = pool_bytes(memory, pool=pool).select(pl.max_horizontal("allocated_bytes", "peak_bytes").max()).item()
    parts += [f"{pool} memory peaked at {format_bytes(peak)}"] if peak is not None else []
    parts += [f"the {MOST_BARS} longest of {bars.height} spans are drawn"] if bars.height > MOST_BARS else []
    return f"{'; '.join(parts)}."
