"""The checks of the exercises in notebook 08; each computes its truth from the rehearsal of what was run.

They are public as `reslab.residency.exercises`. Answers differ between the mid-size model and the full one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reslab.profiler import GIB
from reslab.profiler.teaching import Asked, Hints, Verdict, check_number
from reslab.residency._bounds._preset import preset
from reslab.residency._bounds._workload import workload
from reslab.residency._plan._footprint import footprint
from reslab.residency._plan._placement import swap
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal

_ASKED = Asked(unit="GiB", to=0.01)


def gib_with_kept(answer: Any, rehearsal: Rehearsal, *, kept: int) -> Verdict:
    """Check how many GiB a streaming run moves if some of the transformer's blocks stay on the device.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: Of a run of LTX-2.
        kept: Blocks that stay.
    """
    plan = preset("streaming", rehearsal, settings={"transformer.resident": kept})
    all_stream, truth = _moved_gib(preset("streaming", rehearsal), rehearsal), _moved_gib(plan, rehearsal)
    stay = kept * max(workload(rehearsal).components["transformer"].block_bytes) / GIB
    traps = {
        all_stream: "that is with none kept.",
        all_stream - truth: "that is what is saved; what is still moved?",
        truth - stay: "the blocks that stay have to come once, too.",
    }
    return check_number(
        answer,
        truth=truth,
        what="the size in GiB",
        why=f"{kept} blocks are fetched once and not in every pass; with none kept it is {all_stream:.2f}",
        asked=_ASKED,
        hints=Hints(traps=traps, section="section 3", beside={"with none kept": all_stream}),
    )


def gib_more_each_stage(answer: Any, rehearsal: Rehearsal) -> Verdict:
    """Check how many GiB more a swapping run moves if a component leaves after each stage, not after its last.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: Of a run of LTX-2.
    """
    last = preset("swap", rehearsal)
    each = last.decide(dict.fromkeys(workload(rehearsal).components, swap(until="each stage")), why="exercise")
    before, after = _moved_gib(last, rehearsal), _moved_gib(each, rehearsal)
    traps = {
        after: "that is what would be moved; how much more is it?",
        before: "that is what swapping moves as it is; how much more would it be?",
        2 * (after - before): "it comes twice, which is once more.",
    }
    return check_number(
        answer,
        truth=after - before,
        what="the size in GiB",
        why=f"{before:.2f} become {after:.2f}, since the transformer works in two stages and comes twice",
        asked=replace(_ASKED, rounded=(round(round(after, 2) - round(before, 2), 2),)),
        hints=Hints(traps=traps, section="section 3", beside={"swapping as it is": before}),
    )


def gib_of_prefetch(answer: Any, rehearsal: Rehearsal, *, prefetch: int) -> Verdict:
    """Check how many GiB of weights are on the device in denoising if blocks stream with a deeper prefetch.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: Of a run of LTX-2.
        prefetch: Blocks fetched ahead.
    """
    work = workload(rehearsal)
    held, one_ahead = _denoising_gib(work, prefetch), _denoising_gib(work, 1)
    block = max(work.components["transformer"].block_bytes) / GIB
    traps = {
        one_ahead: "that is with one block ahead.",
        held - block: "one slot more: while its block computes, all others are fetched ahead.",
        (prefetch + 1) * block: "that is the slots alone; what lies outside the blocks is there, too.",
    }
    return check_number(
        answer,
        truth=held,
        what="the size in GiB",
        why=f"{prefetch + 1} slots of {block:.3f}, and what lies outside the blocks",
        asked=_ASKED,
        hints=Hints(traps=traps, section="section 3", beside={"one block ahead": one_ahead}),
    )


def _denoising_gib(work: Workload, prefetch: int) -> float:
    plan = preset("streaming", work, settings={"transformer.prefetch": prefetch})
    return sum(row.device_bytes for row in footprint(plan, work) if row.stage == "LTX2AVDenoisingStage") / GIB


def _moved_gib(plan: Plan, rehearsal: Rehearsal) -> float:
    return sum(row.fetched_bytes for row in footprint(plan, workload(rehearsal))) / GIB
