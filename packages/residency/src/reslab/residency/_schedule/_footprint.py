"""The bytes of a plan on device, link and host: the one account, computed without making the moves.

    account = footprint(plan, workload)
    account.rows[3].device_bytes           # a component's weights on the device in a stage, slots included
    account.device_bytes["denoise"]        # all of them, and activations
    account.fetched_bytes                  # over the link, in the whole run
    account.host().nbytes                  # copies in host memory, and the window of what comes from disk

These are the sums over the moves of `schedule`, in closed form and a thousand times faster; a test holds them equal.
Bounds, `apply`, `step_down` and the charts read this account and derive no bytes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from reslab.residency._plan._placement import Place, Placement, PlanError, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import ComponentSize, Workload
from reslab.residency._schedule._kept_units import (
    OUTSIDE,
    Units,
    all_units,
    between_runs,
    check_plan,
    keeps,
    moves_outside,
    streamed,
    unit_bytes,
)
from reslab.residency._schedule._slots import streamed_bytes
from reslab.residency._units import size_text
from reslab.stages.support import freeze, nearest

#: The most bytes that torch's allocator holds beyond live tensors: 2.0, 2.0 and 2.9 GiB between reserved and allocated
#: in sglang's records of resident FLUX.1, Qwen-Image and FLUX.2-klein on an H100 (0.5.23, perf_baselines/h100.json).
ALLOCATOR_SLACK_BYTES = 2 * 2**30
#: The same as a share of live bytes, for small peaks: cache-dit's offload guide publishes 25 GiB for FLUX.1 with model
#: offload on an L20, where 22.6 GiB are alive; in sglang's records it is 5 % to 6 % of FLUX.1 and Qwen-Image. (A pool
#: that never has to release memory holds more: 27 % of FLUX.2-klein's 10.6 GiB, on a card with 80.)
ALLOCATOR_SLACK_SHARE = 0.1
_POOLED = ("cuda", "xpu")


def allocator_slack(peak_bytes: int, kind: str) -> int:
    """Return the bytes that torch's allocator holds beyond a peak: a tenth of it, `ALLOCATOR_SLACK_BYTES` at most.

    >>> [allocator_slack(peak * 2**30, "cuda") / 2**30 for peak in (5, 60)]
    [0.5, 2.0]

    Args:
        peak_bytes: The most bytes alive on the device.
        kind: Torch's name of the device type; only "cuda" and "xpu" keep such a pool.
    """
    return min(ALLOCATOR_SLACK_BYTES, round(peak_bytes * ALLOCATOR_SLACK_SHARE)) if kind in _POOLED else 0


class ComponentBytes(NamedTuple):
    """Bytes of one component in one stage.

    Attributes:
        component: The component's name.
        stage: The stage's registered name.
        kept_bytes: Bytes on the device all through the stage.
        slot_bytes: Bytes on the device for blocks that stream in the stage, at most.
        fetched_bytes: Bytes copied to the device in the stage and at the border before it.
        copied_back_bytes: Bytes copied to the host in the stage.
        from_disk: Whether fetched bytes come from disk.
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
        """Return the component's bytes on the device in the stage, slots included."""
        return self.kept_bytes + self.slot_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The weights of one component that move in a run, and therefore wait in host memory or on disk.

    If the workload has no calls, these are all weights that do not stay on the device.

    Attributes:
        nbytes: Bytes of the weights that wait.
        from_disk: Whether they wait on disk; a component that does so for one stage does so for all.
        window_bytes: Bytes of the largest unit that comes from disk: a block, or the weights outside the blocks; 0 if
            none does.
        settled: Units that are fetched before the run and stay, so that they need no copy on the host.
        often: Order of pinning: larger for a component that moves more often in a run, then by its placement.
    """

    nbytes: int
    from_disk: bool
    window_bytes: int
    settled: Units
    often: tuple[float, bool, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBytes:
    """Host memory that a plan needs while it runs, in bytes; `bounds` reports it and `apply` keeps to it.

    Weights that are fetched once before the run and stay need none, since they are on the device alone. All other
    weights wait in host memory, except for those that come from disk: they pass through one window, as large as the
    largest unit that does. Memory is pinned as far as allowed: the window first, then the components that move most
    often.

    Attributes:
        copies: Bytes of each component that waits in host memory, in the order of pinning.
        window_bytes: Bytes of the window.
        pinned: Pinned bytes of each component in `copies`.
        pinned_window_bytes: Pinned bytes of the window: all or none.
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


#: The need of a plan if host and device share one memory.
NOTHING = HostBytes(copies={}, window_bytes=0, pinned={}, pinned_window_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The bytes of a plan, from one walk over stages and components; iterating yields its rows.

    >>> from reslab.residency import Call, ComponentSize
    >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
    >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
    >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
    >>> [footprint(Plan.of({"transformer": place}), work).host().nbytes for place in ("resident", "swap", "disk")]
    [0, 35, 10]
    >>> footprint(Plan.of({"transformer": "layerwise"}), work)
    Footprint(25 B on the device at most, 35 B on the host, 35 B fetched)

    Attributes:
        rows: One row per stage and component, in the order of stages.
        activations: Highest bytes alive besides weights, by stage.
        waiting: The weights of each component that move.
    """

    rows: tuple[ComponentBytes, ...]
    activations: Mapping[str, int]
    waiting: Mapping[str, Waiting]

    def __post_init__(self) -> None:
        freeze(self)

    def __iter__(self) -> Iterator[ComponentBytes]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def by_stage(self) -> dict[str, list[ComponentBytes]]:
        """Return the rows of each stage."""
        found: dict[str, list[ComponentBytes]] = {stage: [] for stage in self.activations}
        for row in self.rows:
            found[row.stage].append(row)
        return found

    @property
    def device_bytes(self) -> dict[str, int]:
        """Return the highest bytes on the device in each stage, activations included."""
        totals = dict(self.activations)
        for row in self.rows:
            totals[row.stage] += row.device_bytes
        return totals

    def weight_peak_bytes(self, component: str) -> int:
        """Return the most bytes of a component's weights on the device in any stage, slots included.

        >>> from reslab.residency import Call, ComponentSize
        >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
        >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
        >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
        >>> footprint(Plan.of({"transformer": "layerwise"}), work).weight_peak_bytes("transformer")
        25

        Raises:
            PlanError: The plan's pipeline has no such component; the message names the nearest.
        """
        if component not in self.waiting:
            raise PlanError(f"there is no component {component!r}; {nearest(component, self.waiting)}")
        return max((row.device_bytes for row in self.rows if row.component == component), default=0)

    @property
    def fetched_bytes(self) -> int:
        """Return the bytes copied to the device in a run."""
        return sum(row.fetched_bytes for row in self.rows)

    @property
    def copied_back_bytes(self) -> int:
        """Return the bytes copied to the host in a run."""
        return sum(row.copied_back_bytes for row in self.rows)

    def host(self, *, pinnable_bytes: int | None = None) -> HostBytes:
        """Return the host memory that the plan needs.

        Args:
            pinnable_bytes: The most bytes that may be pinned; None sets no limit.
        """
        window = max((each.window_bytes for each in self.waiting.values()), default=0)
        moving = [name for name, each in self.waiting.items() if each.nbytes and not each.from_disk]
        ordered = sorted(moving, key=lambda name: self.waiting[name].often, reverse=True)
        copies = {name: self.waiting[name].nbytes for name in ordered}
        left = pinnable_bytes if pinnable_bytes is not None else sum(copies.values()) + window
        pinned_window = window if window <= left else 0
        left -= pinned_window
        pinned: dict[str, int] = {}
        for name, nbytes in copies.items():
            pinned[name] = min(nbytes, left)
            left -= pinned[name]
        return HostBytes(copies=copies, window_bytes=window, pinned=pinned, pinned_window_bytes=pinned_window)

    def __repr__(self) -> str:
        peak, host = max(self.device_bytes.values(), default=0), self.host().nbytes
        return (
            f"Footprint({size_text(peak)} on the device at most, {size_text(host)} on the host, "
            f"{size_text(self.fetched_bytes)} fetched)"
        )


def footprint(plan: Plan, workload: Workload) -> Footprint:
    """Return the bytes of a plan: each component in each stage on the device and over the link, and on the host.

    Raises:
        PlanError: The plan places a component or stage that the workload does not have.
    """
    check_plan(plan, workload)
    columns, waiting = [], {}
    for name in workload.components:
        column, waiting[name] = _component(plan, workload, name)
        columns.append(column)
    return Footprint(
        rows=tuple(row for stage in zip(*columns, strict=True) for row in stage),
        activations={stage: workload.activations.get(stage, 0) for stage in workload.stages},
        waiting=waiting,
    )


class _Streamed(NamedTuple):
    """The units that move for a component's calls in one stage, and their bytes."""

    units: Units = frozenset()
    slot_bytes: int = 0
    through_bytes: int = 0


def _component(plan: Plan, workload: Workload, name: str) -> tuple[list[ComponentBytes], Waiting]:
    """Return a component's row for each stage, and its weights that move in any of them, from one walk."""
    size, kept = workload.components[name], keeps(plan, workload, name)
    placements = [plan.placement(name, stage) for stage in workload.stages]
    moved = [_streamed(workload, name, index, placements[index], kept[index]) for index in range(len(placements))]
    sizes = cache(partial(_sum, size))  # the same units are kept from stage to stage, so few sums are distinct
    between = between_runs(kept, placements[0])
    rows = list(_rows(name, sizes, workload.stages, placements, kept, moved, between))
    settled = between.intersection(*kept)
    units = frozenset[int]().union(*kept, *(each.units for each in moved)) if workload.calls else all_units(size)
    from_disk = any(placement.kind is Place.DISK for placement in placements)
    waiting = Waiting(
        nbytes=sizes(units - settled),
        from_disk=from_disk,
        window_bytes=max((unit_bytes(size, unit) for unit in units - settled), default=0) if from_disk else 0,
        settled=settled,
        often=(
            sum(row.fetched_bytes for row in rows) / max(size.weight_bytes, 1),
            any(placement.streams for placement in placements),
            any(placement.until is Until.EACH for placement in placements),
        ),
    )
    return rows, waiting


def _rows(
    name: str,
    sizes: Callable[[Units], int],
    stages: Sequence[str],
    placements: Sequence[Placement],
    kept: Sequence[Units],
    moved: Sequence[_Streamed],
    between: Units,
) -> Iterator[ComponentBytes]:
    before, former = between, placements[0]
    for index, (stage, placement, own, calls) in enumerate(zip(stages, placements, kept, moved, strict=True)):
        kept_bytes = sizes(own)
        back = sizes(before - own) * former.copy_back + calls.through_bytes * placement.copy_back
        if index + 1 == len(stages):
            back += sizes(own - between) * placement.copy_back
        yield ComponentBytes(
            component=name,
            stage=stage,
            kept_bytes=kept_bytes,
            slot_bytes=calls.slot_bytes,
            fetched_bytes=sizes(own - before) + calls.through_bytes,
            copied_back_bytes=back,
            from_disk=placement.kind is Place.DISK,
        )
        before, former = own, placement


def _streamed(workload: Workload, name: str, index: int, placement: Placement, kept: Units) -> _Streamed:
    """Return the units that move for a component's calls in one stage: through slots, or around each call."""
    calls = workload.calls_of.get((name, index))
    if calls is None or not placement.streams:
        return _Streamed()
    size = workload.components[name]
    outside = frozenset({OUTSIDE}) if moves_outside(placement) else frozenset[int]()
    distinct = streamed(workload, name, index, placement, kept)
    known = {blocks: [block for block in blocks if block in distinct] for blocks in workload.blocks_of[name, index]}
    slots = min(placement.slots, len(distinct)) * max(map(size.block_bytes.__getitem__, distinct), default=0)
    streams = [known[call.blocks] for call in calls]
    through = streamed_bytes(streams, prefetch=placement.prefetch, nbytes=size.block_bytes.__getitem__)
    outside_bytes = _sum(size, outside)
    return _Streamed(outside | distinct, outside_bytes + slots, len(calls) * outside_bytes + through)


def _sum(size: ComponentSize, units: Units) -> int:
    if len(units) == len(size.block_bytes) + 1:  # all units: saves a sum over hundreds of blocks
        return size.weight_bytes
    return sum(unit_bytes(size, unit) for unit in units)
