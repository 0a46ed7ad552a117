"""The charts of a profile: functions from a view to a `Figure`.

    stage_bars(stages(profile.spans)).save("stages.svg")

Bars stand in the order of running and carry their own labels, so there is nothing to look up: no axis, no grid, no
legend. One hue for stages, another for a stage that failed, grey for the time that no stage accounts for. Where a
device was timed, a bar is as long as the device took, and the host's time stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from reslab.profiler._tables import UNATTRIBUTED
from reslab.profiler._units import format_ns, format_share
from reslab.profiler._vega import BARE_AXIS, PALETTE, Figure

Row = dict[str, Any]


def stage_bars(stages: pl.DataFrame) -> Figure:
    """Draw where the time of the runs went.

    Args:
        stages: What `Profile.stages` returns.

    Returns:
        A bar a stage in the order of running, labelled with its time and its share; its length is its time.
    """
    import altair as alt  # takes two seconds

    runs = dict(stages.filter(pl.col("stage") == UNATTRIBUTED).select("pipeline", "calls").iter_rows())
    stages = with_device_share(stages)
    rows = [_bar(row, runs) for row in stages.rows(named=True)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", sort=[row["label"] for row in rows], title=None, axis=BARE_AXIS),
        x=alt.X("ms:Q", axis=None),
    )
    bars = base.mark_bar(height=14, cornerRadiusEnd=2).encode(
        color=alt.Color("color:N", scale=None),
        tooltip=["label:N", "registered:N", "calls:Q", "time:N", "share:N"],
    )
    labels = base.mark_text(align="left", dx=5).encode(text="text:N")
    chart = alt.layer(bars, labels).properties(width=420, height=alt.Step(22))
    return Figure.from_altair(chart, caption=_caption(stages))


def with_device_share(stages: pl.DataFrame) -> pl.DataFrame:
    """Return the stages with a column `device_share`: of the pipeline's runs; null where no device was timed."""
    return stages.with_columns(device_share=pl.col("device_ms") / pl.col("host_ms").sum().over("pipeline"))


def _bar(row: Row, runs: Mapping[str, int]) -> Row:
    ms = row["host_ms"] if row["device_ms"] is None else row["device_ms"]
    time, share = (
        format_ns(ms * 1e6),
        format_share(row["share"] if row["device_share"] is None else row["device_share"]),
    )
    beside = [] if row["device_ms"] is None else [f"{format_ns(row['host_ms'] * 1e6)} on the host"]
    return {
        "label": f"{row['pipeline']}: {row['stage']}" if len(runs) > 1 else row["stage"],
        "registered": ", ".join(row["registered_names"]),
        "calls": row["calls"],
        "ms": round(ms, 6),
        "time": time,
        "share": share,
        "text": " · ".join([time, share, *beside, *_remarks(row, runs[row["pipeline"]])]),
        "color": bar_color(row),
    }


def _remarks(row: Row, runs: int) -> Iterator[str]:
    """Yield what the reader would not expect of a stage: another name below it, more calls than runs, an error."""
    if len(row["registered_names"]) > 1:
        yield f"{len(row['registered_names'])} stages under one name"
    if row["calls"] != runs:
        yield f"{row['calls']} calls"
    if row["errors"]:
        yield f"{row['errors']} failed"


def bar_color(row: Row) -> str:
    """Return the colour of a row of `Profile.stages`: grey for what no stage accounts for, vermilion for an error."""
    if row["stage"] == UNATTRIBUTED:
        return PALETTE["grey"]
    return PALETTE["vermilion" if row["errors"] else "blue"]


def _caption(stages: pl.DataFrame) -> str:
    """Say in one sentence what the bars show: the longest stage, and what no stage accounts for."""
    if stages.is_empty():
        return "No run was recorded."
    pipeline = stages["pipeline"][0]
    own = stages.filter(pl.col("pipeline") == pipeline)
    on_device = own["device_ms"].count() > 0
    by = "device_share" if on_device else "share"
    outside, inside = own.row(-1, named=True), own[:-1].sort(by, descending=True, nulls_last=True, maintain_order=True)
    total = format_ns(float(own["host_ms"].sum()) * 1e6)
    runs = f"{total} in {outside['calls']} runs of" if outside["calls"] > 1 else f"{total} of"
    longest = f"{inside['stage'][0]} took {format_share(inside[by][0])}" if inside.height else "Stages took 0 %"
    rest = format_share(outside["share"]).replace("<", "under ")
    where, whose = (" on the device", " of the host's time") if on_device else ("", "")
    return f"{longest} of the {runs} {pipeline!r}{where}; {rest}{whose} was spent outside any stage."
