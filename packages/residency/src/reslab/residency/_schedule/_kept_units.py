"""What lies on the device through a whole stage, without streaming: the part of a plan that memory depends on.

A component is made of units: its blocks by number, and OUTSIDE, all that lies outside of them. For every stage each
component keeps some of its units; at the border between two stages the difference is moved. What a call needs beyond
that streams through slots.

    keeps(plan, workload, "transformer")[3]       # units kept in the fourth stage
    ahead(plan, workload, "transformer")[2]       # those of them that are fetched in the third, and not needed before
    check_plan(plan, workload)                    # refuses a plan of what the workload does not have
"""

from __future__ import annotations

from collections.abc import Iterator

from reslab.residency._plan._placement import Granularity, Place, Placement, PlanError, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.stages import nearest

#: The unit of all weights outside the blocks; blocks are numbered from 0.
OUTSIDE = -1

Units = frozenset[int]
_NOTHING: Units = frozenset()


def keeps(plan: Plan, workload: Workload, name: str) -> tuple[Units, ...]:
    """Return the units of a component that are on the device through each stage, or fetched ahead in it."""
    needed = _needed(plan, workload, name)
    kept = list(needed)
    for place, stage in enumerate(workload.stages):
        for earlier in _before(workload, place, plan.placement(name, stage).prefetch_stages):
            if not needed[place] or needed[earlier] or earlier in workload.users[name]:
                break
            kept[earlier] = needed[place]
    return tuple(kept)


def between_runs(kept: tuple[Units, ...], first: Placement) -> Units:
    """Return the units of a component that are on the device before the run, and again (or still) after it.

    Args:
        kept: What it keeps in each stage, from `keeps`.
        first: Its placement in the first stage.
    """
    return kept[0] if stays(first) else frozenset()


def ahead(plan: Plan, workload: Workload, name: str) -> tuple[Units, ...]:
    """Return the units of a component that are fetched in each stage for a later one."""
    kept, needed = keeps(plan, workload, name), _needed(plan, workload, name)
    before = (frozenset[int](), *kept)
    return tuple(units - own - there for units, own, there in zip(kept, needed, before, strict=False))


def _before(workload: Workload, place: int, count: int) -> Iterator[int]:
    """Yield places before one, back to the stage that is the last of `count` that call a component."""
    while count and place:
        place -= 1
        count -= bool(workload.by_stage[place])
        yield place


def _needed(plan: Plan, workload: Workload, name: str) -> tuple[Units, ...]:
    """Return the units of a component that are on the device all through each stage, those fetched ahead left out."""
    size, users = workload.components[name], workload.users[name]
    placements = [plan.placement(name, stage) for stage in workload.stages]
    parts = {id(placement): kept_part(placement, len(size.block_bytes)) for placement in placements}
    return tuple(
        parts[id(placement)] if _is_kept(placement, users, place) else frozenset()
        for place, placement in enumerate(placements)
    )


def stays(placement: Placement) -> bool:
    """Tell whether what is kept is on the device before the run and after it."""
    return placement.kind is Place.RESIDENT or placement.until is Until.RUN


def all_units(size: ComponentSize) -> Units:
    """Return every unit of a component."""
    return _units(len(size.block_bytes))


def unit_bytes(size: ComponentSize, unit: int) -> int:
    """Return the bytes of one unit."""
    return size.outside_bytes if unit == OUTSIDE else size.block_bytes[unit]


def streamed_by(call: Call, placement: Placement, kept: Units) -> tuple[int, ...]:
    """Return the blocks that a call runs and that do not stay, in its order."""
    if not placement.streams:
        return ()
    return tuple(block for block in call.blocks if block not in kept)


def streamed(workload: Workload, name: str, place: int, placement: Placement, kept: Units) -> Units:
    """Return the blocks that go through the slots of a component in the stage at `place`."""
    called = workload.blocks_of.get((name, place), ()) if placement.streams else ()
    return _NOTHING.union(*called) - kept


def kept_part(placement: Placement, blocks: int) -> Units:
    """Return the units that a component of so many blocks keeps on the device while it keeps anything."""
    if not placement.streams:
        return _units(blocks)
    outside: Units = frozenset() if moves_outside(placement) else frozenset({OUTSIDE})
    return outside | placement.resident_blocks(blocks)


def moves_outside(placement: Placement) -> bool:
    """Tell whether what lies outside the blocks is moved for every call, as other tools do."""
    return placement.streams and placement.granularity is not Granularity.BLOCK


def _is_kept(placement: Placement, users: tuple[int, ...], place: int) -> bool:
    """Tell whether a component keeps anything in the stage at `place`."""
    if stays(placement):
        return True
    if placement.until is Until.EACH or not users:
        return place in users
    return users[0] <= place <= users[-1]


def _units(blocks: int) -> Units:
    return frozenset((OUTSIDE, *range(blocks)))


def check_plan(plan: Plan, workload: Workload) -> None:
    """Raise one PlanError that names everything in a plan which the workload does not have."""
    if problems := list(_problems(plan, workload)):
        raise PlanError(problems[0] if len(problems) == 1 else "\n- ".join(["this plan cannot be used:", *problems]))


def _problems(plan: Plan, workload: Workload) -> Iterator[str]:
    for (component, stage), placement in plan.placements.items():
        size = workload.components.get(component)
        if size is None:
            yield f"the plan places {component!r}, which is not there; {nearest(component, workload.components)}"
        elif placement.streams and placement.resident > len(size.block_bytes):
            yield (
                f"{component}.resident={placement.resident}, but {component} has {len(size.block_bytes)} blocks; "
                "write 'resident' to keep all of it"
            )
        if stage is not None and stage not in workload.stages:
            yield f"the plan places {component!r} in a stage {stage!r}, which is not there; " + nearest(
                stage, workload.stages
            )
