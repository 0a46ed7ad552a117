"""The next leaner plan: the one small step that needs less device memory and moves the fewest additional bytes.

    step_down(plan, workload)                       # less memory in the stage that needs the most
    step_down(plan, workload, stage="denoise")      # less memory in that stage, which ran out of it
    step_down(plan, workload) is None               # no step is left

A step changes one component: from resident to swap; from swap to layerwise with all but two blocks resident; to fewer
resident blocks, or one block less fetched ahead; to a swap fetched at its own stage; or to weights that leave after
each stage. No step changes a setting of the user. Repeated steps end with every block streaming through one slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reslab.residency._plan._placement import Place, Placement, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._settings import DecidedBy
from reslab.residency._plan._workload import Workload
from reslab.residency._schedule._footprint import Footprint, footprint

#: A step evicts one in this many of the resident blocks, at least one.
_SHARE = 4


def step_down(plan: Plan, workload: Workload, *, stage: str | None = None) -> Plan | None:
    """Return the next leaner plan; None if there is none.

    >>> from reslab.residency import Call, ComponentSize
    >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
    >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
    >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
    >>> step_down(Plan.of({"transformer": "layerwise"}, name="mine"), work) is None  # the user set no depth
    False

    Args:
        plan: The plan that needs too much device memory.
        workload: The calls that it has to carry out.
        stage: The stage that needs too much; by default the stage that needs the most.
    """
    before = _need(footprint(plan, workload), stage)
    steps = [(footprint(each, workload), each) for each in _steps(plan, workload)]
    needs = [(account.fetched_bytes, _need(account, stage), each) for account, each in steps]
    smaller = [step for step in needs if step[1] < before]
    return min(smaller, key=lambda step: step[:2])[2] if smaller else None


def _need(account: Footprint, stage: str | None) -> list[int]:
    """Return the bytes that have to shrink: those of one stage, or those of all stages from the highest down."""
    totals = account.device_bytes
    return [totals[stage]] if stage is not None else sorted(totals.values(), reverse=True)


def _steps(plan: Plan, workload: Workload) -> Iterator[Plan]:
    """Yield every plan that is one step away and keeps all settings of the user."""
    for name, size in workload.components.items():
        scopes = [key for key in plan.placements if key[0] == name and key[1] is not None]
        for component, stage in ((name, None), *scopes):
            scope = component if stage is None else f"{component}@{stage}"
            placement = plan.placement(component, stage)
            for settings in _less(placement, len(size.block_bytes)):
                step = {scope if field == "placement" else f"{scope}.{field}": each for field, each in settings.items()}
                if not any(plan.is_users(key) for key in step):
                    yield plan.decide(step, by=DecidedBy.RULE, why="the device ran out of memory")


def _less(placement: Placement, blocks: int) -> Iterator[dict[str, Any]]:
    """Yield the settings of each step of one component."""
    if placement.kind is Place.RESIDENT:
        yield {"placement": Place.SWAP}
    if placement.prefetch_stages:
        yield {"prefetch_stages": 0}
    if placement.kind is Place.SWAP and placement.until is not Until.EACH:
        yield {"until": Until.EACH}
    if placement.kind in (Place.RESIDENT, Place.SWAP) and blocks > 1:
        yield {"placement": Place.LAYERWISE, "resident": blocks - 2, "prefetch": 0, "until": Until.EACH}
    # there are never more slots than blocks that stream, so a larger prefetch has no effect and lowering it no gain
    slots = min(placement.slots, blocks - placement.resident)
    if placement.streams and placement.resident:
        ahead = {"prefetch": slots - 1} if 0 < slots < placement.slots else {}
        yield {"resident": placement.resident - max(1, placement.resident // _SHARE), **ahead}
    if placement.streams and slots > 1:
        yield {"prefetch": slots - 2}
    if placement.streams and placement.until is not Until.EACH:
        yield {"until": Until.EACH}
