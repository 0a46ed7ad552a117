"""Device modes on cards from the catalogue: what each mode needs, and on which cards the resident mode fits.

    mode_bounds(rehearsal, residency.device("H100"))        # a row for each mode: bytes moved and held, and the time
    cases = {"H200": (residency.device("H200"), {}), "a slice": (residency.device("H200", memory="71 GiB"), {})}
    fits = resident_fits("LTX-2.3", rehearsal, cases)
    fits_chart(fits)

`fits_resident` decides by bytes; beside it stands the reference, which decides by a card's name and round numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from reslab.ltx2._modes._device_modes import device_mode, fits_resident
from reslab.ltx2._modes._reference import reference_decision
from reslab.profiler import BARE_AXIS, GIB, PALETTE, Figure
from reslab.residency import DeviceSpec, Rehearsal, bounds

FITS: Mapping[str, Any] = {
    "case": pl.String,
    "free_bytes": pl.Int64,
    "needed_bytes": pl.Int64,  # needed by the resident mode, the allocator's slack included
    "fits": pl.Boolean,
    "auto": pl.String,  # the mode that auto chooses
    "reference": pl.String,  # the mode that the reference chooses
    "reference_fits": pl.Boolean,
}
BOUNDS: Mapping[str, Any] = {
    "mode": pl.String,
    "transformer": pl.String,  # its placement
    "moved_gib": pl.Float64,  # to the device, for one video
    "peak_gib": pl.Float64,  # on the device, activations included
    "host_gib": pl.Float64,  # host memory for weights that wait there
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
    """Return, for each mode, what it needs of a card and the bounds of a video's time.

    Args:
        rehearsal: The rehearsal of the run.
        card: The device.
        modes: Values of `DeviceMode`.
        settings: The user's settings, as for `device_mode`.

    Returns:
        A row for each mode, with the columns of `BOUNDS`. The floor is the least time that a video can take, the
        ceiling its time if nothing overlaps.
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
    """Return, for each case, whether the resident mode fits and which mode auto and the reference choose.

    Args:
        variant: The model's name, for the reference's rules.
        rehearsal: The rehearsal of the run.
        cases: A device and the user's settings for it, by label.

    Returns:
        A row for each case, with the columns of `FITS`.
    """
    rows = [_row(label, variant, rehearsal, *case) for label, case in cases.items()]
    return pl.DataFrame(rows, schema=dict(FITS), orient="row")


def _row(
    label: str, variant: str, rehearsal: Rehearsal, card: DeviceSpec, settings: Mapping[str, Any]
) -> tuple[Any, ...]:
    fit = fits_resident(rehearsal, card, settings=settings)
    auto = device_mode("auto", rehearsal, device=card, settings=settings).name.removeprefix("auto: ")
    theirs = reference_decision(variant, card, explicit=[*settings])
    plan = theirs.plan(rehearsal).decide(settings, why="the user placed it")
    memory = bounds(rehearsal, plan, card).memory
    return (label, fit.free_bytes, fit.needed_bytes, fit.fits, auto, theirs.mode, memory.fits_device)


def fits_chart(fits: pl.DataFrame) -> Figure:
    """Draw the memory that the resident mode needs as a bar for each case, and the free memory as a mark.

    Args:
        fits: The frame that `resident_fits` returns.
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
