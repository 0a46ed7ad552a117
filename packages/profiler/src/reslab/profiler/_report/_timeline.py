"""The timeline: what ran when on which lane, over the memory that each component held meanwhile.

    timeline(profile.spans, profile.memory)     # drag: move; Ctrl and the wheel: zoom; double click: see all again
    bars = lane_bars(profile.spans)             # the data of the upper half: one row a bar
    covered_ns(bars.filter(lane="copy"))        # nanoseconds in which at least one copy was running
    resident_bytes(profile.memory, pool="device")       # the data of the lower half

The upper half has a row a lane and a bar a span. The host's spans have a lane for each kind (stages, steps, passes,
calls), because those lie inside each other. The compute lane shows the spans that the device's events timed, and only
the innermost of them, so that nothing is drawn twice. Copies and stalls have a lane each, wherever they happened.
Thousands of bars would make the page slow and are too short to see, so only the longest are drawn.

The lower half has the same time axis. It stacks the bytes that each component holds, from the counters of a manager of
memory; the bytes of a pool beyond them (activations, caches) are a component called `other`. Memory is read at the
borders of stages, and a sample holds until the next one, so areas are steps. The dashed line is the highest value that
the allocator saw since the sample before: a stage's peak lies between its borders. The solid line is the memory of the
device.

A component has one colour in both halves (`_figure.component_hues`). A bar without a component is grey, and carries its
name where there is room.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from reslab.profiler._model._schema import COMPUTE, COPY, SPAN, Schema
from reslab.profiler._report._figure import BARE_AXIS, OTHER_COLOR, STALL_COLOR, Figure, Spec, component_hues
from reslab.profiler._units import bytes_unit, format_bytes, format_ns, format_share, time_unit
from reslab.stages import Kind

if TYPE_CHECKING:
    import altair as alt


STALL = "stall"

#: Lanes of the host by kind of span, then those of the device, from top to bottom.
HOST_LANES = {
    SPAN: "host: spans",
    Kind.STAGE.value: "host: stages",
    Kind.STEP.value: "host: steps",
    Kind.PASS.value: "host: passes",
    Kind.COMPONENT.value: "host: calls",
}
LANES = [*HOST_LANES.values(), COMPUTE, COPY, STALL]

BARS: Schema = {
    "lane": pl.Enum,
    "label": pl.String,
    "component": pl.String,
    "stage": pl.String,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "moved_bytes": pl.Int64,
    "error": pl.String,
}


def lane_bars(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row a bar, by lane and time.

    Args:
        spans: A frame of `SPAN_SCHEMA`.
    """
    text = ["kind", "lane", "name", "stage", "component", "guidance_pass", "error"]
    rows = spans.with_columns(pl.col(text).cast(pl.String))
    copies, waits = pl.col("kind") == Kind.TRANSFER.value, pl.col("kind") == Kind.WAIT.value
    on_host = rows.filter(pl.col("kind").is_in(list(HOST_LANES)), pl.col("lane") != COMPUTE)
    bars = [
        _bars(on_host, pl.col("kind").replace_strict(HOST_LANES, return_dtype=pl.String), "start_ns", "host_ns"),
        _bars(_innermost(rows.filter(~copies, ~waits)), pl.lit(COMPUTE), "device_start_ns", "device_ns"),
        _bars(rows.filter(copies), pl.lit(COPY), *_ON_DEVICE),
        _bars(rows.filter(waits), pl.lit(STALL), *_ON_DEVICE),
    ]
    # a wait for weights that have arrived takes no time and is no stall
    shown = pl.col("end_ns").ge(pl.col("start_ns") + 1) | pl.col("lane").ne(STALL)
    table = pl.concat(bars).filter(shown).with_columns(pl.col("lane").cast(pl.Enum(LANES)))
    return table.sort("lane", "start_ns", "end_ns", maintain_order=True)


_ON_DEVICE = pl.coalesce("device_start_ns", "start_ns"), pl.coalesce("device_ns", "stall_ns", "host_ns")


def covered_ns(bars: pl.DataFrame) -> int:
    """Return the nanoseconds in which at least one of the bars was running.

    >>> covered_ns(pl.DataFrame({"start_ns": [0, 5, 30], "end_ns": [10, 20, 40]}))
    30
    """
    begun = bars.sort("start_ns").with_columns(before_ns=pl.col("end_ns").cum_max().shift(1))
    fresh = pl.col("end_ns") - pl.max_horizontal("start_ns", "before_ns")
    return int(begun.select(fresh.clip(lower_bound=0).sum()).item())


def _innermost(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the spans with device times that hold no other span with device times."""
    timed = rows.drop_nulls("device_ns")
    return timed.join(timed.select(span="parent").drop_nulls(), on="span", how="anti", maintain_order="left")


def _bars(rows: pl.DataFrame, lane: pl.Expr, start: str | pl.Expr, length: str | pl.Expr) -> pl.DataFrame:
    start, length = (pl.col(column) if isinstance(column, str) else column for column in (start, length))
    columns = {"lane": lane, "label": _LABEL, "start_ns": start, "end_ns": start + length}
    return rows.with_columns(**columns).select(*BARS)


_LABEL = (
    pl.when(pl.col("kind") == Kind.STAGE.value)
    .then("stage")
    .when(pl.col("kind") == Kind.STEP.value)
    .then(pl.format("step {}", "step"))
    .otherwise("name")
)


MOST_BARS = 4000
WIDTH_PX = 620

NONE = "–"
_LETTER_PX = 6.5


def lanes_chart(bars: pl.DataFrame, *, x: alt.X, color: alt.Color, unit_ns: float) -> alt.LayerChart | alt.FacetChart:
    """Draw the bars, a lane a row.

    Args:
        bars: Bars as `lane_bars` returns them.
        x: The time axis, over the field `start`.
        color: The colours of components, over the field `component`.
        unit_ns: The nanoseconds of one unit of the axis.
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


_HEIGHT_PX = 120
_ROOM = 1.2  # above the highest line, for words


class Limit(NamedTuple):
    """The memory to draw: its pool, its size in bytes if known, and the time until which the last sample holds."""

    pool: str
    there_bytes: int | None
    until_ns: int


def memory_chart(
    memory: pl.DataFrame, limit: Limit, *, x: alt.X, color: alt.Color, unit_ns: float
) -> alt.LayerChart | alt.FacetChart:
    """Draw a pool's resident bytes by component, its peaks and its limit.

    Args:
        memory: A frame of `MEMORY_SCHEMA`.
        limit: The pool, its size, and the end of the last sample.
        x: The time axis, over the field `start`.
        color: The colours of components, over the field `component`.
        unit_ns: The nanoseconds of one unit of the axis.
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


# without a key, the wheel scrolls the page
_ZOOM = "wheel![event.ctrlKey || event.metaKey || event.altKey]"


def timeline(
    spans: pl.DataFrame, memory: pl.DataFrame, *, pool: str | None = None, device_bytes: int | None = None
) -> Figure:
    """Draw the lanes of a profile over its memory.

    Args:
        spans: A frame of `SPAN_SCHEMA`, measured or predicted.
        memory: A frame of `MEMORY_SCHEMA`.
        pool: The memory to draw; by default the device's if it was read, else the first that was read.
        device_bytes: The device's memory in bytes; None if unknown.
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
    """Return the selection that moves both halves together; Altair itself would warn that two charts have it."""
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
    """Return one sentence: the time of the runs, how busy the device's lanes were, and the peak of memory."""
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


OTHER = "other"


def first_pool(memory: pl.DataFrame) -> str | None:
    """Return the pool to draw by default: the device's, else the first that was read, else None."""
    pools = memory["pool"].cast(pl.String).unique(maintain_order=True).to_list()
    return "device" if "device" in pools else next(iter(pools), None)


def pool_bytes(memory: pl.DataFrame, *, pool: str) -> pl.DataFrame:
    """Return the samples of a pool as a whole, by time.

    Args:
        memory: A frame of `MEMORY_SCHEMA`.
        pool: The name of the pool.
    """
    whole = memory.filter(pl.col("pool").cast(pl.String) == pool, pl.col("component").is_null())
    # two readings at one time: a stage has ended and the next begins, and the peak is that of the first
    return whole.group_by("at_ns").agg(pl.col("allocated_bytes").last(), pl.col("peak_bytes").max()).sort("at_ns")


def resident_bytes(memory: pl.DataFrame, *, pool: str) -> pl.DataFrame:
    """Return the bytes of a pool that each component holds at each sample, and the rest as `other`.

    Args:
        memory: A frame of `MEMORY_SCHEMA`.
        pool: The name of the pool.

    Returns:
        Columns at_ns, component, resident_bytes, by component (in order of first sample, `other` last) and time.
    """
    ours = memory.filter(pl.col("pool").cast(pl.String) == pool).with_columns(pl.col("component").cast(pl.String))
    named = ours.drop_nulls("component").unique(["at_ns", "component"], keep="last", maintain_order=True)
    components = named["component"].unique(maintain_order=True)
    grid = ours.select("at_ns").unique().join(components.to_frame(), how="cross")
    held = grid.join(named, on=["at_ns", "component"], how="left").sort("at_ns")
    held = held.select("at_ns", "component", pl.col("allocated_bytes").forward_fill().over("component").fill_null(0))
    rows = pl.concat([held, _rest(held, pool_bytes(memory, pool=pool))]).rename({"allocated_bytes": "resident_bytes"})
    return rows.sort(pl.col("component").cast(pl.Enum([*components, OTHER])), "at_ns")


def _rest(held: pl.DataFrame, whole: pl.DataFrame) -> pl.DataFrame:
    """Return the bytes of a pool that no component holds; no row where the pool as a whole was not read."""
    sums = held.group_by("at_ns").agg(named_bytes=pl.col("allocated_bytes").sum())
    rest = pl.col("allocated_bytes") - pl.col("named_bytes").fill_null(0)
    rows = whole.join(sums, on="at_ns", how="left")
    return rows.select("at_ns", pl.lit(OTHER).alias("component"), rest.clip(lower_bound=0).alias("allocated_bytes"))
