"""Checks of the exercises in notebooks 00, 03, 05 and 08: each computes the true answer with the packages.

    exercises.blocks_for_free(..., rehearsal, card)        # `...` asks for the hint
    exercises.blocks_for_free(31, rehearsal, card)         # right or wrong, with the reason

The checks of notebook 03 read their answers from the order of moves on two lanes, those of the other notebooks from a
rehearsal. In notebook 08 answers differ between the mid-size model and the full one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from typing import Any

import polars as pl

from reslab.profiler import GIB
from reslab.profiler.teaching import Asked, Hints, Verdict, check_number
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import MERGED
from reslab.residency._plan._placement import layerwise, swap
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload, uniform_workload
from reslab.residency._predict._break_even import break_even
from reslab.residency._predict._preset import preset
from reslab.residency._predict._rehearsed import workload
from reslab.residency._predict._roofline import block_times
from reslab.residency._predict._slot_times import pass_time
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._schedule._footprint import footprint
from reslab.residency._schedule._schedule import schedule

__all__ = [
    "activation_gib_at",
    "activation_slope",
    "blocks_for_free",
    "blocks_that_stay",
    "copies_made",
    "gib_more_each_stage",
    "gib_of_prefetch",
    "gib_with_kept",
    "link_for_free",
    "prefetch_of_leading",
    "recipe_gib_encoding_once",
    "rule_misses_tflop",
    "traced_blocks",
    "video_tokens",
]


def __dir__() -> list[str]:
    return __all__


def link_for_free(answer: Any, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many GB/s a card's link must carry to hide all blocks, without the LoRA, in a pass with the prompt.

    Args:
        answer: GB/s, a whole number, or `...`.
        rehearsal: A rehearsed two-stage run of LTX-2.
        card: The card, which computes operations one by one.
    """
    merged, dynamic = (break_even([rehearsal], [card], lora=lora).row(0, named=True) for lora in ("merged", "dynamic"))
    link = card.link_bytes_per_s / 1e9
    nbytes, with_lora = merged["copy_ns"] * link, dynamic["copy_ns"] * link
    compute, fused = _first_pass_ns(rehearsal, card)
    traps = {
        nbytes / fused: "that is by the dotted line; operations run one by one.",
        link: "that is what the link carries now; how long do the copies take on it?",
        nbytes / compute / merged["blocks"]: "that is for one block; all of them come in each pass.",
        with_lora / compute: "that is with the LoRA's share of each block.",
        nbytes / merged["compute_ns"]: "that is for the mean of all kinds of pass; take the one with the prompt.",
        with_lora / dynamic["compute_ns"]: "that is with the LoRA, and for the mean of all kinds of pass.",
    }
    return check_number(
        answer,
        truth=nbytes / compute,
        what="the bandwidth in GB/s",
        why=f"{nbytes / 1e9:.1f} GB of blocks in the {compute / 1e9:.3f} s that they compute",
        asked=Asked(unit="GB/s", to=1),
        hints=Hints(traps=traps, section="section 1", beside={"the link as it is": link}),
    )


def blocks_for_free(answer: Any, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many blocks, without the LoRA, are sure to be enough for streaming the others to be free in denoising.

    Args:
        answer: A number of blocks, or `...`.
        rehearsal: A rehearsed two-stage run of LTX-2.
        card: The device.
    """
    row = break_even([rehearsal], [card], lora="merged").row(0, named=True)
    with_lora = break_even([rehearsal], [card]).row(0, named=True)["fused_keep"]
    compute, copy = row["fused_ns"] / 1e9, row["copy_ns"] / 1e9
    traps = {
        row["keep"]: "by the solid line that is enough; to be sure, go by the dotted one (`fused_keep`).",
        row["blocks"] - row["fused_keep"]: "that many may stream; how many stay?",
        row["fused_keep"] - 1: "with that many the copies still take a little longer than the computing; round up.",
        with_lora: 'that is with the LoRA; leave it out (`lora="merged"`).',
        row["blocks"]: "then nothing streams; fewer are enough.",
    }
    return check_number(
        answer,
        truth=row["fused_keep"],
        what="the number of blocks",
        why=f"a pass computes for {compute:.3f} s, small operations fused away, and all copies take {copy:.3f}: "
        f"{row['blocks']} × (1 - {compute:.3f} / {copy:.3f}), rounded up",
        asked=Asked(unit="blocks"),
        hints=Hints(traps=traps, section="section 2", beside={"all blocks": row["blocks"]}),
    )


def recipe_gib_encoding_once(answer: Any, rehearsal: Rehearsal) -> Verdict:
    """Check how many GiB diffusers' recipe would move to the card if it encoded the prompt once, the LoRA apart.

    Args:
        answer: GiB, a whole number, or `...`.
        rehearsal: A rehearsed two-stage run of LTX-2.
    """
    work = workload(rehearsal, Plan.of({"lora": "merged"}))
    rows = footprint(preset("diffusers model offload", work), work)
    size = {name: each.weight_bytes / GIB for name, each in work.components.items() if not name.endswith(MERGED)}
    once, truth = sum(size.values()), sum(row.fetched_bytes for row in rows) / GIB
    twice = truth + size["text_encoder"] + size["connectors"]
    traps = {
        once: "the transformer comes a second time: between its two turns another component was on the card.",
        twice: "that is the recipe as it is; what would come once instead of twice?",
        twice - size["text_encoder"]: "the connectors work on the prompt, too: they would also come once.",
        once - size["text_encoder"] - size["connectors"]: "the text encoder and the connectors do come, once.",
        truth - size["transformer"] - size["text_encoder"]: "the text encoder comes once, and the transformer twice.",
        2 * once: "not everything comes twice.",
    }
    return check_number(
        answer,
        truth=truth,
        what="the size in GiB",
        why=f"everything once, {once:.1f}, and the transformer's {size['transformer']:.1f} GiB a second time",
        asked=Asked(unit="GiB", to=1),
        hints=Hints(traps=traps, section="section 4", beside={"the recipe as it is": twice}),
    )


def rule_misses_tflop(answer: Any, rehearsal: Rehearsal) -> Verdict:
    """Check by how many TFLOP the rule "2 FLOP a weight and token" is short of one refining pass, LoRA merged.

    Args:
        answer: TFLOP, a whole number, or `...`.
        rehearsal: A rehearsed two-stage run of LTX-2.
    """
    call = rehearsal.calls.filter(pl.col("merged_trace").is_not_null()).row(0, named=True)
    flops, dynamic = (_trace(rehearsal, call[trace])["flops"] / 1e12 for trace in ("merged_trace", "trace"))
    rule = 2 * _parameters(rehearsal, "transformer") * video_tokens(call["shapes"]) / 1e12
    traps = {
        dynamic - rule: "that is with the LoRA added on the fly; take the trace whose `lora` is `merged`.",
        rule - flops: "that is the rule less the count; how much is the rule short of the count?",
        flops: "that is what is counted; what does the rule say?",
        rule: "that is what the rule says; what is counted?",
        flops - rule / 2: "the rule has two FLOP a weight and token: a product and a sum.",
    }
    return check_number(
        answer,
        truth=flops - rule,
        what="the difference in TFLOP",
        why=f"{flops:.1f} TFLOP are counted, and the rule says {rule:.1f}",
        asked=Asked(unit="TFLOP", to=1, rounded=(round(flops) - round(rule),)),
        hints=Hints(traps=traps, section="section 3", beside={"the rule": rule}),
    )


def activation_gib_at(answer: Any, rehearsal: Rehearsal, tokens: int) -> Verdict:
    """Check how many GiB of activations one pass needs at another number of video tokens, LoRA merged.

    Args:
        answer: GiB, to one decimal, or `...`.
        rehearsal: A rehearsed two-stage run of LTX-2.
        tokens: The number of video tokens at the other size.
    """
    per_token, (at, nbytes) = activation_slope(rehearsal)
    known, slope = nbytes / GIB, per_token / GIB
    traps = {
        known: f"that is at {at:,} tokens.",
        known + slope * tokens: f"{at:,} tokens are in the first part already; how many more are there?",
        slope * (tokens - at): f"that is what is added to the activations at {at:,} tokens.",
        known * (tokens / at) ** 2: "attention's arithmetic grows with the square of the tokens, activations do not.",
    }
    return check_number(
        answer,
        truth=known + slope * (tokens - at),
        what="the size in GiB",
        why=f"{known:.2f} GiB at {at} tokens, and {1000 * slope:.4f} for each 1000 more",
        asked=Asked(unit="GiB", to=0.1),
        hints=Hints(traps=traps, section="section 6", beside={f"at {at:,} tokens": known}),
    )


def traced_blocks(answer: Any, rehearsal: Rehearsal) -> Verdict:
    """Check how many different pieces all calls of the transformer in denoising consist of.

    Args:
        answer: A number of pieces, or `...`.
        rehearsal: A rehearsed two-stage run of LTX-2.
    """
    denoise = rehearsal.calls.filter(pl.col("component") == "transformer", pl.col("merged_trace").is_null())
    segments = denoise.join(rehearsal.segments, on="trace")
    each = rehearsal.segments.filter(pl.col("trace").is_in(denoise["trace"].unique().implode()))
    each = each.group_by("trace").agg(pl.len(), pl.col("body").n_unique())
    traps = {
        each["body"].min(): "that is one kind of pass; the others have pieces that it has not.",
        each["body"].max(): "that is the pass with the perturbed block; the others have pieces that it has not.",
        each["body"].sum(): "pieces of different kinds of pass may be the same piece; count each once.",
        each["len"].max(): "that is how many pieces one pass runs through; how many of them differ?",
        segments.height: "that is how many are run; how many differ?",
        segments["trace"].n_unique(): "that is the number of traces; how many pieces do they have?",
    }
    return check_number(
        answer,
        truth=segments["body"].n_unique(),
        what="the number of pieces",
        why=f"{segments.height:,} are run in {denoise.height} calls",
        asked=Asked(unit="pieces"),
        hints=Hints(
            traps=traps, section="section 4", beside={"run through in one pass": int(each["len"].to_list()[0])}
        ),
    )


def activation_slope(rehearsal: Rehearsal) -> tuple[float, tuple[int, int]]:
    """Return activation bytes per video token, from half to full size, then tokens and bytes at full size."""
    calls = rehearsal.calls.filter(pl.col("component") == "transformer")
    points = []
    for call in (calls.row(0, named=True), calls.row(-1, named=True)):
        trace = call["trace"] if call["merged_trace"] is None else call["merged_trace"]
        points.append((video_tokens(call["shapes"]), int(_trace(rehearsal, trace)["activation_peak_bytes"])))
    (few, less), (many, more) = points
    return (more - less) / (many - few), (many, more)


def video_tokens(shapes: str) -> int:
    """Return the video tokens of a transformer's call, from the shape of its first argument.

    >>> video_tokens("hidden_states 1×6144×128, audio_hidden_states 1×126×128")
    6144
    """
    return int(shapes.split("×")[1])


def _first_pass_ns(rehearsal: Rehearsal, card: DeviceSpec) -> tuple[int, int]:
    """Return the compute of the blocks in the transformer's first call, one by one and fused."""
    first = rehearsal.calls.filter(pl.col("component") == "transformer")["trace"][0]
    own = block_times(rehearsal, card).filter(pl.col("block") >= 0, pl.col("trace") == first)
    return int(own["device_ns"].sum()), int(own["fused_ns"].sum())


def _trace(rehearsal: Rehearsal, trace: int) -> dict[str, int]:
    return rehearsal.traces.row(by_predicate=pl.col("trace") == trace, named=True)


def _parameters(rehearsal: Rehearsal, component: str) -> int:
    return int(rehearsal.components.row(by_predicate=pl.col("component") == component, named=True)["parameters"])


def blocks_that_stay(answer: Any, *, blocks: int, copy: float) -> Verdict:
    """Check how many strided blocks have to stay, with prefetch 1, so that no pass but the first waits for a copy.

    Args:
        answer: A number of blocks, or `...`.
        blocks: The number of blocks of the model.
        copy: The time to copy a block, as a multiple of the time to compute it.
    """
    by_bytes = math.ceil(blocks * (1 - 1 / copy)) if copy > 1 else 0
    enough = (
        kept for kept in count(by_bytes) if _is_free(Plan.of({"transformer": layerwise(resident=kept)}), blocks, copy)
    )
    truth = next(enough)
    traps = {
        by_bytes: "by the bytes that is enough; is it for each gap between two blocks that stream?",
        blocks - truth: "that many may stream; how many stay?",
        blocks: "then nothing streams; fewer are enough.",
    }
    return check_number(
        answer,
        truth=truth,
        what="the number of blocks",
        why=f"copying the other {blocks - truth} takes {(blocks - truth) * copy:g}, computing all takes {blocks}, "
        "and between two that stream enough others compute",
        asked=Asked(unit="blocks"),
        hints=Hints(traps=traps, section="sections 4 and 5", beside={"by the bytes alone": by_bytes, "all": blocks}),
    )


def copies_made(answer: Any, *, blocks: int, slots: int, passes: int) -> Verdict:
    """Check how many copies a run makes where all blocks stream through some slots.

    Args:
        answer: A number of copies, or `...`.
        blocks: The number of blocks of the model.
        slots: The number of slots, the one that computes included.
        passes: The number of calls of the model.
    """
    plan = Plan.of({"transformer": layerwise(prefetch=slots - 1)})
    work = uniform_workload(blocks, passes=passes)
    traps = {
        blocks: "that is one pass; what is still there when the next one begins?",
        blocks
        + (passes - 1) * max(blocks - slots, 0): "the blocks that stay in their slots are not those needed next.",
        slots * passes: "each pass needs every block.",
        blocks * (passes - 1): "the first pass needs its copies, too.",
    }
    return check_number(
        answer,
        truth=schedule(plan, work).moved_bytes(),  # a byte a block
        what="the number of copies",
        why="in a circle, the block that was used longest ago is the next to be needed"
        if slots < blocks
        else "all blocks fit, so each is copied once",
        asked=Asked(unit="copies"),
        hints=Hints(traps=traps, section="section 4", beside={"blocks": blocks, "slots": slots}),
    )


def prefetch_of_leading(answer: Any, *, blocks: int, resident: int, copy: float) -> Verdict:
    """Check how deep the prefetch has to be so that leading resident blocks never wait, the first pass apart.

    Args:
        answer: A number of blocks fetched ahead, or `...`.
        blocks: The number of blocks of the model.
        resident: The number of leading blocks that are resident.
        copy: The time to copy a block, as a multiple of the time to compute it.
    """
    plans = (Plan.of({"transformer": layerwise(resident=resident, layout="leading", prefetch=n)}) for n in count())
    truth = next(depth for depth, plan in enumerate(plans) if _is_free(plan, blocks, copy))
    traps = {
        truth + 1: "that may be the number of slots: one of them computes, the others are fetched ahead.",
        1: "that is the prefetch in the picture, and the blocks that stream wait there.",
        blocks - resident: "then each has a slot of its own; is that needed?",
        truth - 1: "with that some block still comes too late.",
    }
    return check_number(
        answer,
        truth=truth,
        what="the prefetch",
        why=f"{resident} blocks and {truth + 1} slots: memory for {resident + truth + 1} blocks",
        asked=Asked(unit="blocks"),
        hints=Hints(traps=traps, section="section 5", beside={"blocks that stay": resident}),
    )


def _is_free(plan: Plan, blocks: int, copy: float) -> bool:
    return pass_time(plan, blocks=blocks, copy=copy) < 1 + 1e-9


_ASKED = Asked(unit="GiB", to=0.01)


def gib_with_kept(answer: Any, rehearsal: Rehearsal, *, kept: int) -> Verdict:
    """Check how many GiB a streaming run moves if some of the transformer's blocks stay on the device.

    Args:
        answer: GiB, to two decimals, or `...`.
        rehearsal: A rehearsed run of LTX-2.
        kept: The number of resident blocks.
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
        rehearsal: A rehearsed run of LTX-2.
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
        rehearsal: A rehearsed run of LTX-2.
        prefetch: The number of blocks fetched ahead.
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
