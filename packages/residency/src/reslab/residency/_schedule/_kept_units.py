"""The units of each component that a plan keeps on the device through a whole stage, without streaming.

A component consists of units: its blocks by number, and OUTSIDE for all weights outside the blocks. In every stage each
component keeps some of its units; at the border between two stages the difference is moved. Units that a call needs and
that are not kept stream through slots.

    keeps(plan, workload, "transformer")[3]       # units kept in the fourth stage
    ahead(plan, workload, "transformer")[2]       # those of them that the third stage fetches for it
    check_plan(plan, workload)                    # refuses a plan for components that the workload does not have

`_schedule` makes the moves between these states, `_footprint` sums their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from reslab.residency._plan._placement import Granularity, Place, Placement, PlanError, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.stages.support import nearest

#: The unit of all weights outside the blocks; blocks are numbered from 0.
OUTSIDE = -1

Units = frozenset[int]
_NOTHING: Units = frozenset()


def keeps(plan: Plan, workload: Workload, name: str) -> tuple[Units, ...]:
    """Return the units of a component that are on the device through each stage, or fetched ahead in it."""
    needed = _needed(plan, workload, name)
    kept = list(needed)
    for index, stage in enumerate(workload.stages):
        for earlier in _before(workload, index, plan.placement(name, stage).prefetch_stages):
            if not needed[index] or needed[earlier] or earlier in workload.users[name]:
                break
            kept[earlier] = needed[index]
    return tuple(kept)


def between_runs(kept: tuple[Units, ...], first: Placement) -> Units:
    """Return the units of a component that are on the device before the run, and after it.

    Args:
        kept: The units kept in each stage, from `keeps`.
        first: The placement in the first stage.
    """
    return kept[0] if stays(first) else frozenset()


def ahead(plan: Plan, workload: Workload, name: str) -> tuple[Units, ...]:
    """Return the units of a component that each stage fetches for a later one."""
    kept, needed = keeps(plan, workload, name), _needed(plan, workload, name)
    before = (frozenset[int](), *kept)
    return tuple(units - own - there for units, own, there in zip(kept, needed, before, strict=False))


def _before(workload: Workload, index: int, count: int) -> Iterator[int]:
    """Yield the indices before a stage, backwards over `count` stages that call a component."""
    while count and index:
        index -= 1
        count -= bool(workload.by_stage[index])
        yield index


def _needed(plan: Plan, workload: Workload, name: str) -> tuple[Units, ...]:
    """Return the units of a component that are on the device all through each stage, without those fetched ahead."""
    size, users = workload.components[name], workload.users[name]
    placements = [plan.placement(name, stage) for stage in workload.stages]
    parts = {id(placement): kept_part(placement, len(size.block_bytes)) for placement in placements}
    return tuple(
        parts[id(placement)] if _is_kept(placement, users, index) else frozenset()
        for index, placement in enumerate(placements)
    )


def stays(placement: Placement) -> bool:
    """Return whether kept units are on the device before the run and after it."""
    return placement.kind is Place.RESIDENT or placement.until is Until.RUN


def all_units(size: ComponentSize) -> Units:
    """Return every unit of a component."""
    return _units(len(size.block_bytes))


def unit_bytes(size: ComponentSize, unit: int) -> int:
    """Return the bytes of one unit."""
    return size.outside_bytes if unit == OUTSIDE else size.block_bytes[unit]


def streamed_by(call: Call, placement: Placement, kept: Units) -> tuple[int, ...]:
    """Return the blocks that a call runs and that are not kept, in the order of the call."""
    if not placement.streams:
        return ()
    return tuple(block for block in call.blocks if block not in kept)


def streamed(workload: Workload, name: str, index: int, placement: Placement, kept: Units) -> Units:
    """Return the blocks that go through the slots of a component in the stage at `index`."""
    called = workload.blocks_of.get((name, index), ()) if placement.streams else ()
    return _NOTHING.union(*called) - kept


def kept_part(placement: Placement, blocks: int) -> Units:
    """Return the units that a component of `blocks` blocks keeps on the device in the stages that keep any."""
    if not placement.streams:
        return _units(blocks)
    outside: Units = frozenset() if moves_outside(placement) else frozenset({OUTSIDE})
    return outside | placement.resident_blocks(blocks)


def moves_outside(placement: Placement) -> bool:
    """Return whether the weights outside the blocks are moved for every call, as other tools do."""
    return placement.streams and placement.granularity is not Granularity.BLOCK


def _is_kept(placement: Placement, users: tuple[int, ...], index: int) -> bool:
    """Return whether a component keeps any unit in the stage at `index`."""
    if stays(placement):
        return True
    if placement.until is Until.EACH or not users:
        return index in users
    return users[0] <= index <= users[-1]


def _units(blocks: int) -> Units:
    return frozenset((OUTSIDE, *range(blocks)))


def check_plan(plan: Plan, workload: Workload) -> None:
    """Check that a workload has every component, block and stage that a plan places.

    Raises:
        PlanError: It lacks some; one error names all of them.
    """
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
