"""Device modes on cards that are not here: what each needs of one, and on which of them the resident mode fits.

    mode_bounds(rehearsal, residency.device("H100"))        # a row a mode: moved, held, and how long it takes
    cases = {"H200": (residency.device("H200"), {}), "a slice": (residency.device("H200", memory="71 GiB"), {})}
    fits = resident_fits("LTX-2.3", rehearsal, cases)
    fits_chart(fits)

One predicate decides here, by bytes; the reference asks a name and round numbers, and is shown beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from reslab.ltx2._modes._modes import device_mode, fits_resident
from reslab.ltx2._modes._reference import reference_decision
from reslab.profiler import BARE_AXIS, GIB, PALETTE, Figure
from reslab.residency import DeviceSpec, Rehearsal, bounds

FITS: Mapping[str, Any] = {
    "case": pl.String,
    "free_bytes": pl.Int64,
    "needed_bytes": pl.Int64,  # by the resident mode, slack of the allocator included
    "fits": pl.Boolean,
    "auto": pl.String,  # what auto decides
    "reference": pl.String,  # what the reference decides
    "reference_fits": pl.Boolean,
}
BOUNDS: Mapping[str, Any] = {
    "mode": pl.String,
    "transformer": pl.String,  # its placement
    "moved_gib": pl.Float64,  # to the device, for one video
    "peak_gib": pl.Float64,  # on the device, activations included
    "host_gib": pl.Float64,  # of host memory, for what waits there
    "floor_s": pl.Float64,
    "ceiling_s": pl.Float64,
    "fits": pl.Boolean,
}


def mode_bounds(
    rehearsal: Rehearsal,
    card: DeviceSpec,
    *,
    modes: Iterable[str] = ("original", "snapshot", "resident"),
    settings: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Return a row a mode: what it needs of a card, and what a video takes at least, and if nothing overlaps.

    Args:
        rehearsal: Of the run.
        card: The device.
        modes: Keys of `MODES`.
        settings: What a person set, as for `device_mode`.

    Returns:
        The columns of `BOUNDS`.
    """
    rows = []
    for mode in modes:
        plan = device_mode(mode, rehearsal, device=card, settings=settings)
        limits = bounds(rehearsal, plan, card)
        host = limits.memory.pinned_bytes + limits.memory.pageable_bytes
        sizes = (limits.moved_bytes / GIB, limits.memory.peak_bytes / GIB, host / GIB)
        times = (limits.floor_ns / 1e9, limits.ceiling_ns / 1e9)
        rows.append((plan.name, repr(plan.placement("transformer")), *sizes, *times, limits.fits))
    return pl.DataFrame(rows, schema=dict(BOUNDS), orient="row")


def resident_fits(
    variant: str, rehearsal: Rehearsal, cases: Mapping[str, tuple[DeviceSpec, Mapping[str, Any]]]
) -> pl.DataFrame:
    """Return a row a case: what the resident mode needs there, whether it fits, what auto and the reference decide.

    Args:
        variant: The model's name, for the reference's rules.
        rehearsal: Of the run.
        cases: By label, a device and what a person set.

    Returns:
        The columns of `FITS`.
    """
    rows = [_row(label, variant, rehearsal, *case) for label, case in cases.items()]
    return pl.DataFrame(rows, schema=dict(FITS), orient="row")


def _row(
    label: str, variant: str, rehearsal: Rehearsal, card: DeviceSpec, settings: Mapping[str, Any]
) -> tuple[Any, ...]:
    fit = fits_resident(rehearsal, card, settings=settings)
    auto = device_mode("auto", rehearsal, device=card, settings=settings).name.removeprefix("auto: ")
    theirs = reference_decision(variant, card, explicit=[*settings])
    plan = theirs.plan(rehearsal).decide(settings, why="a person placed it")
    memory = bounds(rehearsal, plan, card).memory
    return (label, fit.free_bytes, fit.needed_bytes, fit.fits, auto, theirs.mode, memory.fits_device)


def fits_chart(fits: pl.DataFrame) -> Figure:
    """Draw a bar a case, as long as what the resident mode needs, and a mark at what is free.

    Args:
        fits: What `resident_fits` returns.
    """
    import altair as alt  # takes two seconds

    rows = [_bar(row) for row in fits.rows(named=True)]
    most = max(max(row["needed"], row["free"]) for row in rows)
    y = alt.Y("case:N", sort=[row["case"] for row in rows], title=None, axis=BARE_AXIS)
    x = alt.X("needed:Q", title="GiB that two transformers and all else need; the mark is what is free")
    base = alt.Chart(alt.Data(values=rows)).encode(y=y)
    bars = base.mark_bar(height=16).encode(
        x=x.scale(domain=[0, most]), color=alt.Color("hue:N", scale=None), tooltip=["case:N", "needed:Q", "free:Q"]
    )
    marks = base.mark_tick(thickness=3, height=24, color=PALETTE["grey"]).encode(x="free:Q")
    texts = base.mark_text(align="left").encode(x=alt.value(410), text="text:N")
    chart = alt.layer(bars, marks, texts).properties(width=400, height=alt.Step(32))
    return Figure.from_altair(chart, caption=_caption(fits))


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    theirs = row["reference"] + ("" if row["reference_fits"] else ", which does not fit")
    return {
        "case": row["case"],
        "needed": round(row["needed_bytes"] / GIB, 1),
        "free": round(row["free_bytes"] / GIB, 1),
        "hue": PALETTE["green" if row["fits"] else "vermilion"],
        "text": f"auto: {row['auto']}; the reference: {theirs}",
    }


def _caption(fits: pl.DataFrame) -> str:
    held = "; ".join(fits.filter("fits")["case"])
    return f"By bytes, the resident mode fits here: {held}. It does not fit in the {(~fits['fits']).sum()} other cases."
