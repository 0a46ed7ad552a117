"""Keywords of diffusers' LTX-2 pipelines that a run here does not take, each with the place where it is set.

    pipe.run(prompt="a heron", guidance_scale=3.0)
    # guidance is set when the pipeline is made: two_stage(checkpoint, video_guidance=Guidance(cfg=3.0))

Without them a mistyped name would be guessed at, and the nearest name to `guidance_scale` changes the noise.
"""

from __future__ import annotations

from reslab.ltx2._checkpoint import Checkpoint

#: diffusers' keyword → whose guidance it is, the field of `Guidance`, and a usual strength.
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
    """Return a sentence for each keyword that says where the pipeline of "one" stage or "two" has it."""
    made = f"{stages}_stage(checkpoint, "
    said = {
        name: f"guidance is set when the pipeline is made: {made}{side}_guidance=Guidance({field}={strength}))"
        for name, (side, field, strength) in _GUIDANCE.items()
    }
    return {name: f"{name!r}: {sentence}" for name, sentence in said.items()} | {
        name: f"{name!r} would be ignored: {sentence}" for name, sentence in (_PLACES | _own(checkpoint, made)).items()
    }


def _own(checkpoint: Checkpoint, made: str) -> dict[str, str]:
    """The sentences that depend on the variant."""
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
