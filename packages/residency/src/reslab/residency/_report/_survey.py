"""Card × size: for each the plan that keeps most and fits, what it takes, and what it moves.

    survey(rehearsals, [device("RTX 4090"), device("H100")])

Plans are tried in the order of what they keep: everything resident; components swapped for their stages; one component
streaming with as many of its blocks as fit, all others streaming too; the same with the others on disk, and at last
with itself on disk, for hosts with little memory. It is a reader's first answer, by bounds: nothing is optimised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from reslab.residency._bounds._bounds import Bounds, bounds
from reslab.residency._bounds._preset import preset
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._placement import Placement, disk, layerwise, swap
from reslab.residency._plan._plan import Plan
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._report._break_even import labelled

SURVEY: Mapping[str, Any] = {
    "device": pl.String,
    "size": pl.String,
    "plan": pl.String,  # all resident, swap, streaming, streaming, others from disk, streaming from disk
    "fits": pl.Boolean,  # False: not even the last plan fits, and the row is about that one
    "keep": pl.Int64,  # blocks of the streaming component that stay; null where it does not stream
    "floor_s": pl.Float64,  # at least: all copying hides behind compute
    "ceiling_s": pl.Float64,  # if nothing overlaps
    "resident_s": pl.Float64,  # the same run without a copy
    "peak_gib": pl.Float64,
    "moved_gib": pl.Float64,
    "host_gib": pl.Float64,
    "why": pl.String,
}
_GIB = 2**30

#: Where blocks come from, those of the other components and those of the one that keeps most, in the order of trying.
_STREAMING = {
    "streaming": (layerwise, layerwise),
    "streaming, others from disk": (disk, layerwise),
    "streaming from disk": (disk, disk),
}

Try = Callable[[Plan], Bounds]


def survey(
    rehearsals: Mapping[str, Rehearsal] | Sequence[Rehearsal],
    devices: Sequence[DeviceSpec],
    *,
    component: str = "transformer",
) -> pl.DataFrame:
    """Return for each device and size the plan that keeps most and fits: the columns of `SURVEY`.

    Args:
        rehearsals: By label; without labels, by the size they were requested with.
        devices: The cards.
        component: Which one keeps as many blocks as fit where it does not fit whole.
    """
    rows = [
        (card.name, label, *_row(roomiest(rehearsal, card, component=component), component))
        for card in devices
        for label, rehearsal in labelled(rehearsals).items()
    ]
    return pl.DataFrame(rows, schema=dict(SURVEY), orient="row")


def roomiest(rehearsal: Rehearsal, card: DeviceSpec, *, component: str = "transformer") -> Bounds:
    """Return the bounds of the plan that keeps most and fits; of the last one tried, where none does.

    Args:
        rehearsal: A rehearsed run.
        card: The device.
        component: Which one keeps as many blocks as fit where it does not fit whole.
    """

    def attempt(plan: Plan) -> Bounds:
        return bounds(rehearsal, plan, card)

    for name in ("all resident", "swap"):
        limits = attempt(preset(name, rehearsal))
        if limits.fits:
            return limits
    sizes = workload(rehearsal).components
    blocks = len(sizes[component].block_bytes) if component in sizes else 0
    for name, (others, own) in _STREAMING.items():
        rest = {each: others() if size.block_bytes else swap() for each, size in sizes.items() if each != component}
        start = Plan.of(name=name).decide(rest, why="not more than its stages need stays")
        limits = _most_kept(attempt, start, own, component, blocks)
        if limits.fits:
            break
    return limits


def _most_kept(attempt: Try, start: Plan, own: Callable[..., Placement], component: str, blocks: int) -> Bounds:
    """Return the bounds with the most resident blocks that the device has room for, by bisection."""

    def limits(kept: int) -> Bounds:
        places = {component: own(resident=kept)} if blocks else {}
        return attempt(start.decide(places, why="as many blocks stay as fit"))

    fewest, most = 0, blocks
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if limits(middle).memory.fits_device:
            fewest = middle
        else:
            most = middle - 1
    return limits(fewest)


def _row(limits: Bounds, component: str) -> tuple[Any, ...]:
    kept = limits.plan.placement(component)
    return (
        limits.plan.name,
        limits.fits,
        kept.resident if kept.streams else None,
        *(ns / 1e9 for ns in (limits.floor_ns, limits.ceiling_ns, limits.compute_ns)),
        limits.peak_bytes / _GIB,
        limits.moved_bytes / _GIB,
        (limits.memory.pinned_bytes + limits.memory.pageable_bytes) / _GIB,
        limits.why,
    )
