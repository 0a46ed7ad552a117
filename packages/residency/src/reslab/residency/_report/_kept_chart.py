"""How many blocks to keep so that streaming the others is free: a bar a card.

    kept_chart(break_even(rehearsals, cards).filter(pl.col("tokens") == 6144))

The full bar is what has to stay if operations run one by one; its outline goes on to what is enough if all but matrix
products, convolutions and attention is fused away.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, GIB, PALETTE, Figure


def kept_chart(streaming: pl.DataFrame) -> Figure:
    """Draw how many blocks have to stay on each card.

    Args:
        streaming: Rows of `break_even` at one number of tokens.

    Raises:
        ValueError: The rows are of several sizes.
    """
    import altair as alt  # takes two seconds

    sizes = streaming["tokens"].unique().to_list()
    if len(sizes) != 1:
        raise ValueError(f"a bar is about one size, and these rows have {sizes} tokens; filter them by tokens")
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
    return Figure.from_altair(chart, caption=_caption(sizes[0], blocks))


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


def _caption(tokens: int, blocks: int) -> str:
    return (
        f"Of the {blocks} blocks, as many have to stay on the card for streaming the others to cost nothing in a pass "
        f"of {tokens:,} tokens. Full bars: operations one by one; outlines: all small ones fused away. Bounds, not "
        "predictions."
    )
