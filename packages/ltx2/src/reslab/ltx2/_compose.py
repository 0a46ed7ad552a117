"""LTX-2 as pipelines of named stages: `one_stage` and `two_stage`, from text or from an image, always with sound.

The stages bear the reference's registered names; what they run are diffusers' own Modular LTX-2 blocks. The two
denoising stages share names such as `latents`, so the second works on values called `refine_…`; the first of two
stages works on `half_width` and `half_height`.

    pipe = two_stage(load("tiny", variant="LTX-2.3"))
    pipe.run(prompt="a heron over a weir", width=128, height=64, num_frames=9, seed=7).show()

With an image, diffusers draws the video noise when it places the image, before the audio noise. To keep the
reference's order of stages (latents, then image), the latents are prepared without an image first, and placed again
with it by a generator that was kept as it was: the same noise, bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.guiders import LTX2Guidance
from diffusers.modular_pipelines.ltx2 import before_denoise, decoders, denoise, encoders
from diffusers.video_processor import VideoProcessor

from reslab.ltx2 import _lora, _stages
from reslab.ltx2._checkpoint import Checkpoint
from reslab.ltx2._settings import REFERENCE_SHIFT, DecodeAudio, Settings, SigmaSchedule, Tiling, choose
from reslab.ltx2._variants import Guidance
from reslab.stages import BlockStage, Choice, Pipeline, PipelineError

#: Headings for displays; "denoise" and "refine" are what prose calls the two denoising stages.
PROMPT, PREPARE, DENOISE, REFINE, DECODE = "prompt", "prepare", "denoise (half size)", "refine (full size)", "decode"

#: Values that the second denoising stage has for itself.
_REFINE_VALUES = {
    name: f"refine_{name}"
    for name in (
        "latents",
        "audio_latents",
        "audio_num_frames",
        "timesteps",
        "sigmas",
        "num_inference_steps",
        "audio_scheduler",
        "noise_scale",
        "video_coords",
        "audio_coords",
        "conditioning_mask",
        "clean_latents",
        "appended_coords",
        "base_token_count",
    )
}
_CONDITIONS = ("condition_latents", "condition_strengths", "condition_indices", "condition_pixel_frames")
_REFINE_CONDITIONS = {name: f"refine_{name}" for name in _CONDITIONS}

_HALF = {"width": "half_width", "height": "half_height"}
#: The second placing of the latents, with the image, draws from the generator as it was before the first.
_PLACED_AGAIN = {"generator": "image_generator"}
_NO_CONDITIONS: dict[str, list[Any]] = {name: [] for name in _CONDITIONS}


def one_stage(
    checkpoint: Checkpoint,
    *,
    video_guidance: Guidance | None = None,
    audio_guidance: Guidance | None = None,
    sigma_schedule: str = SigmaSchedule.DIFFUSERS,
    tiling: str = Tiling.AUTO,
) -> Pipeline:
    """Compose the one-stage pipeline: denoise at full size, then decode.

    Args:
        checkpoint: From `load`.
        video_guidance: Guidance of the video; by default the variant's.
        audio_guidance: Guidance of the sound; by default the variant's.
        sigma_schedule: "diffusers" or "reference"; see `SigmaSchedule`.
        tiling: "auto", "on" or "off"; see `Tiling`.

    Returns:
        A pipeline whose `run` takes what `InputValidationStage` reads and returns a `Video`.

    Raises:
        PipelineError: A setting is not one of those named.
    """
    settings = _settings(checkpoint, "one", video_guidance, audio_guidance, sigma_schedule, DecodeAudio.STAGE_1, tiling)
    pipe = _pipeline(checkpoint, settings)
    _add_prompt(pipe, checkpoint, multiple=32)
    _add_preparation(pipe, checkpoint, sizes={})
    pipe.add(_denoising(base_only=True), name="LTX2AVDenoisingStage", given=_given(checkpoint), group="denoise")
    pipe.add(_decoding(checkpoint, settings), name="LTX2AVDecodingStage", given={"output_type": "pt"}, group=DECODE)
    return pipe


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

    Args:
        checkpoint: From `load`.
        video_guidance: Guidance of the video in the first stage; by default the variant's. Refining is unguided.
        audio_guidance: Guidance of the sound in the first stage; by default the variant's.
        sigma_schedule: "diffusers" or "reference"; see `SigmaSchedule`.
        decode_audio: "stage 2" or "stage 1"; see `DecodeAudio`.
        tiling: "auto", "on" or "off"; see `Tiling`.

    Returns:
        A pipeline whose `run` takes what `InputValidationStage` reads and returns a `Video`.

    Raises:
        PipelineError: A setting is not one of those named, or the checkpoint lacks what two stages need.
        ValueError: The distilled LoRA fits no layer of the transformer.
    """
    _require_two_stages(checkpoint)
    settings = _settings(checkpoint, "two", video_guidance, audio_guidance, sigma_schedule, decode_audio, tiling)
    pipe = _pipeline(checkpoint, settings)
    variant = checkpoint.variant
    _add_prompt(pipe, checkpoint, multiple=64)
    pipe.add(_stages.LTX2HalveResolutionStage(), group=PREPARE)
    if not variant.is_distilled:
        pipe.add(_stages.LTX2LoRASwitchStage(variant.lora_strength_stage_1), group=PREPARE)
    _add_preparation(pipe, checkpoint, sizes=_HALF)
    pipe.add(_denoising(), name="LTX2AVDenoisingStage", values=_HALF, given=_given(checkpoint), group=DENOISE)
    _add_refinement(pipe, checkpoint)
    sound = {} if settings.decode_audio is DecodeAudio.STAGE_1 else {"audio_latents": "refine_audio_latents"}
    pipe.add(
        _decoding(checkpoint, settings),
        name="LTX2AVDecodingStage",
        values={"latents": "refine_latents", **sound},
        given={"output_type": "pt"},
        group=DECODE,
    )
    return pipe


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


def _pipeline(checkpoint: Checkpoint, settings: Settings) -> Pipeline:
    stages = f"{checkpoint.variant.name}, {settings.stages} stage{'s' if settings.stages == 'two' else ''}"
    pipe = Pipeline(_components(checkpoint, settings), name=stages, result="video")
    pipe.settings = settings.recorded()
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


def _settings(
    checkpoint: Checkpoint,
    stages: str,
    video_guidance: Guidance | None,
    audio_guidance: Guidance | None,
    sigma_schedule: str,
    decode_audio: str,
    tiling: str,
) -> Settings:
    return Settings(
        variant=checkpoint.variant.name,
        stages=stages,
        video_guidance=video_guidance or checkpoint.variant.video,
        audio_guidance=audio_guidance or checkpoint.variant.audio,
        sigma_schedule=choose(SigmaSchedule, "sigma_schedule", sigma_schedule),
        decode_audio=choose(DecodeAudio, "decode_audio", decode_audio),
        tiling=choose(Tiling, "tiling", tiling),
    )


def _add_prompt(pipe: Pipeline, checkpoint: Checkpoint, *, multiple: int) -> None:
    connect = BlockStage(
        encoders.LTX2TextConnectorStep(), before_denoise.LTX2TextInputStep(), stage_class="LTX2TextConnectorStage"
    )
    pipe.add(_stages.InputValidationStage(checkpoint.variant, multiple=multiple), group=PROMPT)
    pipe.add(BlockStage(encoders.LTX2TextEncoderStep()), name="TextEncodingStage", group=PROMPT)
    pipe.add(connect, name="LTX2TextConnectorStage", group=PROMPT)


def _add_preparation(pipe: Pipeline, checkpoint: Checkpoint, *, sizes: dict[str, str]) -> None:
    pipe.add(_stages.LTX2SigmaPreparationStage(checkpoint.variant.sigmas), group=PREPARE)
    timesteps = BlockStage(before_denoise.LTX2SetTimestepsStep())
    pipe.add(timesteps, name="TimestepPreparationStage", values=sizes, group=PREPARE)
    pipe.add(_latents(), name="LTX2AVLatentPreparationStage", values=sizes, given=_NO_CONDITIONS, group=PREPARE)
    place = BlockStage(encoders.LTX2ConditionEncoderStep(), before_denoise.LTX2ConditionPrepareLatentsStep())
    image = Choice("image", present=place, stage_class="LTX2ImageEncodingStage")
    # Placed anew, not noised once more: diffusers' block would take latents that are there as a finished video.
    pipe.add(image, values=sizes | _PLACED_AGAIN, given={"latents": None}, group=PREPARE)


def _latents() -> Choice:
    text = BlockStage(
        before_denoise.LTX2PrepareLatentsStep(),
        before_denoise.LTX2PrepareAudioLatentsStep(),
        before_denoise.LTX2PrepareCoordsStep(),
    )
    image = _stages.LTX2AVLatentPreparationStage(
        before_denoise.LTX2ConditionPrepareLatentsStep(),
        before_denoise.LTX2ConditionPrepareAudioLatentsStep(),
        before_denoise.LTX2ConditionPrepareCoordsStep(),
    )
    return Choice("image", present=image, absent=text, stage_class="LTX2AVLatentPreparationStage")


def _denoising(*, base_only: bool = False) -> _stages.LTX2AVDenoisingStage:
    text, image = BlockStage(denoise.LTX2DenoiseStep()), BlockStage(denoise.LTX2ConditionDenoiseStep())
    return _stages.LTX2AVDenoisingStage("image", present=image, absent=text, base_only=base_only)


def _given(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"use_cross_timestep": checkpoint.variant.use_cross_timestep}


def _add_refinement(pipe: Pipeline, checkpoint: Checkpoint) -> None:
    variant = checkpoint.variant
    pipe.add(_stages.LTX2UpsampleStage(), values=_HALF, group=REFINE)
    if not variant.is_distilled:
        switch = _stages.LTX2LoRASwitchStage(variant.lora_strength_stage_2)
        pipe.add(switch, name="ltx2_lora_switch_stage2", group=REFINE)
    encode = BlockStage(encoders.LTX2ConditionEncoderStep())
    image = Choice("image", present=encode, stage_class="LTX2ImageEncodingStage")
    pipe.add(image, name="ltx2_image_encoding_stage2", values=_REFINE_CONDITIONS, group=REFINE)
    pipe.add(
        _refinement(),
        name="LTX2RefinementStage",
        components={"scheduler": "refine_scheduler", "guider": "refine_guider", "audio_guider": "refine_audio_guider"},
        values=_REFINE_VALUES | _REFINE_CONDITIONS,
        given={
            "sigmas": list(variant.stage_2_sigmas),
            "num_inference_steps": len(variant.stage_2_sigmas),
            "timesteps": None,
            "noise_scale": variant.noise_scale,
            **_given(checkpoint),
        },
        group=REFINE,
    )


def _refinement() -> Choice:
    text = BlockStage(
        before_denoise.LTX2SetTimestepsStep(),
        before_denoise.LTX2PrepareLatentsStep(),
        before_denoise.LTX2PrepareAudioLatentsStep(),
        before_denoise.LTX2PrepareCoordsStep(),
        denoise.LTX2DenoiseStep(),
    )
    image = BlockStage(
        before_denoise.LTX2ConditionPrepareLatentsStep(),
        before_denoise.LTX2ConditionSetTimestepsStep(),
        before_denoise.LTX2ConditionPrepareAudioLatentsStep(),
        before_denoise.LTX2ConditionPrepareCoordsStep(),
        denoise.LTX2ConditionDenoiseStep(),
    )
    return Choice("image", present=image, absent=text, stage_class="LTX2RefinementStage")


def _decoding(checkpoint: Checkpoint, settings: Settings) -> Any:
    above = {Tiling.AUTO: checkpoint.variant.tile_above_pixels, Tiling.ON: 0, Tiling.OFF: float("inf")}
    return _stages.LTX2AVDecodingStage(
        decoders.LTX2VaeDecoderStep(),
        decoders.LTX2AudioDecoderStep(),
        tile_above_pixels=above[settings.tiling],
        untrained=checkpoint.untrained,
    )
