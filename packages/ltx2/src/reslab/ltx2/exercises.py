"""The checks of the exercises in notebook 01; each computes its truth from the packages."""

from __future__ import annotations

from collections import Counter
from types import EllipsisType

from reslab.ltx2._shapes import VideoShape
from reslab.ltx2._variants import variant
from reslab.profiler.teaching import Verdict, check_choice, check_number
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
