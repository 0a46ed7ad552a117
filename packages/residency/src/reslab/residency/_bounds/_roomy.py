"""As many blocks on the device as it has room for: how a preset is fitted to a card.

    roomy("streaming", rehearsal, device("RTX 4090"))      # bounds of the plan that keeps most of the transformer

More blocks never make a peak lower, so the most that fit are found by bisection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reslab.residency._bounds._bounds import Bounds, bounded
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import keeps_blocks, main_component, preset_choices, preset_plan
from reslab.residency._plan._settings import Settings
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal


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
    fewest, most = 0, len(work.components[main].block_bytes)
    while fewest < most:
        middle = (fewest + most + 1) // 2
        fits = limits(middle).memory.fits_device
        fewest, most = (middle, most) if fits else (fewest, middle - 1)
    return limits(fewest)
