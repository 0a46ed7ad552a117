"""The settings of a pipeline, apart from the request; they are recorded with every run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reslab.ltx2._choices import DecodeAudio, DecodeTiling, SigmaSchedule, StageCount, choose
from reslab.ltx2._variants import Guidance, Variant

#: The constant shift of the reference's schedule: Lightricks/LTX-2, `ltx_core/components/schedulers.py`, `max_shift`.
REFERENCE_SHIFT = 2.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionSettings:
    """Hold the settings of one composed pipeline.

    Attributes:
        variant: The variant's name.
        stages: The number of denoising stages.
        video_guidance: Guidance of the video in the first stage; the second is unguided.
        audio_guidance: Guidance of the sound in the first stage.
        sigma_schedule: The shift of the first stage's sigmas.
        decode_audio: The stage whose sound is decoded.
        tiling: When the video VAE decodes in tiles.
    """

    variant: str
    stages: StageCount
    video_guidance: Guidance
    audio_guidance: Guidance
    sigma_schedule: SigmaSchedule
    decode_audio: DecodeAudio
    tiling: DecodeTiling

    def recorded(self) -> dict[str, Any]:
        """Return the settings as plain data."""
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
) -> CompositionSettings:
    """Return the settings of a pipeline: those given, else the variant's own.

    Raises:
        PipelineError: A setting has none of its choices.
    """
    return CompositionSettings(
        variant=variant.name,
        stages=StageCount(stages),
        video_guidance=video_guidance or variant.video,
        audio_guidance=audio_guidance or variant.audio,
        sigma_schedule=choose(SigmaSchedule, "sigma_schedule", sigma_schedule),
        decode_audio=choose(DecodeAudio, "decode_audio", decode_audio),
        tiling=choose(DecodeTiling, "tiling", tiling),
    )
