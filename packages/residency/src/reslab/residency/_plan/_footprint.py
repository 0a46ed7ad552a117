"""What a plan costs in bytes, stage by stage, without making the moves: on the device, over the link, on the host.

    footprint(plan, workload)[3].device_bytes        # weights on the device in the fourth stage, slots included

These are the sums of what `schedule` does, in closed form and a thousand times faster; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from reslab.residency._plan._keep import OUTSIDE, Units, keeps, moves_outside, stays, unit_bytes
from reslab.residency._plan._placement import Kind, Placement
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._slots import streamed_bytes
from reslab.residency._plan._workload import ComponentSize, Workload, check_plan


class ComponentBytes(NamedTuple):
    """Bytes of one component in one stage.

    Attributes:
        component: Its name.
        stage: The stage's registered name.
        kept_bytes: On the device all through the stage.
        slot_bytes: On the device for what streams in it, at most.
        fetched_bytes: Copied to the device in the stage, border before it included.
        copied_back_bytes: Copied to the host in it.
        from_disk: Whether what is fetched comes from disk.
    """

    component: str
    stage: str
    kept_bytes: int
    slot_bytes: int
    fetched_bytes: int
    copied_back_bytes: int
    from_disk: bool

    @property
    def device_bytes(self) -> int:
        """Return the bytes on the device."""
        return self.kept_bytes + self.slot_bytes


def footprint(plan: Plan, workload: Workload) -> tuple[ComponentBytes, ...]:
    """Return what each component costs in each stage, in the order of stages.

    Raises:
        PlanError: If the plan places what the workload does not have.
    """
    check_plan(plan, workload)
    columns = [tuple(_component(plan, workload, name)) for name in workload.components]
    return tuple(row for stage in zip(*columns, strict=True) for row in stage)


def device_bytes(plan: Plan, workload: Workload) -> dict[str, int]:
    """Return the highest bytes on the device in each stage, activations included."""
    totals = {stage: workload.activations.get(stage, 0) for stage in workload.stages}
    for row in footprint(plan, workload):
        totals[row.stage] += row.device_bytes
    return totals


def _component(plan: Plan, workload: Workload, name: str) -> Iterator[ComponentBytes]:
    size, kept = workload.components[name], keeps(plan, workload, name)
    placements = [plan.placement(name, stage) for stage in workload.stages]
    before = kept[0] if stays(placements[0]) else frozenset()
    former = placements[0]
    for place, (stage, placement) in enumerate(zip(workload.stages, placements, strict=True)):
        slot_bytes, through = _streamed(workload, name, place, placement, kept[place])
        back = _sum(size, before - kept[place]) * former.copy_back + through * placement.copy_back
        if place + 1 == len(placements) and not stays(placement):
            back += _sum(size, kept[place]) * placement.copy_back
        yield ComponentBytes(
            component=name,
            stage=stage,
            kept_bytes=_sum(size, kept[place]),
            slot_bytes=slot_bytes,
            fetched_bytes=_sum(size, kept[place] - before) + through,
            copied_back_bytes=back,
            from_disk=placement.kind is Kind.DISK,
        )
        before, former = kept[place], placement


def _streamed(workload: Workload, name: str, place: int, placement: Placement, kept: Units) -> tuple[int, int]:
    """Return the bytes that the slots of a component take in one stage, and the bytes that go through them."""
    calls = workload.calls_of.get((name, place))
    if calls is None or not placement.streams:
        return 0, 0
    size = workload.components[name]
    outside = size.outside_bytes if moves_outside(placement) else 0
    kinds = workload.blocks_of[name, place]
    known = {blocks: [block for block in blocks if block not in kept] for blocks in kinds}
    distinct = {block for blocks in known.values() for block in blocks}
    slots = min(placement.slots, len(distinct)) * max(map(size.block_bytes.__getitem__, distinct), default=0)
    streams = [known[call.blocks] for call in calls]
    through = streamed_bytes(streams, prefetch=placement.prefetch, nbytes=size.block_bytes.__getitem__)
    return outside + slots, len(calls) * outside + through


def _sum(size: ComponentSize, units: Units) -> int:
    if len(units) == len(size.block_bytes) + 1:
        return size.weight_bytes
    return sum(unit_bytes(size, unit) for unit in units)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBytes:
    """Bytes of host memory that one component needs for what is fetched during the run, and where that comes from."""

    nbytes: int
    kind: Kind


def host_bytes(plan: Plan, workload: Workload) -> dict[str, HostBytes]:
    """Return what each component that moves needs of the host: copies of what moves, or a window onto the disk."""
    found = {name: _host(plan, workload, name) for name in workload.components}
    return {name: each for name, each in found.items() if each.nbytes}


def _host(plan: Plan, workload: Workload, name: str) -> HostBytes:
    size, kept = workload.components[name], keeps(plan, workload, name)
    placements = [plan.placement(name, stage) for stage in workload.stages]
    before = kept[0] if stays(placements[0]) else frozenset()
    moved: Units = frozenset()
    window = 0
    for place, placement in enumerate(placements):
        fetched = kept[place] - before | _streaming(workload, placement, name, place, kept[place])
        if placement.kind is Kind.DISK:
            window = max(window, placement.slots * max((unit_bytes(size, unit) for unit in fetched), default=0))
        else:
            moved |= fetched
        before = kept[place]
    kind = Kind.DISK if window and not moved else Kind.SWAP
    return HostBytes(nbytes=_sum(size, moved) + window, kind=kind)


def _streaming(workload: Workload, placement: Placement, name: str, place: int, kept: Units) -> Units:
    """Return the units that move for calls of a stage."""
    called = workload.blocks_of.get((name, place))
    if called is None or not placement.streams:
        return frozenset()
    outside = frozenset({OUTSIDE}) if moves_outside(placement) else frozenset()
    return outside | {block for blocks in called for block in blocks if block not in kept}
