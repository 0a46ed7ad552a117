"""What a plan costs in bytes, stage by stage, without making the moves: on the device, over the link, on the host.

    footprint(plan, workload)[3].device_bytes        # weights on the device in the fourth stage, slots included

These are the sums of what `schedule` does, in closed form and a thousand times faster; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from reslab.residency._plan._keep import (
    OUTSIDE,
    Units,
    all_units,
    between_runs,
    keeps,
    moves_outside,
    streamed,
    unit_bytes,
)
from reslab.residency._plan._placement import Kind, Placement, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._slots import streamed_bytes
from reslab.residency._plan._workload import ComponentSize, Workload, check_plan
from reslab.stages import freeze

#: What torch's allocator holds at most beyond what is alive: 2.0, 2.0 and 2.9 GiB between reserved and allocated in
#: sglang's records of resident FLUX.1, Qwen-Image and FLUX.2-klein on an H100 (0.5.23, perf_baselines/h100.json).
POOL_SLACK_BYTES = 2 * 2**30
#: The same as a share of what is alive, for small peaks: cache-dit's offload guide publishes 25 GiB for FLUX.1 with
#: model offload on an L20, where 22.6 GiB are alive; in sglang's records it is 5 % to 6 % of FLUX.1 and Qwen-Image. (A
#: pool that has no need to give anything back holds more: 27 % of FLUX.2-klein's 10.6 GiB, on a card with 80.)
POOL_SLACK_SHARE = 0.1
_POOLED = ("cuda", "xpu")


def pool_slack(peak_bytes: int, kind: str) -> int:
    """Return what torch's allocator takes of a device beyond a peak: `POOL_SLACK_BYTES`, or a tenth of it if less.

    >>> [pool_slack(peak * 2**30, "cuda") / 2**30 for peak in (5, 60)]
    [0.5, 2.0]

    Args:
        peak_bytes: What is alive there at most.
        kind: What torch calls the device; only "cuda" and "xpu" keep such a pool.
    """
    return min(POOL_SLACK_BYTES, round(peak_bytes * POOL_SLACK_SHARE)) if kind in _POOLED else 0


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
    before = between = between_runs(kept, placements[0])
    former = placements[0]
    for place, (stage, placement) in enumerate(zip(workload.stages, placements, strict=True)):
        slot_bytes, through = _streamed(workload, name, place, placement, kept[place])
        back = _sum(size, before - kept[place]) * former.copy_back + through * placement.copy_back
        if place + 1 == len(placements):
            back += _sum(size, kept[place] - between) * placement.copy_back
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
    distinct = streamed(workload, name, place, placement, kept)
    known = {blocks: [block for block in blocks if block in distinct] for blocks in kinds}
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
    """What a plan needs of the host while it runs, in bytes; `bounds` says it, and `apply` keeps to it.

    What is fetched once before the run and stays needs nothing, since its weights are on the device alone. All else
    that comes and goes waits in host memory. What comes from disk goes through one window, as large as the largest
    block of all that does. Memory is pinned as far as it may be: the window first, then what moves most often.

    Attributes:
        copies: Of each component that waits in host memory, in the order of pinning.
        window_bytes: Of the window.
        pinned: Of each component, what of that is pinned.
        pinned_window_bytes: Of the window, what is pinned: all or nothing.
    """

    copies: Mapping[str, int]
    window_bytes: int
    pinned: Mapping[str, int]
    pinned_window_bytes: int

    def __post_init__(self) -> None:
        freeze(self)

    @property
    def nbytes(self) -> int:
        """Return all bytes of host memory."""
        return sum(self.copies.values()) + self.window_bytes

    @property
    def pinned_bytes(self) -> int:
        """Return the bytes that are pinned."""
        return sum(self.pinned.values()) + self.pinned_window_bytes


#: Where host and device share one memory.
NOTHING = HostBytes(copies={}, window_bytes=0, pinned={}, pinned_window_bytes=0)


def host_bytes(plan: Plan, workload: Workload, *, pinnable_bytes: int | None = None) -> HostBytes:
    """Return what a plan needs of the host.

    Where the calls are not known, all that does not stay on the device counts as moved.

    >>> from reslab.residency import Call, ComponentSize
    >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
    >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
    >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
    >>> [host_bytes(Plan.of({"transformer": place}), work).nbytes for place in ("resident", "swap", "disk")]
    [0, 35, 10]

    Args:
        plan: The plan.
        workload: Sizes and calls.
        pinnable_bytes: What may be pinned; None for all.
    """
    units = {name: waits(plan, workload, name) for name in workload.components}
    from_disk = {name for name in units if comes_from_disk(plan, workload, name)}
    window = max((unit_bytes(workload.components[name], unit) for name in from_disk for unit in units[name]), default=0)
    copies = {name: _sum(workload.components[name], units[name]) for name in units if name not in from_disk}
    often = _often(plan, workload)
    ordered = sorted(filter(copies.__getitem__, copies), key=lambda name: often[name], reverse=True)
    left = pinnable_bytes if pinnable_bytes is not None else sum(copies.values()) + window
    pinned_window = window if window <= left else 0
    left -= pinned_window
    pinned: dict[str, int] = {}
    for name in ordered:
        pinned[name] = min(copies[name], left)
        left -= pinned[name]
    return HostBytes(
        copies={name: copies[name] for name in ordered},
        window_bytes=window,
        pinned=pinned,
        pinned_window_bytes=pinned_window,
    )


def waits(plan: Plan, workload: Workload, name: str) -> Units:
    """Return the units of a component that come to the device in a run, or leave it: they wait on the host or on disk.

    Where no call is known these are all but what stays.
    """
    if not workload.calls:
        return all_units(workload.components[name]) - settled(plan, workload, name)
    kept = keeps(plan, workload, name)
    moving = (
        _streaming(workload, plan.placement(name, stage), name, place, kept[place])
        for place, stage in enumerate(workload.stages)
    )
    return frozenset[int]().union(*kept, *moving) - settled(plan, workload, name)


def settled(plan: Plan, workload: Workload, name: str) -> Units:
    """Return the units of a component that come to the device before the run and stay: they need no second copy."""
    kept = keeps(plan, workload, name)
    return between_runs(kept, plan.placement(name, workload.stages[0])).intersection(*kept)


def comes_from_disk(plan: Plan, workload: Workload, name: str) -> bool:
    """Tell whether a component waits on disk: where it does so for one stage, it does for all."""
    return any(plan.placement(name, stage).kind is Kind.DISK for stage in workload.stages)


def _often(plan: Plan, workload: Workload) -> dict[str, tuple[float, bool, bool]]:
    """Return how often the bytes of each component move in a run; by its placement where no calls are known."""
    fetched = dict.fromkeys(workload.components, 0)
    for row in footprint(plan, workload):
        fetched[row.component] += row.fetched_bytes
    places = {name: [plan.placement(name, stage) for stage in workload.stages] for name in fetched}
    return {
        name: (
            fetched[name] / max(workload.components[name].weight_bytes, 1),
            any(place.streams for place in places[name]),
            any(place.until is Until.EACH for place in places[name]),
        )
        for name in fetched
    }


def _streaming(workload: Workload, placement: Placement, name: str, place: int, kept: Units) -> Units:
    """Return the units that move for calls of a stage."""
    if (name, place) not in workload.calls_of:
        return frozenset()
    outside = frozenset({OUTSIDE}) if moves_outside(placement) else frozenset()
    return outside | streamed(workload, name, place, placement, kept)
