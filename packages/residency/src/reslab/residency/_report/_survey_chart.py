"""Card × size at a glance: what fits, how, and in what time: at least, and if nothing overlaps.

survey_chart(survey(rehearsals, cards).frame)
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import PALETTE, Figure
from reslab.residency._plan._presets import TILED
from reslab.residency._report._survey import Survey

_HUES = {
    "everything resident": "green",
    "swapped stage by stage": "blue",
    "blocks stream from host memory": "orange",
    "blocks stream from disk": "purple",
    "does not fit": "vermilion",
}
_PLANS = {
    "all resident": "everything resident",
    "swap": "swapped stage by stage",
    "streaming": "blocks stream from host memory",
    "streaming, others from disk": "blocks stream from host memory",
    "streaming from disk": "blocks stream from disk",
}


def survey_chart(rows: pl.DataFrame | Survey) -> Figure:
    """Draw a cell a card and size: the plan that keeps most and fits, and its bounds.

    Args:
        rows: What `survey` returns, or rows of its frame.
    """
    import altair as alt  # takes two seconds

    rows = rows.frame if isinstance(rows, Survey) else rows
    cells = [_cell(row) for row in rows.rows(named=True)]
    held = list(dict.fromkeys(cell["plan"] for cell in cells))
    domain = [plan for plan in _HUES if plan in held]
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X(
            "size:N", sort=None, title=None, axis={"orient": "top", "labelAngle": 0, "ticks": False, "domain": False}
        ),
        y=alt.Y("device:N", sort=None, title=None, axis={"ticks": False, "domain": False}),
        tooltip=["device:N", "size:N", "plan:N", "text:N", "keeps:N", "why:N"],
    )
    tiles = base.mark_rect(filled=False, strokeWidth=2, cornerRadius=3, height=34, width=106).encode(
        color=alt.Color(
            "plan:N",
            title=None,
            scale=alt.Scale(domain=domain, range=[PALETTE[_HUES[plan]] for plan in domain]),
            legend=alt.Legend(orient="bottom", symbolType="square", columns=2, labelLimit=300),
        )
    )
    times = base.mark_text(dy=-7).encode(text="text:N")
    kept = base.mark_text(dy=8, fontSize=10).encode(text="keeps:N")
    chart = alt.layer(tiles, times, kept).properties(width=alt.Step(112), height=alt.Step(40))
    return Figure.from_altair(chart, caption=_caption(rows))


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    plan = _PLANS[row["plan"].removesuffix(TILED)] if row["fits"] else "does not fit"
    stays = f"{row['keep']} blocks stay" if row["keep"] is not None else f"{row['peak_gib']:.0f} GiB at the peak"
    return {
        "device": row["device"],
        "size": row["size"],
        "plan": plan,
        "text": _range(row["floor_s"], row["ceiling_s"]) if row["fits"] else "–",
        "keeps": (stays + ", in tiles" * row["plan"].endswith(TILED)) if row["fits"] else "does not fit",
        "why": f"{row['why']} {row['hint']}".rstrip(),
    }


def _range(floor_s: float | None, ceiling_s: float | None) -> str:
    if floor_s is None or ceiling_s is None:
        return "no times known"
    least, most = (f"{seconds:,.0f}" for seconds in (floor_s, ceiling_s))
    return f"{least} s" if least == most else f"{least} to {most} s"


def _caption(rows: pl.DataFrame) -> str:
    fits, count = int(rows["fits"].sum()), rows.height
    return (
        f"{fits} of {count} combinations of card and size fit. In each cell the seconds for one video, at least and if "
        "nothing overlaps, with the plan that keeps most on the card: bounds by roofline, not predictions."
    )
