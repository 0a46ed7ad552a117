"""The checks of the exercises in notebook 08; each computes its truth from the rehearsal of what was run.

They are public as `reslab.residency.exercises`. Answers differ between the mid-size model and the full one.
"""

from __future__ import annotations

from types import EllipsisType

from reslab.profiler.teaching import Verdict, check_number
from reslab.residency._bounds._preset import preset
from reslab.residency._bounds._workload import workload
from reslab.residency._plan._footprint import footprint
from reslab.residency._plan._placement import swap
from reslab.residency._plan._plan import Plan
from reslab.residency._rehearse._rehearsal import Rehearsal

_GIB = 2**30


def gib_with_kept(answer: float | EllipsisType, rehearsal: Rehearsal, *, kept: int) -> Verdict:
    """Check how many GiB a streaming run moves if some of the transformer's blocks stay on the device.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: Of a run of LTX-2.
        kept: Blocks that stay.
    """
    plan = preset("streaming", rehearsal, settings={"transformer.resident": kept})
    all_stream = _moved_gib(preset("streaming", rehearsal), rehearsal)
    return check_number(
        answer,
        truth=round(_moved_gib(plan, rehearsal), 2),
        what="the size in GiB",
        why=f"{kept} blocks are fetched once and not in every pass; with none kept it is {all_stream:.2f}",
    )


def gib_more_each_stage(answer: float | EllipsisType, rehearsal: Rehearsal) -> Verdict:
    """Check how many GiB more a swapping run moves if a component leaves after each stage, not after its last.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: Of a run of LTX-2.
    """
    last = preset("swap", rehearsal)
    each = last.decide(dict.fromkeys(workload(rehearsal).components, swap(until="each stage")), why="exercise")
    before, after = _moved_gib(last, rehearsal), _moved_gib(each, rehearsal)
    return check_number(
        answer,
        truth=round(after - before, 2),
        what="the size in GiB",
        why=f"{before:.2f} become {after:.2f}, since the transformer works in two stages and comes twice",
    )


def gib_of_prefetch(answer: float | EllipsisType, rehearsal: Rehearsal, *, prefetch: int) -> Verdict:
    """Check how many GiB of weights are on the device in denoising if blocks stream with a deeper prefetch.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: Of a run of LTX-2.
        prefetch: Blocks fetched ahead.
    """
    work = workload(rehearsal)
    plan = preset("streaming", work, settings={"transformer.prefetch": prefetch})
    held = sum(row.device_bytes for row in footprint(plan, work) if row.stage == "LTX2AVDenoisingStage")
    block = max(work.components["transformer"].block_bytes)
    return check_number(
        answer,
        truth=round(held / _GIB, 2),
        what="the size in GiB",
        why=f"{prefetch + 1} slots of {block / _GIB:.3f}, and what lies outside the blocks",
    )


def _moved_gib(plan: Plan, rehearsal: Rehearsal) -> float:
    return sum(row.fetched_bytes for row in footprint(plan, workload(rehearsal))) / _GIB
