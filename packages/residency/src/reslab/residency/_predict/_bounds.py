"""The bounds of a plan on a device, stage by stage, before anything runs: the time at least, and if nothing overlaps.

    limits = bounds(rehearsal, plan, device("RTX 4090"))
    limits.fits, limits.why, limits.tightest
    limits.floor_ns, limits.ceiling_ns
    limits.stages()

Compute follows a roofline (`_roofline`): each call takes the longer of the device's time and the host's time for
issuing its operations. Copying takes bytes ÷ bandwidth. A stage takes at least the longer of the two (the floor: all
copying hides behind compute), and their sum if nothing overlaps (the ceiling). Both are bounds within that model, not
predictions: kernels below their best throughput and time outside stages come on top, so a real run may lie above the
ceiling.

Memory is the weights that the plan has on the device, slots included, and the activations that the rehearsal recorded.
Torch's allocator holds more than that: its slack.

`link_ratio` is a card's ratio of copying to computing, for a machine that stands in for the card. A laptop that
computes 500 times slower must copy 500 times slower too, so that it waits where the card would wait.

    apply(pipeline, plan, link=link_ratio(card, rehearsal))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from reslab.profiler import gib
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import VaeTiling
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._predict._arguments import one_device, one_rehearsal
from reslab.residency._predict._memory import MemoryBounds, memory
from reslab.residency._predict._rehearsed import workload
from reslab.residency._predict._roofline import StageCompute, compute_by_stage, remembered, uncosted
from reslab.residency._predict._stage_bounds import StageBounds
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._schedule._footprint import ComponentBytes, footprint
from reslab.residency._units import LinkRatio
from reslab.stages.support import Compared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bounds(Compared):
    """The bounds of one plan on one device: time and memory.

    Attributes:
        rows: The stages in order.
        plan: The plan.
        device: The device.
        memory: The bytes needed in each memory, and whether it has them.
        uncosted: Operations for whose arithmetic the device has no known throughput.
    """

    rows: tuple[StageBounds, ...]
    plan: Plan
    device: DeviceSpec
    memory: MemoryBounds
    uncosted: pl.DataFrame

    @property
    def unknown(self) -> str:
        """Return a sentence that says why there are no times, or ""; times then raise `DeviceError`."""
        return next((row.unknown for row in self.rows if row.unknown), "")

    @property
    def floor_ns(self) -> int:
        """Return the least time of the run: in each stage all copying hides behind compute."""
        return sum(row.floor_ns for row in self.rows)

    @property
    def ceiling_ns(self) -> int:
        """Return the time of the run if nothing overlaps; kernels below their best throughput come on top."""
        return sum(row.ceiling_ns for row in self.rows)

    @property
    def compute_ns(self) -> int:
        """Return the time of the run without a copy: the floor of a plan with everything resident."""
        return sum(row.computing_ns for row in self.rows)

    @property
    def moved_bytes(self) -> int:
        """Return the bytes copied to the device in one run."""
        return sum(row.moved_bytes for row in self.rows)

    @property
    def copied_back_bytes(self) -> int:
        """Return the bytes copied from the device in one run."""
        return sum(row.copied_back_bytes for row in self.rows)

    @property
    def tightest(self) -> StageBounds:
        """Return the stage with the highest peak."""
        return max(self.rows, key=lambda row: row.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        """Return the most bytes on the device."""
        return self.tightest.peak_bytes

    @property
    def fits(self) -> bool:
        """Return whether device and host have the memory."""
        return self.memory.fits

    @property
    def why(self) -> str:
        """Return a sentence that says whether the plan fits, and where memory is tightest."""
        return self.memory.why

    def stages(self) -> pl.DataFrame:
        """Return a row a stage: the attributes of `StageBounds`, floor_ns, ceiling_ns, peak_bytes and limited_by."""
        from reslab.residency._predict._bounds_table import stages

        return stages(self.rows)

    def __repr__(self) -> str:
        known = "times not known" if self.unknown else f"{self.floor_ns / 1e9:.3g} to {self.ceiling_ns / 1e9:.3g} s"
        return (
            f"Bounds({self.plan.name!r} on {self.device.name}: {known}, {gib(self.moved_bytes)} moved, "
            f"peak {gib(self.peak_bytes)}, {'fits' if self.fits else 'does not fit'})"
        )

    def _repr_html_(self) -> str:
        from reslab.residency._predict._bounds_table import bounds_html

        title = f"{self.plan.name} on {self.device.name}"
        return bounds_html(self.rows, title=title, why=self.why, notes=self._notes())

    def _notes(self) -> Iterator[str]:
        """Yield sentences about the run: its time, the bytes it moves, and operations that the times leave out."""
        moved = f"{gib(self.moved_bytes)} moved to the device and {gib(self.copied_back_bytes)} back"
        if self.unknown:
            yield f"{moved}. No times: {self.unknown}."
        else:
            times = f"{self.floor_ns / 1e9:.3g} to {self.ceiling_ns / 1e9:.3g} s"
            yield f"The run takes {times}, with {moved}. Bounds, not predictions."
        for row in self.uncosted.cast({"op": pl.String, "dtype": pl.String}).rows(named=True):
            yield (
                f"These times leave out the arithmetic of {row['op']} in {row['dtype']}, {row['share']:.1%} of all "
                f"FLOPs: no throughput of {self.device.name} for it is known."
            )


def bounded(
    rehearsal: Rehearsal, plan: Plan, device: DeviceSpec, *, allocator_slack_bytes: int | None = None
) -> Bounds:
    """Return the bounds of a plan on a device; the public `bounds` takes names too."""
    lora, numerics = plan.lora, plan.numerics
    # a survey bounds many plans of one rehearsal, which share workload and compute
    work: Workload = remembered("workload", rehearsal, (lora, numerics), lambda: workload(rehearsal, plan))
    compute = compute_by_stage(rehearsal, device, lora, tiled=numerics.vae_tiling is VaeTiling.ON)
    account = footprint(plan, work)
    need, by_stage = memory(account, work, device, allocator_slack_bytes=allocator_slack_bytes), account.by_stage
    rows = (_stage(compute[stage], by_stage[stage], work, device, need) for stage in work.stages)
    return Bounds(rows=tuple(rows), plan=plan, device=device, memory=need, uncosted=uncosted(rehearsal, device))


def _stage(
    compute: StageCompute, placed: Sequence[ComponentBytes], work: Workload, device: DeviceSpec, need: MemoryBounds
) -> StageBounds:
    # in shared memory no weight moves, whatever the plan says
    moved = 0 if device.unified else sum(row.fetched_bytes for row in placed)
    back = 0 if device.unified else sum(row.copied_back_bytes for row in placed)
    copies = 0.0 if device.unified else sum(row.fetched_bytes * need.ns_per_byte[row.component] for row in placed)
    return StageBounds(
        **compute._asdict(),
        copy_ns=round(copies),
        back_ns=round(back / device.link_back_bytes_per_s * 1e9),
        moved_bytes=moved,
        copied_back_bytes=back,
        weight_bytes=need.weight_bytes[compute.registered_name],
        activation_bytes=work.activations.get(compute.registered_name, 0),
    )


def link_ratio(card: DeviceSpec | str, rehearsal: Rehearsal) -> LinkRatio:
    """Return a card's ratio of copying to computing in a rehearsed run, as if every call copied its weights.

    Times are those of `bounds`: the roofline for computing, and bytes over the link from pinned memory for copying.

    >>> import torch
    >>> from reslab.residency import device, rehearse
    >>> from reslab.stages import Pipeline, stage
    >>> pipeline = Pipeline({"model": torch.nn.Linear(64, 64, dtype=torch.bfloat16)}, result="y")
    >>> _ = pipeline.add(stage(lambda model, x: {"y": model(x)}), name="compute")
    >>> rehearsal = rehearse(pipeline, x=torch.ones(200_000, 64, dtype=torch.bfloat16))
    >>> [round(link_ratio(device(name), rehearsal).copy_s_per_compute_s, 4) for name in ("RTX 4090", "H100 SXM 80GB")]
    [0.0066, 0.0098]

    Args:
        card: The device, or its name; its link from pinned memory and its throughput count.
        rehearsal: The rehearsed run, at the size that the card would run.

    Raises:
        DeviceError: No throughput of the card is known for the type of a component.
    """
    card, rehearsal = one_device(card, "link ratios"), one_rehearsal(rehearsal, "link ratios")
    limits = bounded(rehearsal, Plan.of(), card)
    sizes = {row["component"]: row["weight_bytes"] + row["lora_bytes"] for row in rehearsal.components.rows(named=True)}
    copied = sum(sizes[component] for component in rehearsal.calls["component"])
    return LinkRatio(copy_s_per_compute_s=copied / card.link_bytes_per_s / (limits.compute_ns / 1e9))
