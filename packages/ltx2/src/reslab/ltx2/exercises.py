"""Checks of the exercises in notebooks 01 and 04, whose right answers are computed by the packages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from reslab.ltx2._modes._device_modes import device_mode, fits_resident
from reslab.ltx2._modes._modes_on_cards import mode_bounds
from reslab.ltx2._shapes import VideoShape
from reslab.ltx2._variants import variant
from reslab.profiler import GIB
from reslab.profiler.teaching import Asked, Hints, Verdict, check_choice, check_number
from reslab.residency import ALLOCATOR_SLACK_BYTES, DeviceSpec, Plan, Rehearsal, bounds, workload
from reslab.stages import Names, ProfileNames, profile_names

__all__ = [
    "forward_passes",
    "free_for_resident",
    "fullest_stage",
    "refine_tokens",
    "shared_row",
    "snapshot_moves_more",
]

_ASKED = Asked(unit="GiB", to=0.1)
_DENOISE = "LTX2AVDenoisingStage"


def __dir__() -> list[str]:
    return __all__


def forward_passes(answer: Any) -> Verdict:
    """Check the number of forward passes of the transformer in a released LTX-2.3 two-stage video.

    >>> forward_passes(33)
    Verdict('not yet: the number of forward passes is not 33: one pass a step? Guidance makes more of them.')

    Args:
        answer: A number of passes, or `...`.
    """
    chosen = variant("LTX-2.3")
    passes, steps, refine = len(chosen.video.passes), chosen.num_inference_steps, len(chosen.stage_2_sigmas)
    traps = {
        steps + refine: "one pass a step? Guidance makes more of them.",
        passes * steps: "that is denoising; refining comes after it.",
        passes * (steps + refine): "refining is not guided.",
        steps: "that is the steps of denoising.",
        passes: "that is one step of denoising.",
    }
    return check_number(
        answer,
        truth=passes * steps + refine,
        what="the number of forward passes",
        why=f"{steps} steps of {passes} guidance passes, and {refine} unguided steps",
        asked=Asked(unit="passes"),
        hints=Hints(traps=traps, section="section 4", beside={"steps of denoising": steps}),
    )


def refine_tokens(answer: Any) -> Verdict:
    """Check the number of video tokens that the transformer reads while refining 1280×704 with 121 frames.

    >>> refine_tokens(3520)
    Verdict('not yet: the number of video tokens is not 3,520: that is half size; refining is at full size.')

    Args:
        answer: A number of tokens, or `...`.
    """
    shape = VideoShape.from_pixel_shape(width=1280, height=704, num_frames=121)
    known = VideoShape.from_pixel_shape(width=768, height=512, num_frames=121)
    rows = shape.height * shape.width
    traps = {
        shape.token_count // 4: "that is half size; refining is at full size.",
        (shape.frames - 1) * rows: "the first frame has tokens of its own.",
        121 * rows: "eight frames share their tokens.",
        rows: "that is one latent frame.",
        1280 * 704 * shape.frames: "a token stands for 32 × 32 pixels.",
    }
    return check_number(
        answer,
        truth=shape.token_count,
        what="the number of video tokens",
        why=f"{shape.frames} latent frames of {shape.height} × {shape.width}",
        asked=Asked(unit="tokens"),
        hints=Hints(traps=traps, section="section 4", beside={"768 × 512, 121 frames": known.token_count}),
    )


def shared_row(answer: Any) -> Verdict:
    """Check the profile row that the reference's rule gives to two of three stages.

    The stages are of class Decode, of class Decode registered as "Preview", and of class Preview registered as "p1".

    Args:
        answer: One of the three names, or `...`.
    """
    stages = [Names("Decode", "Decode"), Names("Preview", "Decode"), Names("p1", "Preview")]
    filed = Counter(profile_names(stages, ProfileNames.FIRST_KEEPS_CLASS))
    (shared,) = (name for name, count in filed.items() if count > 1)
    return check_choice(
        answer,
        truth=shared,
        options=["Decode", "Preview", "p1"],
        what="the shared row",
        why="the second Decode keeps its registered name, and the first Preview its class name: the same word",
        hints=Hints(traps=_SHARED, section="section 6"),
    )


_SHARED = {
    "Decode": "only the first Decode is filed under its class name; where is the second?",
    "p1": "a first stage of its class is filed under the class name, so nothing is filed there.",
}


def snapshot_moves_more(answer: Any, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many GiB more the snapshot mode copies to a card for one video than the original mode.

    Args:
        answer: GiB, to one decimal, or `...`.
        rehearsal: A rehearsal of a two-stage run with a LoRA.
        card: A device on which the transformer fits whole.
    """
    original, snapshot = mode_bounds(rehearsal, card, modes=("original", "snapshot"))["moved_gib"]
    transformer = _transformer_gib(rehearsal)
    traps = {
        transformer: "that is one transformer; what does snapshot bring for refining?",
        snapshot: "that is all that snapshot moves; how much more is it than original?",
        original: "that is what original moves; how much more is snapshot's?",
    }
    return check_number(
        answer,
        truth=snapshot - original,
        what="the size in GiB",
        why=f"{snapshot:.1f} and {original:.1f}: both transformers come once for every video",
        asked=replace(_ASKED, rounded=(round(round(snapshot, 1) - round(original, 1), 1),)),
        hints=Hints(traps=traps, section="section 1", beside={"original moves": original}),
    )


def fullest_stage(answer: Any, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check the stage in which the original mode holds most of a card's memory.

    Args:
        answer: A stage's name, or `...`.
        rehearsal: A rehearsal of a two-stage run.
        card: The device.
    """
    limits = bounds(rehearsal, device_mode("original", rehearsal, device=card), card)
    peaks = limits.stages().select("stage", "peak_bytes").cast({"stage": str}).sort("peak_bytes", descending=True)
    stage, nbytes = peaks.row(0)
    reason = "what computes most need not hold most; compare `peak_bytes`, also of stages before denoising."
    return check_choice(
        answer,
        truth=stage,
        options=sorted({*peaks["stage"].head(4), _DENOISE}),
        what="the stage that holds most",
        why=f"{nbytes / GIB:.1f} GiB, the transformer that waits for its turn included",
        hints=Hints(traps=dict.fromkeys(peaks["stage"], reason), section="section 1"),
    )


def free_for_resident(answer: Any, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many GiB must be free for the resident mode while the text encoder streams.

    Args:
        answer: GiB, to one decimal, or `...`.
        rehearsal: A rehearsal of a two-stage run.
        card: Any device.
    """
    fit = fits_resident(rehearsal, card, settings={"text_encoder": "layerwise"})
    transformers = 2 * _transformer_gib(rehearsal)
    traps = {
        fits_resident(rehearsal, card).needed_bytes / GIB: "that is with the text encoder on the device.",
        (fit.needed_bytes - ALLOCATOR_SLACK_BYTES) / GIB: "the allocator's slack is missing.",
        transformers: "that is the two transformers; activations and all else come on top.",
    }
    return check_number(
        answer,
        truth=fit.needed_bytes / GIB,
        what="the size in GiB",
        why="two transformers, all else but most of the text encoder, activations and the allocator's slack",
        asked=_ASKED,
        hints=Hints(traps=traps, section="section 8", beside={"the two transformers": transformers}),
    )


def _transformer_gib(rehearsal: Rehearsal) -> float:
    return workload(rehearsal, Plan.of({"lora": "merged"})).components["transformer"].weight_bytes / GIB
