"""The checks of the exercises in notebooks 00, 03, 05 and 08; each computes its truth with the packages."""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler import GIB
from reslab.profiler.teaching import Asked, Hints, Verdict, check_number
from reslab.residency._bounds._preset import preset
from reslab.residency._bounds._roofline import block_times
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._footprint import footprint
from reslab.residency._plan._numerics import MERGED
from reslab.residency._plan._plan import Plan
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._report._break_even import break_even
from reslab.residency._slot_exercises import blocks_that_stay, copies_made, prefetch_of_leading
from reslab.residency._trial_exercises import gib_more_each_stage, gib_of_prefetch, gib_with_kept

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
        rehearsal: Of an LTX-2 two-stage run.
        card: Whose compute it is, operations one by one.
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
        rehearsal: Of an LTX-2 two-stage run.
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
        rehearsal: Of an LTX-2 two-stage run.
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
        rehearsal: Of an LTX-2 two-stage run.
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
        rehearsal: Of an LTX-2 two-stage run.
        tokens: Video tokens of the other size.
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
        answer: A number of bodies, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
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
    """Return bytes of activations a video token, between half size and full size, and tokens and bytes at full size."""
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
    """Return what the blocks compute in the transformer's first call, one by one and fused."""
    first = rehearsal.calls.filter(pl.col("component") == "transformer")["trace"][0]
    own = block_times(rehearsal, card).filter(pl.col("block") >= 0, pl.col("trace") == first)
    return int(own["device_ns"].sum()), int(own["fused_ns"].sum())


def _trace(rehearsal: Rehearsal, trace: int) -> dict[str, int]:
    return rehearsal.traces.row(by_predicate=pl.col("trace") == trace, named=True)


def _parameters(rehearsal: Rehearsal, component: str) -> int:
    return int(rehearsal.components.row(by_predicate=pl.col("component") == component, named=True)["parameters"])
