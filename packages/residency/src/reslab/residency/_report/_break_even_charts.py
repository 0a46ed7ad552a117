"""Charts of `break_even`: the cost of offloading by video size, and the resident blocks that make streaming free.

    streaming = break_even(rehearsals, [device("RTX 4090"), device("H100")])
    offloading(streaming)                                                # a line a card
    resident_blocks(streaming.filter(pl.col("tokens") == 6144))          # a bar a card

`offloading` draws time streamed ÷ time resident against video size. At 1 the copies hide behind compute, so streaming
every block is free; the legend names that break-even. A solid line is for operations one by one, as diffusers runs
them. A dotted line is for all operations but matrix products, convolutions and attention fused away: computing is
shorter and hides less. Most runs lie between them. A level line means that the host's time for issuing operations
decides. Both axes are logarithmic.

In `resident_blocks` the full bar is the number of blocks to keep if operations run one by one; its outline goes on to
the number if small operations are fused away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, GIB, PALETTE, Figure
from reslab.residency._predict._break_even import break_even_tokens

#: Hues of lines; grey is for marks that are not a card.
_HUES = [PALETTE[hue] for hue in ("green", "blue", "sky", "purple", "orange", "vermilion", "yellow")]
_READINGS = {"ratio": "one by one", "fused_ratio": "fused"}
_WIDTH_PX, _HEIGHT_PX = 520, 300


def offloading(streaming: pl.DataFrame) -> Figure:
    """Draw the cost of streaming all blocks of a component.

    Args:
        streaming: The frame that `break_even` returns, for up to seven devices.

    Returns:
        Two lines a device, one for each reading of its compute, and a point where each reaches 1.

    Raises:
        ValueError: There are more devices than hues.
    """
    import altair as alt  # takes two seconds

    devices = streaming["device"].unique(maintain_order=True).to_list()
    if len(devices) > len(_HUES):
        raise ValueError(f"{len(devices)} devices cannot be told apart by colour; draw {len(_HUES)} at most")
    free = {name: dict(break_even_tokens(streaming, ratio=name).rows()) for name in _READINGS}
    labels = {device: f"{device}: {_from(device, free)}" for device in devices}
    tokens = sorted(streaming["tokens"].unique())
    color = alt.Color(
        "device:N",
        title="free from … to … video tokens on",
        scale=alt.Scale(domain=list(labels.values()), range=_HUES[: len(devices)]),
        legend=alt.Legend(
            orient="bottom", columns=2, labelLimit=400, symbolType="stroke", symbolStrokeWidth=3, titleLimit=400
        ),
    )
    x = alt.X(
        "tokens:Q",
        title="video tokens in one pass",
        scale=alt.Scale(type="log", domain=[tokens[0], tokens[-1]], nice=False),
        axis=alt.Axis(values=tokens, format=",d", labelAngle=-40, labelOverlap=False, tickSize=4),
    )
    top = float(streaming["fused_ratio"].max())  # type: ignore[arg-type]
    y = alt.Y(
        "ratio:Q",
        title="time streamed ÷ time resident",
        scale=alt.Scale(type="log", domain=[1, top], nice=False),
        axis=alt.Axis(values=[1, 1.5, 2, 3, 5, 10, 20, 50], labelExpr="'×' + datum.label"),
    )
    dash = alt.StrokeDash(
        "reading:N", scale=alt.Scale(domain=list(_READINGS.values()), range=[[1, 0], [2, 3]]), legend=None
    )
    tooltip = ["device:N", "reading:N", "tokens:Q", "ratio:Q"]
    lines = alt.Chart(alt.Data(values=_lines(streaming, labels, free))).mark_line(strokeWidth=2)
    ends = alt.Chart(alt.Data(values=_ends(labels, free))).mark_point(size=45, filled=True, opacity=1)
    layers = [chart.encode(x=x, y=y, color=color, tooltip=tooltip) for chart in (lines, ends)]
    chart = alt.layer(layers[0].encode(strokeDash=dash), layers[1]).properties(width=_WIDTH_PX, height=_HEIGHT_PX)
    return Figure.from_altair(chart, caption=_offloading_caption(streaming))


Free = Mapping[str, Mapping[str, int | None]]


def _lines(streaming: pl.DataFrame, labels: Mapping[str, str], free: Free) -> list[dict[str, Any]]:
    """Return the points of all lines; each line ends where it reaches 1."""
    rows = [
        {"device": labels[row["device"]], "reading": _READINGS[name], "tokens": row["tokens"], "ratio": row[name]}
        for row in streaming.unique(["device", "tokens"], keep="first", maintain_order=True).rows(named=True)
        for name in _READINGS
        if row[name] > 1
    ]
    return [{**row, "ratio": round(row["ratio"], 4)} for row in rows] + _ends(labels, free)


def _ends(labels: Mapping[str, str], free: Free) -> list[dict[str, Any]]:
    return [
        {"device": label, "reading": reading, "tokens": free[name][device], "ratio": 1}
        for device, label in labels.items()
        for name, reading in _READINGS.items()
        if free[name][device] is not None
    ]


def _from(device: str, free: Free) -> str:
    single, fused = (free[name][device] for name in _READINGS)
    if single is None:
        return "at none of these"
    return f"{_round(single)} to {_round(fused)}" if fused is not None else f"{_round(single)} at the earliest"


def _round(tokens: int) -> str:
    return f"{round(tokens, -2):,}"


def _offloading_caption(streaming: pl.DataFrame) -> str:
    fewest = int(streaming["tokens"].min())  # type: ignore[arg-type]
    small = streaming.filter(pl.col("tokens") == fewest).unique("device", keep="first", maintain_order=True)
    costs = ", ".join(f"{_times(row)} on the {row['device']}" for row in small.rows(named=True))
    level = (streaming["compute_ns"] == streaming["fused_ns"]).any()
    return (
        "The cost of streaming every block against keeping all of them, with the host's time for issuing operations "
        f"and the LoRA's weights. The larger the video, the lower the cost: at {fewest:,} tokens {costs}. "
        "Solid: operations one by one. Dotted: all small operations fused away."
        f"{' Where a line is level, the host decides.' if level else ''} Bounds by roofline, not predictions."
    )


def _times(row: Mapping[str, Any]) -> str:
    one, other = f"×{row['ratio']:.0f}", f"×{row['fused_ratio']:.0f}"
    return one if one == other else f"{one} to {other}"


def resident_blocks(streaming: pl.DataFrame) -> Figure:
    """Draw the number of resident blocks that make streaming the others free, for each card.

    Args:
        streaming: Rows of `break_even` for one number of tokens.

    Raises:
        ValueError: The rows are of several sizes.
    """
    import altair as alt  # takes two seconds

    sizes = streaming["tokens"].unique().to_list()
    if len(sizes) != 1:
        raise ValueError(f"a bar is for one size, but these rows have {sizes} tokens; filter them by tokens")
    rows = [_bar(row) for row in streaming.unique("device", keep="first", maintain_order=True).rows(named=True)]
    blocks = int(streaming["blocks"][0])
    scale = alt.Scale(domain=[0, blocks], nice=False)
    x = alt.X("least:Q", scale=scale, axis=None)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("device:N", sort=None, title=None, axis=BARE_AXIS), tooltip=["device:N", "text:N"]
    )
    hue = PALETTE["blue"]
    room = base.mark_bar(height=1, color=PALETTE["grey"]).encode(
        x=alt.X("most:Q", scale=scale, axis=None), x2="blocks:Q"
    )
    least = base.mark_bar(height=14, color=hue).encode(x=x)
    most = base.mark_bar(height=13, fillOpacity=0, stroke=hue, strokeWidth=1).encode(x=x, x2="most:Q")
    labels = base.mark_text(align="left", dx=8).encode(x=alt.X("blocks:Q", scale=scale, axis=None), text="text:N")
    chart = alt.layer(room, least, most, labels).properties(width=360, height=alt.Step(24))
    return Figure.from_altair(chart, caption=_kept_caption(sizes[0], blocks))


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    least, most, each = row["keep"], row["fused_keep"], row["copy_ns"] and row["keep_bytes"] / max(row["keep"], 1)
    counts = f"{least} to {most}" if least != most else f"{least}"
    size = f", {least * each / GIB:.1f} GiB or more" if least else ""
    return {
        "device": row["device"],
        "least": least,
        "most": most,
        "blocks": row["blocks"],
        "text": f"{counts} of {row['blocks']} blocks{size}" if most else "none: streaming is free",
    }


def _kept_caption(tokens: int, blocks: int) -> str:
    return (
        f"The number of the {blocks} blocks to keep on the card so that streaming the others is free in a pass of "
        f"{tokens:,} tokens. Full bars: operations one by one. Outlines: all small operations fused away. Bounds, not "
        "predictions."
    )
