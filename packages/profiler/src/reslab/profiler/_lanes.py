"""What a timeline draws: one row a bar, in lanes from the host's stages down to the device's stalls.

The host lane is shown by kind (stages, steps, passes, calls), because those lie inside each other. Compute is what a
device's events timed: only the innermost spans that have such times, so that nothing is drawn twice. Copies and stalls
have a lane each, wherever they happened.

    bars = lane_bars(profile.spans)         # lane, label, component, start_ns, end_ns and what the tooltip says
    covered_ns(bars.filter(lane="copy"))    # nanoseconds in which at least one copy was under way
"""

from __future__ import annotations

import polars as pl

from reslab.profiler._schema import COMPUTE, COPY, SPAN, Schema
from reslab.stages import Kind

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
    """Return a row a bar, by lane and time.

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
    shown = pl.col("end_ns").ge(pl.col("start_ns") + 1) | pl.col("lane").ne(STALL)  # a wait for what is there is none
    table = pl.concat(bars).filter(shown).with_columns(pl.col("lane").cast(pl.Enum(LANES)))
    return table.sort("lane", "start_ns", "end_ns", maintain_order=True)


_ON_DEVICE = pl.coalesce("device_start_ns", "start_ns"), pl.coalesce("device_ns", "stall_ns", "host_ns")


def covered_ns(bars: pl.DataFrame) -> int:
    """Return for how many nanoseconds at least one of the bars was under way.

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
