"""The five groups of stages that make up a pipeline: prompt, prepare, denoise, refine, decode.

The stages have the reference's registered names; they run diffusers' own Modular LTX-2 blocks. The two denoising stages
share names such as `latents`, so the second works on values called `refine_…`; the first of two stages works on
`half_width` and `half_height`.

With an image, diffusers draws the video noise when it places the image, before the audio noise. The reference prepares
latents first and places the image after. To keep that order and the same noise, bit for bit, latents are prepared
without the image, and placed again with it by a copy of the generator made before the first draw.
"""

from __future__ import annotations

from typing import Any

from diffusers.modular_pipelines.ltx2 import before_denoise, decoders, denoise, encoders

from reslab.ltx2._checkpoint._checkpoint import Checkpoint
from reslab.ltx2._choices import DecodeAudio, DecodeTiling
from reslab.ltx2._pipeline import _stages
from reslab.ltx2._pipeline._composition_settings import CompositionSettings
from reslab.ltx2._pipeline._stages import LTX2AVDecodingStage, LTX2UpsampleStage
from reslab.stages import BlockStage, Choice, Pipeline

#: Headings for displays. Prose calls the two denoising stages "denoise" and "refine".
PROMPT, PREPARE, REFINE, DECODE = "prompt", "prepare", "refine (full size)", "decode"

#: Values of the second denoising stage, by their names in diffusers' blocks.
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

#: The size at which the first of two stages works, by the names in diffusers' blocks.
HALF = {"width": "half_width", "height": "half_height"}
#: Placing the latents with the image draws from the generator's state before the first placing.
_PLACED_AGAIN = {"generator": "image_generator"}
_NO_CONDITIONS: dict[str, list[Any]] = {name: [] for name in _CONDITIONS}


def add_prompt(pipe: Pipeline, checkpoint: Checkpoint, *, stages: str) -> None:
    """Add the stages that check the request and encode the prompt."""
    connect = BlockStage(
        encoders.LTX2TextConnectorStep(), before_denoise.LTX2TextInputStep(), stage_class="LTX2TextConnectorStage"
    )
    pipe.add(_stages.InputValidationStage(checkpoint.variant, stages=stages), group=PROMPT)
    pipe.add(BlockStage(encoders.LTX2TextEncoderStep()), name="TextEncodingStage", group=PROMPT)
    pipe.add(connect, name="LTX2TextConnectorStage", group=PROMPT)


def add_preparation(pipe: Pipeline, checkpoint: Checkpoint, *, half: bool) -> None:
    """Add the stages that set sigmas, timesteps and latents, at half or full width and height."""
    variant, sizes = checkpoint.variant, HALF if half else {}
    if half:
        pipe.add(_stages.LTX2HalveResolutionStage(), group=PREPARE)
    if half and not variant.is_distilled:
        pipe.add(_stages.LTX2LoRASwitchStage(variant.lora_strength_stage_1), group=PREPARE)
    pipe.add(_stages.LTX2SigmaPreparationStage(variant.sigmas), group=PREPARE)
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


def add_denoising(pipe: Pipeline, checkpoint: Checkpoint, *, half: bool) -> None:
    """Add the guided denoising of video and audio, at half or full width and height."""
    text, image = BlockStage(denoise.LTX2DenoiseStep()), BlockStage(denoise.LTX2ConditionDenoiseStep())
    stage = _stages.LTX2AVDenoisingStage("image", present=image, absent=text, base_only=not half)
    group, sizes = ("denoise (half size)", HALF) if half else ("denoise", {})
    pipe.add(stage, name="LTX2AVDenoisingStage", values=sizes, given=_given(checkpoint), group=group)


def _given(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"use_cross_timestep": checkpoint.variant.use_cross_timestep}


def add_refinement(pipe: Pipeline, checkpoint: Checkpoint) -> None:
    """Add the stages that double the video latents and denoise them at full size, unguided, with the distilled LoRA."""
    variant = checkpoint.variant
    pipe.add(LTX2UpsampleStage(), values=HALF, group=REFINE)
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


def add_decoding(pipe: Pipeline, checkpoint: Checkpoint, settings: CompositionSettings) -> None:
    """Add the stage that decodes the latents; `settings` choose the audio to decode, and when to tile."""
    above = {
        DecodeTiling.AUTO: checkpoint.variant.tile_above_pixels,
        DecodeTiling.ON: 0,
        DecodeTiling.OFF: float("inf"),
    }
    denoises = "diffusion_decoder" in checkpoint.components
    decode = LTX2AVDecodingStage(
        decoders.LTX2DiffusionVaeDecoderStep() if denoises else decoders.LTX2VaeDecoderStep(),
        decoders.LTX2AudioDecoderStep(),
        decoder="diffusion_decoder" if denoises else "vae",
        tile_above_pixels=above[settings.tiling],
        untrained=checkpoint.untrained,
    )
    refined = {"latents": "refine_latents"} if settings.stages == "two" else {}
    if settings.decode_audio is DecodeAudio.STAGE_2:
        refined["audio_latents"] = "refine_audio_latents"
    pipe.add(decode, name="LTX2AVDecodingStage", values=refined, given={"output_type": "pt"}, group=DECODE)
