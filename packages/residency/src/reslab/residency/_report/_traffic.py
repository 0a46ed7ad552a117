"""The bytes that recipes move over the link for one video, by component, with the LoRA as a row of its own.

    frame = moved_bytes(rehearsal, {"ours": (preset("swap", work), work)})
    charts.moved(frame)

Bytes do not depend on the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from reslab.profiler import BARE_AXIS, GIB, PALETTE, Figure
from reslab.residency._plan._numerics import MERGED
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._predict._rehearsed import workload
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._schedule._footprint import footprint

MOVED: Mapping[str, Any] = {
    "recipe": pl.String,
    "direction": pl.String,  # "in": to the device, "out": from it
    "component": pl.String,
    "bytes": pl.Int64,
}
LORA = "distilled LoRA"
REST = "all others"
#: Components with a bar segment of their own, in the hues of every chart of a run.
_HUES = {"transformer": "blue", "text_encoder": "orange", "connectors": "yellow", REST: "grey"}


def moved_bytes(rehearsal: Rehearsal, recipes: Mapping[str, tuple[Plan, Workload]]) -> pl.DataFrame:
    """Return the bytes that each recipe copies to the device and back for one run.

    Args:
        rehearsal: The rehearsed run; its sizes without the LoRA give the LoRA's share.
        recipes: By label, a plan and its workload.

    Returns:
        A row a recipe, direction and component: the columns of `MOVED`.
    """
    bare = workload(rehearsal, Plan.of({"lora": "merged"}))
    rows = [
        (label, direction, component, nbytes)
        for label, (plan, work) in recipes.items()
        for direction in ("in", "out")
        for component, nbytes in _by_component(plan, work, bare, direction)
    ]
    return pl.DataFrame(rows, schema=dict(MOVED), orient="row")


def _by_component(plan: Plan, work: Workload, bare: Workload, direction: str) -> Iterator[tuple[str, int]]:
    """Yield the bytes that each component moves without the LoRA, then those of the LoRA."""
    plain = replace(work, components={name: bare.components[name] for name in work.components})
    moved, with_lora = _sums(plan, plain, direction), sum(_sums(plan, work, direction).values())
    yield from moved.items()
    yield LORA, with_lora - sum(moved.values())


def _sums(plan: Plan, work: Workload, direction: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in footprint(plan, work):
        name = row.component.removesuffix(MERGED)
        sums[name] = sums.get(name, 0) + (row.fetched_bytes if direction == "in" else row.copied_back_bytes)
    return sums


def moved(frame: pl.DataFrame) -> Figure:
    """Draw the bytes that each recipe moves, without the LoRA, since not every recipe has one.

    Args:
        frame: The frame that `moved_bytes` returns.
    """
    import altair as alt  # takes two seconds

    part = pl.when(pl.col("component").is_in(list(_HUES))).then("component").otherwise(pl.lit(REST))
    label = pl.format("{}, {}", "recipe", "direction")
    bars = (
        frame.filter(pl.col("component") != LORA)
        .group_by(label=label, part=part, maintain_order=True)
        .agg(gib=pl.col("bytes").sum() / GIB)
    )
    total = bars.group_by("label", maintain_order=True).agg(pl.col("gib").sum())
    order = total["label"].to_list()
    y = alt.Y("label:N", sort=order, title=None, axis=BARE_AXIS)
    drawn = alt.Chart(alt.Data(values=[_rounded(row, place) for place, row in enumerate(bars.rows(named=True))]))
    stacks = drawn.mark_bar(height=18).encode(
        y=y,
        x=alt.X("gib:Q", axis=None, stack="zero"),
        color=alt.Color(
            "part:N",
            title=None,
            scale=alt.Scale(domain=list(_HUES), range=[PALETTE[hue] for hue in _HUES.values()]),
            legend=alt.Legend(orient="top"),
        ),
        order="place:Q",
        tooltip=["label:N", "part:N", "gib:Q"],
    )
    texts = [{"label": name, "gib": gib, "text": f"{gib:.1f} GiB"} for name, gib in total.rows()]
    sums = alt.Chart(alt.Data(values=texts)).mark_text(align="left", dx=5).encode(y=y, x="gib:Q", text="text:N")
    chart = alt.layer(stacks, sums).properties(width=380, height=alt.Step(28))
    return Figure.from_altair(chart, caption=_caption(frame))


def _rounded(row: dict[str, Any], place: int) -> dict[str, Any]:
    return {**row, "gib": round(row["gib"], 3), "place": place}


def _caption(moved: pl.DataFrame) -> str:
    sums = moved.filter(pl.col("component") != LORA).group_by("recipe", "direction", maintain_order=True)
    gib = {(recipe, to): nbytes / GIB for recipe, to, nbytes in sums.agg(pl.col("bytes").sum()).rows()}
    said = (
        f"{recipe}: {gib[recipe, 'in']:.1f} GiB in, {gib[recipe, 'out']:.1f} out"
        for recipe in moved["recipe"].unique(maintain_order=True)
    )
    return f"Weights copied for one video, without the LoRA. {'; '.join(said)}."
