"""The checks of the exercises in notebooks 00, 03, 05 and 08; each computes its truth with the packages."""

from __future__ import annotations

from types import EllipsisType

import polars as pl

from reslab.profiler.teaching import Verdict, check_number
from reslab.residency._bounds._preset import preset
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._footprint import footprint
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

_GIB = 2**30


def link_for_free(answer: float | EllipsisType, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many GB/s a card's link must carry for streaming to be free in the first stage, at the least.

    Args:
        answer: GB/s, a whole number, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
        card: Whose compute it is.
    """
    row = break_even([rehearsal], [card]).row(0, named=True)
    nbytes = row["copy_ns"] * card.link_bytes_per_s / 1e9
    return check_number(
        answer,
        truth=round(nbytes / row["compute_ns"]),
        what="the bandwidth in GB/s",
        why=f"{nbytes / 1e9:.1f} GB of blocks in the {row['compute_ns'] / 1e9:.3f} s that a pass computes at most",
    )


def blocks_for_free(answer: int | EllipsisType, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many blocks are sure to be enough on a card for streaming the others to be free in the first stage.

    Args:
        answer: A number of blocks, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
        card: The device.
    """
    row = break_even([rehearsal], [card]).row(0, named=True)
    compute, copy = row["fused_ns"] / 1e9, row["copy_ns"] / 1e9
    return check_number(
        answer,
        truth=row["fused_keep"],
        what="the number of blocks",
        why=f"a pass computes for {compute:.3f} s at least and all copies take {copy:.3f}: {row['blocks']} × "
        f"(1 - {compute:.3f} / {copy:.3f}), rounded up",
    )


def recipe_gib_encoding_once(answer: float | EllipsisType, rehearsal: Rehearsal) -> Verdict:
    """Check how many GiB diffusers' recipe would move to the card if it encoded the prompt once, the LoRA apart.

    Args:
        answer: GiB, a whole number, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
    """
    work = workload(rehearsal, Plan.of({"lora": "merged"}))
    rows = footprint(preset("diffusers model offload", work), work)
    transformer = work.components["transformer"].weight_bytes / _GIB
    return check_number(
        answer,
        truth=round(sum(row.fetched_bytes for row in rows) / _GIB),
        what="the size in GiB",
        why=f"everything once, and the transformer's {transformer:.1f} GiB a second time",
    )


def rule_misses_tflop(answer: float | EllipsisType, rehearsal: Rehearsal) -> Verdict:
    """Check by how many TFLOP the rule "2 FLOP a weight and token" is short of one refining pass, LoRA merged.

    Args:
        answer: TFLOP, a whole number, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
    """
    call = rehearsal.calls.filter(pl.col("merged_trace").is_not_null()).row(0, named=True)
    flops = _trace(rehearsal, call["merged_trace"])["flops"]
    rule = 2 * _parameters(rehearsal, "transformer") * video_tokens(call["shapes"])
    return check_number(
        answer,
        truth=round((flops - rule) / 1e12),
        what="the difference in TFLOP",
        why=f"{flops / 1e12:.0f} TFLOP are counted, and the rule says {rule / 1e12:.0f}",
    )


def activation_gib_at(answer: float | EllipsisType, rehearsal: Rehearsal, tokens: int) -> Verdict:
    """Check how many GiB of activations one pass needs at another number of video tokens, LoRA merged.

    Args:
        answer: GiB, to one decimal, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
        tokens: Video tokens of the other size.
    """
    per_token, (at, nbytes) = activation_slope(rehearsal)
    truth = nbytes + per_token * (tokens - at)
    return check_number(
        answer,
        truth=round(truth / _GIB, 1),
        what="the size in GiB",
        why=f"{nbytes / _GIB:.2f} GiB at {at} tokens, and {1000 * per_token / _GIB:.4f} for each 1000 more",
    )


def traced_blocks(answer: int | EllipsisType, rehearsal: Rehearsal) -> Verdict:
    """Check how many different pieces all calls of the transformer in denoising consist of.

    Args:
        answer: A number of bodies, or `...`.
        rehearsal: Of an LTX-2 two-stage run.
    """
    denoise = rehearsal.calls.filter(pl.col("component") == "transformer", pl.col("merged_trace").is_null())
    segments = denoise.join(rehearsal.segments, on="trace")
    return check_number(
        answer,
        truth=segments["body"].n_unique(),
        what="the number of pieces",
        why=f"{segments.height:,} are run in {denoise.height} calls",
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


def _trace(rehearsal: Rehearsal, trace: int) -> dict[str, int]:
    return rehearsal.traces.row(by_predicate=pl.col("trace") == trace, named=True)


def _parameters(rehearsal: Rehearsal, component: str) -> int:
    return int(rehearsal.components.row(by_predicate=pl.col("component") == component, named=True)["parameters"])
