"""Settings with a few named choices: each choice is a member of an enum and carries the sentence that explains it.

Functions of this package take the choices as strings. A member is a string too, so that both are equal:

    device_mode("snapshot", rehearsal)          # the same as DeviceMode.SNAPSHOT
    DeviceMode.SNAPSHOT.doc                     # "A merged copy waits in host memory, and is swapped in for refining."
"""

from __future__ import annotations

from typing import Any, TypeVar

from reslab.stages import PipelineError
from reslab.stages.support import Described, nearest

Chosen = TypeVar("Chosen", bound=Described)


class DeviceMode(Described):
    """Where the transformer with the distilled LoRA comes from for refining, and what stays on the device.

    >>> for mode in DeviceMode:
    ...     print(f"{mode}: {mode.doc}")
    original: One transformer; for refining, the LoRA is added on the fly.
    snapshot: A merged copy waits in host memory, and is swapped in for refining.
    resident: Two transformers on the device, and everything else too, unless the user placed it.
    auto: Resident where it fits, else snapshot, else original.
    """

    ORIGINAL = "original", "One transformer; for refining, the LoRA is added on the fly."
    SNAPSHOT = "snapshot", "A merged copy waits in host memory, and is swapped in for refining."
    RESIDENT = "resident", "Two transformers on the device, and everything else too, unless the user placed it."
    AUTO = "auto", "Resident where it fits, else snapshot, else original."


class StageCount(Described):
    """How many denoising stages a pipeline has."""

    ONE = "one", "Denoise at full size."
    TWO = "two", "Denoise at half size, upsample, and refine at full size."


class SigmaSchedule(Described):
    """How evenly spaced sigmas are shifted towards high noise."""

    DIFFUSERS = "diffusers", "The shift grows with the number of video tokens, as diffusers has it."
    REFERENCE = (
        "reference",
        "The shift is constant (2.05), as in Lightricks' one- and two-stage pipelines; it grows with the tokens in "
        "their HQ pipeline.",
    )


class DecodeAudio(Described):
    """Which denoising stage's sound a two-stage video gets."""

    STAGE_1 = (
        "stage 1",
        "The sound of the first stage: the second refines video alone, as in ltx-pipelines 1.2.0 except for its "
        "distilled pipeline.",
    )
    STAGE_2 = (
        "stage 2",
        "The sound as the second stage refined it, as in diffusers' two-call recipe and in ltx-pipelines 1.0.0.",
    )


class DecodeTiling(Described):
    """When the video VAE decodes in tiles."""

    AUTO = "auto", "Above the variant's `tile_above_pixels`; below, as the VAE is set."
    ON = "on", "Always."
    OFF = "off", "As the VAE is set."


def choose(kind: type[Chosen], name: str, value: Any, *, error: type[ValueError] = PipelineError) -> Chosen:
    """Return the member of an enum that a value names.

    >>> choose(DecodeTiling, "tiling", "on").doc
    'Always.'
    >>> choose(DeviceMode, "device mode", "snapshoot")
    Traceback (most recent call last):
    reslab.stages._names.PipelineError: there is no device mode 'snapshoot'; did you mean 'snapshot'?

    Args:
        kind: The enum.
        name: The setting's name in the error.
        value: The value to look up.
        error: The class of the error.

    Raises:
        ValueError: No member has this value; the message names the nearest member, or all of them.
    """
    if value not in list(kind):
        text = value if isinstance(value, str) else ""  # no name is near a value that is no text
        raise error(f"there is no {name} {value!r}; {nearest(text, map(str, kind))}")
    return kind(value)
