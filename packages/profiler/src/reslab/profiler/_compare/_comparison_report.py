"""A comparison as a table and as a chart, the largest difference on top.

    comparison_html(comparison.stages, comparison.runs, labels=comparison.labels, remarks=comparison.remarks)
    difference_bars(comparison.stages, comparison.runs, labels=("a", "b"), time="host_ns").save("regression.pdf")

A bar is as long as the difference and points to its side: right is slower. The thin line across its end is the noise
band. Only a difference that exceeds the noise has a colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from typing import Any

import polars as pl

from reslab.profiler._model._schema import Change, ComparedTime
from reslab.profiler._report._figure import BARE_AXIS, PALETTE, Figure
from reslab.profiler._units import format_ns, format_share
from reslab.stages.support import Markup, html_table

Row = dict[str, Any]

WHOLE = "whole run"

_COLORS = {Change.SLOWER: "vermilion", Change.FASTER: "green", Change.NEW: "sky", Change.GONE: "sky"}


def comparison_html(
    stages: pl.DataFrame, runs: pl.DataFrame, *, labels: tuple[str, str], remarks: Sequence[str]
) -> str:
    """Return the table of stages, then whole runs, then the remarks; the arguments are the fields of a `Comparison`."""
    head = ("stage", *labels, "difference", "", "noise band", "")
    body = html_table(head, map(_cells, _rows(stages, runs)))
    listed = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return body + (f"<ul>{listed}</ul>" if listed else "")


def difference_bars(stages: pl.DataFrame, runs: pl.DataFrame, *, labels: tuple[str, str], time: str) -> Figure:
    """Draw a bar a stage as long as its difference, with its noise band; the arguments are fields of a `Comparison`."""
    import altair as alt  # takes two seconds

    rows = [_bar(row) for row in _rows(stages, runs)]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("label:N", sort=None, title=None, axis=BARE_AXIS))
    x = partial(alt.X, axis=None, scale=alt.Scale(padding=24))
    color, tips = alt.Color("color:N", scale=None), ["label:N", "change:N", "meaning:N", "times:N", "band:N"]
    bars = base.mark_bar(height=14).encode(x=x("difference_ms:Q"), color=color, tooltip=tips)
    bands = base.mark_rule(size=1.5).encode(x=x("low_ms:Q"), x2="high_ms:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(size=0.5).encode(x=x("zero:Q"))
    words = base.mark_text(align="left", dx=6).encode(x=x("text_ms:Q"), text="text:N")
    chart = alt.layer(zero, bars, bands, words).properties(width=420, height=alt.Step(22))
    return Figure.from_altair(chart, caption=_caption(stages, runs, labels, time))


def _rows(stages: pl.DataFrame, runs: pl.DataFrame) -> Iterator[Row]:
    several = runs.height > 1
    for frame in (stages, runs):
        for row in frame.iter_rows(named=True):
            name = row["stage"] or WHOLE
            yield {**row, "label": f"{row['pipeline']}: {name}" if several else name}


def _cells(row: Row) -> Iterator[str]:
    strong = row["stage"] is None
    texts = (row["label"], _time(row["a_ms"]), _time(row["b_ms"]), _signed(row["difference_ms"]), _relative(row))
    for text in (*texts, _band(row)):
        yield Markup(f"<b>{escape(text)}</b>") if strong else text
    change = Change[row["change"].upper()]
    color = PALETTE[_COLORS.get(change, "grey")]
    yield Markup(f'<b style="color:{color}" title="{escape(change.doc)}">{change}</b>')


def _bar(row: Row) -> Row:
    difference, change = row["difference_ms"], Change[row["change"].upper()]
    band = {"low_ms": round(row["low_ms"], 6), "high_ms": round(row["high_ms"], 6)} if row["coverage"] else {}
    facts = [f"{_time(row['a_ms'])} → {_time(row['b_ms'])}", _relative(row), change.value]
    return {
        "label": row["label"],
        "difference_ms": round(difference, 6),
        **band,
        "text_ms": round(max(difference, row["high_ms"] or 0, 0), 6),
        "text": " · ".join(filter(None, facts)),
        "times": facts[0],
        "band": _band(row),
        "change": change.value,
        "meaning": change.doc,
        "color": PALETTE[_COLORS.get(change, "grey")],
    }


def _time(ms: float | None) -> str:
    return "—" if ms is None else format_ns(ms * 1e6)


def _signed(ms: float) -> str:
    return f"{_sign(ms)}{format_ns(abs(ms) * 1e6)}"


def _sign(value: float) -> str:
    return "+" if value > 0 else "−" if value < 0 else ""


def _relative(row: Row) -> str:
    share = row["relative"]
    if share is None:
        return ""
    return f"{_sign(share) if abs(share) >= 0.01 else ''}{format_share(abs(share))}"


def _band(row: Row) -> str:
    """Write the noise band, with its coverage where too few repeats leave that below the confidence."""
    if not row["coverage"]:
        return ""
    sure = f" (in {format_share(row['coverage'])} of cases)" if row["change"] == Change.UNSURE else ""
    return f"{_signed(row['low_ms'])} to {_signed(row['high_ms'])}{sure}"


def _caption(stages: pl.DataFrame, runs: pl.DataFrame, labels: tuple[str, str], time: str) -> str:
    """Return one sentence: the change of the whole run, and the stage that changed most."""
    first, second = labels
    run = runs.row(0, named=True)
    whole = f"{_time(run['a_ms'])} in {first}, {_time(run['b_ms'])} in {second}"
    changed = [row for row in stages.rows(named=True) if row["change"] not in (Change.SAME, Change.UNSURE)]
    if changed:
        worst = f"most of it in {changed[0]['stage']} ({_signed(changed[0]['difference_ms'])})"
    elif Change.UNSURE.value in stages["change"]:
        worst = "with too few repeats to tell a difference from noise"
    else:
        worst = "no stage differs beyond noise and the tolerance"
    lane = " on the device" if time == ComparedTime.DEVICE else ""
    return f"A run took {whole}{lane}; {worst}."
