"""How a composition is set, apart from the request; recorded with every run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reslab.ltx2._variants import Guidance, Variant
from reslab.stages import Described, PipelineError

#: The constant shift of the reference's schedule: Lightricks/LTX-2, `ltx_core/components/schedulers.py`, `max_shift`.
REFERENCE_SHIFT = 2.05


class SigmaSchedule(Described):
    """How evenly spaced sigmas are shifted towards high noise."""

    DIFFUSERS = "diffusers", "The shift grows with the number of video tokens, as diffusers has it."
    REFERENCE = (
        "reference",
        "The shift is constant (2.05), as in Lightricks' one- and two-stage pipelines; it grows with the tokens in "
        "their HQ pipeline.",
    )


class DecodeAudio(Described):
    """Whose sound a two-stage video gets."""

    STAGE_1 = (
        "stage 1",
        "The sound that the first stage made: the second refines video only, as in ltx-pipelines 1.2.0, but not in its "
        "distilled pipeline.",
    )
    STAGE_2 = (
        "stage 2",
        "The sound as the second stage refined it, as in diffusers' two-call recipe and in ltx-pipelines 1.0.0.",
    )


class Tiling(Described):
    """When the video VAE decodes in tiles."""

    AUTO = "auto", "Above the variant's `tile_above_pixels`; below, as the VAE is set."
    ON = "on", "Always."
    OFF = "off", "As the VAE is set."


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a composition is set.

    Attributes:
        variant: The variant's name.
        stages: "one" or "two".
        video_guidance: Guidance of the video in the first stage; the second is unguided.
        audio_guidance: Guidance of the sound in the first stage.
        sigma_schedule: A `SigmaSchedule`.
        decode_audio: A `DecodeAudio`.
        tiling: A `Tiling`.
    """

    variant: str
    stages: str
    video_guidance: Guidance
    audio_guidance: Guidance
    sigma_schedule: SigmaSchedule
    decode_audio: DecodeAudio
    tiling: Tiling

    def recorded(self) -> dict[str, Any]:
        """The settings as plain data."""
        return asdict(self)


def settings_of(
    variant: Variant,
    *,
    stages: str,
    video_guidance: Guidance | None,
    audio_guidance: Guidance | None,
    sigma_schedule: str,
    tiling: str,
    decode_audio: str = DecodeAudio.STAGE_1,
) -> Settings:
    """Return the settings of a composition: what was given, else the variant's own.

    Raises:
        PipelineError: A setting is not one of those that there are.
    """
    return Settings(
        variant=variant.name,
        stages=stages,
        video_guidance=video_guidance or variant.video,
        audio_guidance=audio_guidance or variant.audio,
        sigma_schedule=choose(SigmaSchedule, "sigma_schedule", sigma_schedule),
        decode_audio=choose(DecodeAudio, "decode_audio", decode_audio),
        tiling=choose(Tiling, "tiling", tiling),
    )


def choose(kind: type[Described], argument: str, value: str) -> Any:
    """Return the member of `kind` that `value` names.

    >>> choose(Tiling, "tiling", "on").doc
    'Always.'

    Raises:
        PipelineError: There is none; it says what there is.
    """
    return kind.read(argument, value, error=PipelineError)
