"""The checks of the exercises in notebooks 01 and 04; each computes its truth from the packages."""

from __future__ import annotations

from collections import Counter
from types import EllipsisType

from reslab.ltx2._modes import device_mode, fits_resident
from reslab.ltx2._resident_fits import mode_bounds
from reslab.ltx2._shapes import VideoShape
from reslab.ltx2._variants import variant
from reslab.profiler.teaching import Verdict, check_choice, check_number
from reslab.residency import DeviceSpec, Rehearsal, bounds
from reslab.stages import Names, ProfileNames, profile_names


def forward_passes(answer: int | EllipsisType) -> Verdict:
    """Check how many forward passes of the transformer a released LTX-2.3 two-stage video takes.

    >>> forward_passes(123).right
    True
    """
    chosen = variant("LTX-2.3")
    passes, steps, refine = len(chosen.video.passes), chosen.num_inference_steps, len(chosen.stage_2_sigmas)
    return check_number(
        answer,
        truth=passes * steps + refine,
        what="the number of forward passes",
        why=f"{steps} steps of {passes} guidance passes, and {refine} unguided steps",
    )


def refine_tokens(answer: int | EllipsisType) -> Verdict:
    """Check how many video tokens the transformer reads while refining 1280×704 with 121 frames.

    >>> refine_tokens(14080).right
    True
    """
    shape = VideoShape.from_pixel_shape(width=1280, height=704, num_frames=121)
    return check_number(
        answer,
        truth=shape.token_count,
        what="the number of video tokens",
        why=f"{shape.frames} latent frames of {shape.height} × {shape.width}",
    )


def shared_row(answer: str | EllipsisType) -> Verdict:
    """Check which row the reference's rule gives two of: Decode; Decode as "Preview"; Preview as "p1".

    >>> shared_row("Preview").right
    True
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
    )


def snapshot_moves_more(answer: float | EllipsisType, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many GiB the snapshot mode copies to a card for one video beyond what original does.

    Args:
        answer: GiB, to one decimal, or `...`.
        rehearsal: Of a two-stage run with a LoRA.
        card: A device on which the transformer fits whole.
    """
    original, snapshot = mode_bounds(rehearsal, card, modes=("original", "snapshot"))["moved_gib"]
    return check_number(
        answer,
        truth=round(snapshot - original, 1),
        what="the size in GiB",
        why=f"{snapshot:.1f} and {original:.1f}: both transformers come once for every video",
    )


def fullest_stage(answer: str | EllipsisType, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check in which stage the original mode holds most of a card.

    Args:
        answer: A stage's name, or `...`.
        rehearsal: Of a two-stage run.
        card: The device.
    """
    limits = bounds(rehearsal, device_mode("original", rehearsal, device=card), card)
    peaks = limits.stages().select("stage", "peak_bytes").cast({"stage": str}).sort("peak_bytes", descending=True)
    stage, nbytes = peaks.row(0)
    return check_choice(
        answer,
        truth=stage,
        options=peaks["stage"].head(4).sort().to_list(),
        what="the stage that holds most",
        why=f"{nbytes / 2**30:.1f} GiB, the transformer that waits for its turn included",
    )


def free_for_resident(answer: float | EllipsisType, rehearsal: Rehearsal, card: DeviceSpec) -> Verdict:
    """Check how many GiB have to be free for the resident mode while the text encoder streams.

    Args:
        answer: GiB, to one decimal, or `...`.
        rehearsal: Of a two-stage run.
        card: Any device.
    """
    fit = fits_resident(rehearsal, card, settings={"text_encoder": "layerwise"})
    return check_number(
        answer,
        truth=round(fit.needed_bytes / 2**30, 1),
        what="the size in GiB",
        why="two transformers, all else but most of the text encoder, activations and the allocator's slack",
    )
