"""LTX-2 as pipelines of named stages: `one_stage` and `two_stage`, from text or from an image, always with sound.

    pipe = two_stage(load("tiny", variant="LTX-2.3"))
    pipe.run(prompt="a heron over a weir", width=128, height=64, num_frames=9, seed=7).show()

A pipeline has the checkpoint's components and those made here from configuration (schedulers, guiders, a video
processor), its settings, which are recorded with every run, and the stages of `_stage_groups`, in the reference's order
and under its registered names.

A keyword of diffusers' LTX-2 pipelines that a run here does not take is refused with the place where it is set:

    pipe.run(prompt="a heron", guidance_scale=3.0)
    # guidance is set when the pipeline is made: two_stage(checkpoint, video_guidance=Guidance(cfg=3.0))

Otherwise the error would suggest the most similar keyword, and the one most similar to `guidance_scale` sets the noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.guiders import LTX2Guidance
from diffusers.video_processor import VideoProcessor

from reslab.ltx2._checkpoint import _lora
from reslab.ltx2._checkpoint._checkpoint import Checkpoint
from reslab.ltx2._choices import DecodeAudio, DecodeTiling, SigmaSchedule
from reslab.ltx2._pipeline import _stage_groups
from reslab.ltx2._pipeline._composition_settings import REFERENCE_SHIFT, CompositionSettings, settings_of
from reslab.ltx2._variants import Guidance
from reslab.stages import Pipeline, PipelineError


def one_stage(
    checkpoint: Checkpoint,
    *,
    video_guidance: Guidance | None = None,
    audio_guidance: Guidance | None = None,
    sigma_schedule: str = SigmaSchedule.DIFFUSERS,
    tiling: str = DecodeTiling.AUTO,
) -> Pipeline:
    """Compose the one-stage pipeline: denoise at full size, then decode.

    >>> from reslab import ltx2
    >>> one_stage(ltx2.load("tiny", variant="LTX-2"))
    <Pipeline 'LTX-2, one stage': 9 stages, 11 components>

    Args:
        checkpoint: The checkpoint, from `load` or `blank`.
        video_guidance: Guidance of the video; by default the variant's.
        audio_guidance: Guidance of the sound; by default the variant's.
        sigma_schedule: "diffusers" or "reference"; see `SigmaSchedule`.
        tiling: "auto", "on" or "off"; see `DecodeTiling`.

    Returns:
        A pipeline whose `run` returns a `Video` and takes `prompt` and, all optional, `negative_prompt`, `image` (the
        first frame), `image_strength`, `image_crf`, `width`, `height`, `num_frames`, `frame_rate`,
        `motion_speed`, `num_inference_steps`, `max_sequence_length`, and `seed` or `generator`. Guidance is an argument
        of this function, not of `run`.

    Raises:
        PipelineError: A setting has none of its choices.
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
    tiling: str = DecodeTiling.AUTO,
) -> Pipeline:
    """Compose the two-stage pipeline: denoise at half size, upsample ×2, refine at full size, then decode.

    For refining, the checkpoint's distilled LoRA is added to the transformer on the fly; a distilled variant needs
    none, so its pipeline has no switching stages.

    >>> from reslab import ltx2
    >>> two_stage(ltx2.load("tiny", variant="LTX-2.3"), decode_audio="stage 1")
    <Pipeline 'LTX-2.3, two stages': 15 stages, 15 components>

    Args:
        checkpoint: The checkpoint, from `load` or `blank`.
        video_guidance: Guidance of the video in the first stage; by default the variant's. Refining is unguided.
        audio_guidance: Guidance of the sound in the first stage; by default the variant's.
        sigma_schedule: "diffusers" or "reference"; see `SigmaSchedule`.
        decode_audio: "stage 2" or "stage 1"; see `DecodeAudio`.
        tiling: "auto", "on" or "off"; see `DecodeTiling`.

    Returns:
        A pipeline whose `run` has the arguments and the result of `one_stage`'s.

    Raises:
        PipelineError: A setting has none of its choices, or the checkpoint lacks the upsampler or the LoRA.
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


def _composed(checkpoint: Checkpoint, settings: CompositionSettings) -> Pipeline:
    """Compose the pipeline that the settings describe."""
    two = settings.stages == "two"
    name = f"{checkpoint.variant.name}, {settings.stages} stage{'s' if two else ''}"
    pipe = Pipeline(_components(checkpoint, settings), name=name, result="video")
    pipe.settings = settings.recorded()
    pipe.set_elsewhere = set_elsewhere(checkpoint, settings.stages)
    _stage_groups.add_prompt(pipe, checkpoint, stages=settings.stages)
    _stage_groups.add_preparation(pipe, checkpoint, half=two)
    _stage_groups.add_denoising(pipe, checkpoint, half=two)
    if two:
        _stage_groups.add_refinement(pipe, checkpoint)
    _stage_groups.add_decoding(pipe, checkpoint, settings)
    return pipe


def _components(checkpoint: Checkpoint, settings: CompositionSettings) -> dict[str, Any]:
    """Return the checkpoint's components and those made from configuration: schedulers, guiders, a video processor."""
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
    """Silence diffusers' warning that guiders are experimental, which would come once for each of the four."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


#: diffusers' keyword → the modality that it guides, the field of `Guidance`, and a usual strength.
_GUIDANCE = {
    "guidance_scale": ("video", "cfg", 3.0),
    "true_cfg_scale": ("video", "cfg", 3.0),
    "cfg_scale": ("video", "cfg", 3.0),
    "stg_scale": ("video", "stg", 1.0),
    "modality_scale": ("video", "modality", 3.0),
    "guidance_rescale": ("video", "rescale", 0.7),
    "audio_guidance_scale": ("audio", "cfg", 7.0),
    "audio_stg_scale": ("audio", "stg", 1.0),
    "audio_modality_scale": ("audio", "modality", 3.0),
    "audio_guidance_rescale": ("audio", "rescale", 0.7),
}
_ENHANCED = "prompts are not rewritten by a language model here; write out what the video should show as prompt="
_NOISE = "a run starts from noise; seed= or generator= says which"
_EMBEDDED = "the prompt is encoded in the run; give it as prompt= and negative_prompt="
_CONDITIONED = "the first frame is given as image=, and no other frame or video can be given"
_RETURNED = "a run returns a Video; its frames are result.frames, its sound result.audio, and result.save writes an mp4"
_OBSERVED = "steps are reported to an observer; pipeline.observe(observer) adds one"
_LENGTH = "the length is num_frames / frame_rate; give num_frames="
_DECODER = "the video decoders of LTX-2 take no timestep and add no noise"

_PLACES = {
    "latents": _NOISE,
    "audio_latents": _NOISE,
    "prompt_embeds": _EMBEDDED,
    "prompt_attention_mask": _EMBEDDED,
    "negative_prompt_embeds": _EMBEDDED,
    "negative_prompt_attention_mask": _EMBEDDED,
    "conditions": _CONDITIONED,
    "num_videos_per_prompt": "a run makes one video; run the pipeline once for each, with a seed of its own",
    "decode_timestep": _DECODER,
    "decode_noise_scale": _DECODER,
    "system_prompt": _ENHANCED,
    "enable_prompt_enhancement": _ENHANCED,
    "prompt_max_new_tokens": _ENHANCED,
    "prompt_enhancement_kwargs": _ENHANCED,
    "prompt_enhancement_seed": _ENHANCED,
    "output_type": _RETURNED,
    "return_dict": _RETURNED,
    "callback_on_step_end": _OBSERVED,
    "callback_on_step_end_tensor_inputs": _OBSERVED,
    "min_seconds": _LENGTH,
    "max_seconds": _LENGTH,
    "fps": "frames a second are given as frame_rate=",
}


def set_elsewhere(checkpoint: Checkpoint, stages: str) -> dict[str, str]:
    """Return, for each of diffusers' keywords, the sentence that says where a pipeline here sets it."""
    made = f"{stages}_stage(checkpoint, "
    said = {
        name: f"guidance is set when the pipeline is made: {made}{side}_guidance=Guidance({field}={strength}))"
        for name, (side, field, strength) in _GUIDANCE.items()
    }
    return {name: f"{name!r}: {sentence}" for name, sentence in said.items()} | {
        name: f"{name!r} would be ignored: {sentence}" for name, sentence in (_PLACES | _own(checkpoint, made)).items()
    }


def _own(checkpoint: Checkpoint, made: str) -> dict[str, str]:
    """Return the sentences that depend on the variant, by keyword."""
    variant, blocks = checkpoint.variant, list(checkpoint.stg_blocks)
    which = f"those of {variant.name} are {blocks}" if blocks else f"{variant.name} names none"
    sigmas = (
        f"{variant.name} has {len(variant.sigmas)} fixed sigmas"
        if variant.sigmas
        else f'they follow from num_inference_steps=; a constant shift is {made}sigma_schedule="reference")'
    )
    replaced = f"dataclasses.replace(checkpoint.variant, use_cross_timestep={not variant.use_cross_timestep})"
    return {
        "sigmas": sigmas,
        "timesteps": sigmas,
        "noise_scale": f"refining starts from {variant.name}'s own, {variant.noise_scale}, denoising from noise alone",
        "spatio_temporal_guidance_blocks": (
            f"{which}; others are set by pipeline.components['guider'].spatio_temporal_guidance_blocks = […]"
        ),
        "use_cross_timestep": (
            f"it is {variant.use_cross_timestep} for {variant.name}, and set before the pipeline is made: "
            f"dataclasses.replace(checkpoint, variant={replaced})"
        ),
    }
