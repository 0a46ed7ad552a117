"""The next leaner plan: the one small step that needs less memory on the device and moves the fewest bytes more.

    step_down(plan, workload)                       # less at the plan's highest stage
    step_down(plan, workload, stage="denoise")      # less in that stage, which ran out of memory
    step_down(plan, workload) is None               # nothing is left to give up

A step takes one component from resident to swap, from swap to layerwise with all but two blocks resident, takes some of
its resident blocks, or one of the blocks it fetches ahead, or has a swap fetched at its own stage. What a person set is
never changed. Repeated, the steps end where every block streams through one slot: sequential.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reslab.residency._plan._placement import Place, Placement, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._settings import DecidedBy
from reslab.residency._plan._workload import Workload
from reslab.residency._schedule._footprint import Footprint, footprint

#: Of the resident blocks that are left, how many a step takes: one in four, at least one.
_SHARE = 4


def step_down(plan: Plan, workload: Workload, *, stage: str | None = None) -> Plan | None:
    """Return the next leaner plan, None where there is none.

    >>> from reslab.residency import Call, ComponentSize
    >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
    >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
    >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
    >>> step_down(Plan.of({"transformer": "layerwise"}, name="mine"), work) is None  # the user set no depth
    False

    Args:
        plan: The plan that needs too much.
        workload: The calls it carries out.
        stage: Where it needs too much; by default where it needs the most.
    """
    before = _need(footprint(plan, workload), stage)
    steps = [(footprint(each, workload), each) for each in _steps(plan, workload)]
    needs = [(account.fetched_bytes, _need(account, stage), each) for account, each in steps]
    smaller = [step for step in needs if step[1] < before]
    return min(smaller, key=lambda step: step[:2])[2] if smaller else None


def _need(account: Footprint, stage: str | None) -> list[int]:
    """Return the bytes that have to shrink: of one stage, or of all from the highest down."""
    totals = account.device_bytes
    return [totals[stage]] if stage is not None else sorted(totals.values(), reverse=True)


def _steps(plan: Plan, workload: Workload) -> Iterator[Plan]:
    """Yield every plan that is one step away and changes nothing that a person set."""
    for name, size in workload.components.items():
        scopes = [key for key in plan.placements if key[0] == name and key[1] is not None]
        for component, stage in ((name, None), *scopes):
            scope = component if stage is None else f"{component}@{stage}"
            placement = plan.placement(component, stage)
            for settings in _less(placement, len(size.block_bytes)):
                told = {scope if field == "placement" else f"{scope}.{field}": each for field, each in settings.items()}
                if not any(plan.is_users(key) for key in told):
                    yield plan.decide(told, by=DecidedBy.RULE, why="the device ran out of memory")


def _less(placement: Placement, blocks: int) -> Iterator[dict[str, Any]]:
    """Yield what one component could do with less."""
    if placement.kind is Place.RESIDENT:
        yield {"placement": Place.SWAP}
    if placement.prefetch_stages:
        yield {"prefetch_stages": 0}
    if placement.kind is Place.SWAP and placement.until is not Until.EACH:
        yield {"until": Until.EACH}
    if placement.kind in (Place.RESIDENT, Place.SWAP) and blocks > 1:
        yield {"placement": Place.LAYERWISE, "resident": blocks - 2, "prefetch": 0, "until": Until.EACH}
    # there are never more slots than blocks that stream, so what is fetched ahead beyond that counts for nothing
    slots = min(placement.slots, blocks - placement.resident)
    if placement.streams and placement.resident:
        ahead = {"prefetch": slots - 1} if 0 < slots < placement.slots else {}
        yield {"resident": placement.resident - max(1, placement.resident // _SHARE), **ahead}
    if placement.streams and slots > 1:
        yield {"prefetch": slots - 2}
    if placement.streams and placement.until is not Until.EACH:
        yield {"until": Until.EACH}
