"""Runs of device modes as an HTML table and as one chart: device memory held against time."""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import PALETTE, Figure
from reslab.stages.support import html_table

_HUES = {"original": "blue", "snapshot": "orange", "resident": "green"}
_HEAD = ("mode", "transformer", "link", "moved for a video", "stays", "peak on the device", "host", "time", "waiting")
_WORD, _NUMBER = "text-align:left;padding:2px 10px", "text-align:right;padding:2px 10px"
_WORDS = 3  # columns of words, before those of numbers
_MIB = 2**20


def modes_html(runs: pl.DataFrame) -> str:
    """Return runs as an HTML table, in MiB, GB/s and seconds.

    Args:
        runs: A frame with the columns of `RUNS`.
    """
    styles = [_WORD] * _WORDS + [_NUMBER] * (len(_HEAD) - _WORDS)
    return html_table(_HEAD, map(_row, runs.rows(named=True)), styles=styles)


def _row(run: dict[str, Any]) -> list[str]:
    sizes = ("moved_bytes", "stays_bytes", "peak_bytes", "host_bytes")
    numbers = [*(mib(run[name]) for name in sizes), *(_seconds(run[name]) for name in ("run_ns", "stalled_ns"))]
    return [run["mode"], run["transformer"], link_text(run["link_bytes_per_s"]), *numbers]


def modes_chart(runs: pl.DataFrame, *, free_bytes: int | None = None) -> Figure:
    """Draw each run as a point: its peak of weights on the device against its time.

    Args:
        runs: A frame with the columns of `RUNS`.
        free_bytes: The device's free memory, drawn as a line.
    """
    import altair as alt  # takes two seconds

    points = [_point(place, run) for place, run in enumerate(runs.rows(named=True), start=1)]
    most = max([point["mib"] for point in points] + ([free_bytes / _MIB] if free_bytes is not None else []))
    x = alt.X("mib:Q", title="weights on the device at most, MiB", scale=alt.Scale(domain=[0, 1.25 * most]))
    y = alt.Y("s:Q", title="seconds for a video", scale=alt.Scale(zero=True))
    hues = {mode: PALETTE[hue] for mode, hue in _HUES.items()}
    color = alt.Color("kind:N", scale=alt.Scale(domain=list(hues), range=list(hues.values())), legend=None)
    base = alt.Chart(alt.Data(values=points)).encode(x=x, y=y)
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(color=color, tooltip=["label:N", "details:N"])
    texts = base.mark_text(align="left", dx=9).encode(text="label:N")
    layers = [dots, texts]
    if free_bytes is not None:
        limit = alt.Chart(alt.Data(values=[{"mib": round(free_bytes / _MIB), "text": "the device's memory"}]))
        layers += [limit.mark_rule(strokeDash=[4, 4]).encode(x=x)]
        layers += [limit.mark_text(align="right", dx=-5).encode(x=x, y=alt.value(8), text="text:N")]
    chart = alt.layer(*layers).properties(width=440, height=220)
    return Figure.from_altair(chart, caption=_caption(points))


def _point(place: int, run: dict[str, Any]) -> dict[str, Any]:
    details = f"{run['transformer']}, {link_text(run['link_bytes_per_s'])}, {mib(run['moved_bytes'])} moved"
    return {
        "label": f"{place} {run['mode']}",
        "kind": run["mode"].removeprefix("auto: "),
        "mib": round(run["peak_bytes"] / _MIB, 1),
        "s": round(run["run_ns"] / 1e9, 3),
        "details": details,
    }


def _caption(points: list[dict[str, Any]]) -> str:
    said = (f"{point['label'][2:].strip()} {point['mib']:.0f} MiB and {point['s']:.2f} s" for point in points)
    return f"What each mode holds of the device, and what a video takes with it, measured here: {'; '.join(said)}."


def mib(nbytes: int) -> str:
    """Return a size in MiB.

    >>> mib(311_500_000), mib(0)
    ('297.1 MiB', '0')
    """
    return f"{nbytes / _MIB:,.1f} MiB" if nbytes else "0"


def link_text(bytes_per_s: float | None) -> str:
    """Return the bandwidth to which copies were limited.

    >>> link_text(554_448_833), link_text(None)
    ('0.554 GB/s', 'as fast as memory')
    """
    return "as fast as memory" if bytes_per_s is None else f"{bytes_per_s / 1e9:.3g} GB/s"


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.2f} s"
