"""As many blocks on the device as it has room for: how a preset is fitted to a card.

roomy("streaming", rehearsal, device("RTX 4090"))      # bounds of the plan that keeps most of the transformer
most_resident(48, fits)                                # the search, for any plan
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from reslab.residency._bounds._bounds import Bounds, bounded
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import keeps_blocks, main_component, preset_choices, preset_plan
from reslab.residency._plan._settings import Settings
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal


def most_resident(blocks: int, fits: Callable[[int], bool]) -> int:
    """Return how many of a component's blocks can stay on the device: the most that fit, 0 where not even one does.

    More blocks never make a peak lower, so they are found by bisection.

    >>> most_resident(48, lambda kept: kept * 773_000_000 <= 24_000_000_000)
    31

    Args:
        blocks: How many there are.
        fits: Tells whether as many have room.
    """
    return bisect_left(range(1, blocks + 1), True, key=lambda kept: not fits(kept))


def placed(rehearsal: Rehearsal, name: str, settings: Settings | Mapping[str, Any] | None) -> Workload:
    """Return what a preset's plan is laid over: the workload with the choices that the preset makes."""
    return workload(rehearsal, Plan.of(settings).decide(preset_choices(name), why="preset"))


def roomy(
    name: str,
    rehearsal: Rehearsal,
    card: DeviceSpec,
    *,
    component: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    pool_slack_bytes: int | None = None,
) -> Bounds:
    """Return the bounds of a preset, with as many blocks of one component resident as the device has room for.

    Args:
        name: The preset; one that keeps no blocks is bounded as it is.
        rehearsal: A rehearsed run.
        card: The device.
        component: Which one keeps them; see `main_component`.
        settings: What the user set.
        pool_slack_bytes: As for `bounds`.
    """
    work = placed(rehearsal, name, settings)

    def limits(kept: int | None) -> Bounds:
        plan = preset_plan(name, work, settings, component=component, kept=kept)
        return bounded(rehearsal, plan, card, pool_slack_bytes=pool_slack_bytes)

    main = main_component(work, component)
    if main is None or not keeps_blocks(name):
        return limits(None)
    blocks = len(work.components[main].block_bytes)
    return limits(most_resident(blocks, lambda kept: limits(kept).memory.fits_device))
