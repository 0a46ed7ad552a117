"""LTX-2 as pipelines of named stages: `one_stage` and `two_stage`, from text or from an image, always with sound.

    pipe = two_stage(load("tiny", variant="LTX-2.3"))
    pipe.run(prompt="a heron over a weir", width=128, height=64, num_frames=9, seed=7).show()

`_groups` has the stages, which bear the reference's registered names; here are the components that they work with and
the settings that are recorded with every run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.guiders import LTX2Guidance
from diffusers.video_processor import VideoProcessor

from reslab.ltx2 import _groups, _lora
from reslab.ltx2._checkpoint import Checkpoint
from reslab.ltx2._elsewhere import set_elsewhere
from reslab.ltx2._settings import REFERENCE_SHIFT, DecodeAudio, Settings, SigmaSchedule, Tiling, settings_of
from reslab.ltx2._variants import Guidance
from reslab.stages import Pipeline, PipelineError


def one_stage(
    checkpoint: Checkpoint,
    *,
    video_guidance: Guidance | None = None,
    audio_guidance: Guidance | None = None,
    sigma_schedule: str = SigmaSchedule.DIFFUSERS,
    tiling: str = Tiling.AUTO,
) -> Pipeline:
    """Compose the one-stage pipeline: denoise at full size, then decode.

    >>> from reslab import ltx2
    >>> one_stage(ltx2.load("tiny", variant="LTX-2"))
    <Pipeline 'LTX-2, one stage': 9 stages, 11 components>

    Args:
        checkpoint: From `load`.
        video_guidance: Guidance of the video; by default the variant's.
        audio_guidance: Guidance of the sound; by default the variant's.
        sigma_schedule: "diffusers" or "reference"; see `SigmaSchedule`.
        tiling: "auto", "on" or "off"; see `Tiling`.

    Returns:
        A pipeline whose `run` returns a `Video` and takes `prompt` and, all optional, `negative_prompt`, `image` (the
        first frame), `image_strength`, `image_crf`, `width`, `height`, `num_frames`, `frame_rate`,
        `motion_speed`, `num_inference_steps`, `max_sequence_length`, and `seed` or `generator`. Guidance is set here,
        not in a run.

    Raises:
        PipelineError: A setting is not one of those named.
    """
    settings = settings_of(
        checkpoint.variant,
        stages="one",
        video_guidance=video_guidance,
        audio_guidance=audio_guidance,
        sigma_schedule=sigma_schedule,
        tiling=tiling,
    )
    return _composed(checkpoint, settings)


def two_stage(
    checkpoint: Checkpoint,
    *,
    video_guidance: Guidance | None = None,
    audio_guidance: Guidance | None = None,
    sigma_schedule: str = SigmaSchedule.DIFFUSERS,
    decode_audio: str = DecodeAudio.STAGE_2,
    tiling: str = Tiling.AUTO,
) -> Pipeline:
    """Compose the two-stage pipeline: denoise at half size, upsample ×2, refine at full size, then decode.

    For refining, the checkpoint's distilled LoRA is added to the transformer on the fly; a distilled variant needs
    none, so its pipeline has no switching stages.

    >>> from reslab import ltx2
    >>> two_stage(ltx2.load("tiny", variant="LTX-2.3"), decode_audio="stage 1")
    <Pipeline 'LTX-2.3, two stages': 15 stages, 15 components>

    Args:
        checkpoint: From `load`.
        video_guidance: Guidance of the video in the first stage; by default the variant's. Refining is unguided.
        audio_guidance: Guidance of the sound in the first stage; by default the variant's.
        sigma_schedule: "diffusers" or "reference"; see `SigmaSchedule`.
        decode_audio: "stage 2" or "stage 1"; see `DecodeAudio`.
        tiling: "auto", "on" or "off"; see `Tiling`.

    Returns:
        A pipeline whose `run` takes and returns what that of `one_stage` does.

    Raises:
        PipelineError: A setting is not one of those named, or the checkpoint lacks what two stages need.
        ValueError: The distilled LoRA fits no layer of the transformer.
    """
    _require_two_stages(checkpoint)
    settings = settings_of(
        checkpoint.variant,
        stages="two",
        video_guidance=video_guidance,
        audio_guidance=audio_guidance,
        sigma_schedule=sigma_schedule,
        decode_audio=decode_audio,
        tiling=tiling,
    )
    return _composed(checkpoint, settings)


def _require_two_stages(checkpoint: Checkpoint) -> None:
    lacking = [] if "latent_upsampler" in checkpoint.components else ["latent_upsampler"]
    if not checkpoint.variant.is_distilled and checkpoint.distilled_lora is None:
        lacking.append("lora")
    if lacking:
        raise PipelineError(
            f"two stages need what {checkpoint!r} was loaded without; load it again with "
            + " and ".join(f"{name}=…" for name in lacking)
            + ", or compose one_stage"
        )


def _composed(checkpoint: Checkpoint, settings: Settings) -> Pipeline:
    """Compose the pipeline that the settings describe."""
    two = settings.stages == "two"
    name = f"{checkpoint.variant.name}, {settings.stages} stage{'s' if two else ''}"
    pipe = Pipeline(_components(checkpoint, settings), name=name, result="video")
    pipe.settings = settings.recorded()
    pipe.set_elsewhere = set_elsewhere(checkpoint, settings.stages)
    _groups.add_prompt(pipe, checkpoint, stages=settings.stages)
    _groups.add_preparation(pipe, checkpoint, half=two)
    _groups.add_denoising(pipe, checkpoint, half=two)
    if two:
        _groups.add_refinement(pipe, checkpoint)
    _groups.add_decoding(pipe, checkpoint, settings)
    return pipe


def _components(checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """The checkpoint's components, and those made from configuration: schedulers of our own, guiders, a processor."""
    given = dict(checkpoint.components)
    schedule = given["scheduler"].config
    constant = {"base_shift": REFERENCE_SHIFT, "max_shift": REFERENCE_SHIFT}
    shift = constant if settings.sigma_schedule is SigmaSchedule.REFERENCE else {}
    made = {
        "scheduler": FlowMatchEulerDiscreteScheduler.from_config(schedule, **shift),
        "guider": _guider(settings.video_guidance, checkpoint.stg_blocks),
        "audio_guider": _guider(settings.audio_guidance, checkpoint.stg_blocks),
        "video_processor": VideoProcessor(vae_scale_factor=given["vae"].spatial_compression_ratio),
    }
    if settings.stages == "two":
        unshifted = {"use_dynamic_shifting": False, "shift_terminal": None}
        made["refine_scheduler"] = FlowMatchEulerDiscreteScheduler.from_config(schedule, **unshifted)
        made["refine_guider"], made["refine_audio_guider"] = _guider(Guidance(), ()), _guider(Guidance(), ())
        if checkpoint.distilled_lora is not None:
            _lora.add_lora(given["transformer"], checkpoint.distilled_lora)
    else:
        given.pop("latent_upsampler", None)
    return given | made


def _guider(guidance: Guidance, stg_blocks: tuple[int, ...]) -> LTX2Guidance:
    with _quiet(logging.getLogger("diffusers.guiders.guider_utils")):
        return LTX2Guidance(
            guidance_scale=guidance.cfg,
            stg_scale=guidance.stg,
            modality_scale=guidance.modality,
            guidance_rescale=guidance.rescale,
            spatio_temporal_guidance_blocks=list(stg_blocks),
        )


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep diffusers from warning that guiders are experimental, once for each of the four."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
