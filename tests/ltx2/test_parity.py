"""Parity with diffusers on tiny models in float32: one stage bit for bit, two stages against the documented two-call
recipes.

Unguided, every latent is bit-equal; guided, diffusers' classic pipeline batches the conditional and unconditional
passes and ours runs each alone, which rounds differently: |a − b| ≤ 1e-4 × std. Then each bridge between the two
stages is broken on purpose, and parity must be lost.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTX2Pipeline
from diffusers.modular_pipelines.ltx2 import LTX2AutoBlocks
from diffusers.pipelines.ltx2 import LTX2ConditionPipeline, LTX2LatentUpsamplePipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

from reslab import ltx2
from reslab.ltx2._checkpoint import _lora
from reslab.ltx2._pipeline import _stages
from reslab.ltx2._pipeline._composition_settings import REFERENCE_SHIFT
from reslab.ltx2._pipeline._stages import denormalised_audio, denormalised_video
from reslab.stages import Pipeline, stage

WIDTH, HEIGHT, FRAMES, STEPS, SEED = 128, 64, 9, 4, 7
PROMPT = "a heron over a weir"
CASES = [
    pytest.param(name, image, guided, id=f"{name}-{'image' if image else 'text'}-{'guided' if guided else 'unguided'}")
    for name in ("LTX-2", "LTX-2.3", "LTX-2.3 distilled")
    for image in (False, True)
    for guided in (False, True)
    if not (guided and name == "LTX-2.3 distilled")
]


class Latents(NamedTuple):
    """De-normalised latents: video (B, C, F, H, W), audio (B, C, L, M)."""

    stage_1_video: torch.Tensor
    stage_1_audio: torch.Tensor
    upsampled: torch.Tensor
    stage_2_video: torch.Tensor
    stage_2_audio: torch.Tensor

    def distance(self, other: "Latents") -> float:
        """The largest difference anywhere, in standard deviations of what it is a difference of."""
        return max(((a - b).abs().max() / b.std()).item() for a, b in zip(self, other, strict=True))


@functools.cache
def checkpoint(name: str) -> ltx2.Checkpoint:
    return ltx2.load("tiny", variant=name)


def first_frame() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def guidance(name: str, guided: bool) -> tuple[ltx2.Guidance, ltx2.Guidance]:
    variant = ltx2.variant(name)
    return (variant.video, variant.audio) if guided else (ltx2.Guidance(), ltx2.Guidance())


def all_nine(video: ltx2.Guidance, audio: ltx2.Guidance, blocks: tuple[int, ...]) -> dict[str, Any]:
    """Every guidance argument of the classic pipelines: left out, audio, STG and modality guidance default to on."""
    return {
        "guidance_scale": video.cfg,
        "stg_scale": video.stg,
        "modality_scale": video.modality,
        "guidance_rescale": video.rescale,
        "audio_guidance_scale": audio.cfg,
        "audio_stg_scale": audio.stg,
        "audio_modality_scale": audio.modality,
        "audio_guidance_rescale": audio.rescale,
        "spatio_temporal_guidance_blocks": list(blocks) if video.stg else None,
    }


@functools.cache
def recipe(name: str, with_image: bool, guided: bool) -> Latents:
    """The documented two-call recipe of diffusers around its latent upsampler."""
    point, variant = checkpoint(name), ltx2.variant(name)
    parts = dict(point.components)
    upsample = LTX2LatentUpsamplePipeline(vae=parts["vae"], latent_upsampler=parts.pop("latent_upsampler"))
    pipe = (LTX2ConditionPipeline if with_image else LTX2Pipeline)(**parts)
    for each in (pipe, upsample):
        each.set_progress_bar_config(disable=True)
    common = {
        "prompt": PROMPT,
        "num_frames": FRAMES,
        "frame_rate": 24.0,
        "generator": torch.Generator().manual_seed(SEED),
        "use_cross_timestep": variant.use_cross_timestep,
        "output_type": "latent",
        "return_dict": False,
    }
    if with_image:
        common["conditions"] = [LTX2VideoCondition(frames=first_frame(), index=0, strength=1.0)]
    _lora.set_strength(pipe.transformer, variant.lora_strength_stage_1)
    on = all_nine(*guidance(name, guided), point.stg_blocks)
    sigmas = list(variant.sigmas) if variant.sigmas else None
    video_1, audio_1 = pipe(
        width=WIDTH // 2, height=HEIGHT // 2, num_inference_steps=STEPS, sigmas=sigmas, **on, **common
    )
    upsampled = upsample(latents=video_1, output_type="latent", return_dict=False)[0]
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, use_dynamic_shifting=False, shift_terminal=None
    )
    _lora.set_strength(pipe.transformer, variant.lora_strength_stage_2)
    off = all_nine(ltx2.Guidance(), ltx2.Guidance(), ())
    video_2, audio_2 = pipe(
        width=WIDTH,
        height=HEIGHT,
        latents=upsampled,
        audio_latents=audio_1,
        sigmas=list(variant.stage_2_sigmas),
        num_inference_steps=len(variant.stage_2_sigmas),
        noise_scale=variant.noise_scale,
        **off,
        **common,
    )
    return Latents(video_1, audio_1, upsampled, video_2, audio_2)


def compose(name: str, guided: bool) -> Pipeline:
    video, audio = guidance(name, guided)
    pipe = ltx2.two_stage(checkpoint(name), video_guidance=video, audio_guidance=audio)
    pipe.result, pipe.progress = None, False
    return pipe


def run(pipe: Pipeline, name: str, with_image: bool) -> Latents:
    """Run our two stages, keeping the upsampled latents by a stage of the test's own."""
    kept = {}

    @stage
    def keep(refine_latents):
        kept["upsampled"] = refine_latents

    pipe.add(keep, before="LTX2RefinementStage")
    steps = {} if ltx2.variant(name).sigmas else {"num_inference_steps": STEPS}
    image = {"image": first_frame()} if with_image else {}
    values = pipe.run(prompt=PROMPT, width=WIDTH, height=HEIGHT, num_frames=FRAMES, seed=SEED, **steps, **image)
    parts = checkpoint(name).components
    video = functools.partial(denormalised_video, num_frames=FRAMES, vae=parts["vae"], transformer=parts["transformer"])
    audio = functools.partial(
        denormalised_audio, audio_num_frames=values.audio_num_frames, audio_vae=parts["audio_vae"]
    )
    return Latents(
        video(values.latents, height=HEIGHT // 2, width=WIDTH // 2),
        audio(values.audio_latents),
        kept["upsampled"],
        video(values.refine_latents, height=HEIGHT, width=WIDTH),
        audio(values.refine_audio_latents),
    )


@pytest.mark.parametrize(("name", "with_image", "guided"), CASES)
def test_two_stages_give_the_latents_of_the_two_call_recipe(name, with_image, guided):
    distance = run(compose(name, guided), name, with_image).distance(recipe(name, with_image, guided))
    assert distance <= (1e-4 if guided else 0.0)


@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
def test_one_stage_is_bit_equal_to_diffusers_modular_pipeline(name, with_image):
    point, variant = checkpoint(name), ltx2.variant(name)
    pipe = ltx2.one_stage(point)
    pipe.result, pipe.progress = None, False
    image = {"image": first_frame()} if with_image else {}
    size = {"width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "num_inference_steps": STEPS}
    ours = pipe.run(prompt=PROMPT, seed=SEED, **size, **image)

    theirs = LTX2AutoBlocks().init_pipeline()
    theirs.update_components(
        **{n: part for n, part in point.components.items() if n != "latent_upsampler"},
        guider=pipe.components["guider"],
        audio_guider=pipe.components["audio_guider"],
    )
    theirs.set_progress_bar_config(disable=True)
    conditions = {"conditions": [LTX2VideoCondition(frames=first_frame(), index=0)]} if with_image else {}
    state = theirs(
        prompt=PROMPT,
        generator=torch.Generator().manual_seed(SEED),
        use_cross_timestep=variant.use_cross_timestep,
        output_type="np",
        **size,
        **conditions,
    )
    assert torch.equal(ours.latents, state.get("latents"))
    assert torch.equal(ours.audio_latents, state.get("audio_latents"))
    assert np.array_equal(ours.video.frames, (state.get("videos")[0] * 255).round().astype(np.uint8))
    assert np.array_equal(ours.video.audio, state.get("audio")[0].numpy().T)


def swap(pipe: Pipeline, name: str, component: Any) -> None:
    pipe.components[name] = component


def scheduler(pipe: Pipeline) -> Any:
    return pipe.components["refine_scheduler"]


# Each breaks one bridge between the stages; parity must be lost, or the run must fail.
def normalised_video(monkeypatch, pipe):
    def unpacked_only(latents, num_frames, height, width, vae, transformer):
        whole = denormalised_video(latents, num_frames, height, width, vae, transformer)
        return (whole - vae.latents_mean.view(1, -1, 1, 1, 1)) / vae.latents_std.view(1, -1, 1, 1, 1)

    monkeypatch.setattr(_stages, "denormalised_video", unpacked_only)


def packed_normalised_audio(monkeypatch, pipe):
    monkeypatch.setattr(_stages, "denormalised_audio", lambda latents, frames, vae: latents)


def shifted_schedule(monkeypatch, pipe):
    shifted = {"use_dynamic_shifting": True, "shift_terminal": 0.1}
    swap(pipe, "refine_scheduler", FlowMatchEulerDiscreteScheduler.from_config(scheduler(pipe).config, **shifted))


def guided_refinement(monkeypatch, pipe):
    swap(pipe, "refine_guider", pipe.components["guider"])
    swap(pipe, "refine_audio_guider", pipe.components["audio_guider"])


def lora_left_off(monkeypatch, pipe):
    pipe.stages["ltx2_lora_switch_stage2"].strength = 0.0


def lora_on_in_both(monkeypatch, pipe):
    pipe.stages["LTX2LoRASwitchStage"].strength = 1.0


def fresh_noise(monkeypatch, pipe):
    @stage(writes="generator")
    def restart():
        return torch.Generator().manual_seed(SEED)

    pipe.add(restart, before="LTX2RefinementStage")


def no_upsampler(monkeypatch, pipe):
    twice = torch.nn.Upsample(scale_factor=(1, 2, 2))
    twice.dtype, twice.config = torch.float32, pipe.components["latent_upsampler"].config
    swap(pipe, "latent_upsampler", twice)


def audio_of_noise(monkeypatch, pipe):
    @stage(writes="refine_audio_latents")
    def forget(refine_audio_latents):
        return torch.zeros_like(refine_audio_latents)

    pipe.add(forget, before="LTX2RefinementStage")


BRIDGES = [
    normalised_video,
    packed_normalised_audio,
    shifted_schedule,
    guided_refinement,
    lora_left_off,
    lora_on_in_both,
    fresh_noise,
    no_upsampler,
    audio_of_noise,
]


@pytest.mark.parametrize("broken", BRIDGES, ids=lambda broken: broken.__name__)
def test_each_bridge_between_the_stages_matters(monkeypatch, broken):
    pipe = compose("LTX-2.3", guided=True)
    broken(monkeypatch, pipe)
    assert run(pipe, "LTX-2.3", with_image=False).distance(recipe("LTX-2.3", False, True)) > 1e-2


def test_the_image_is_encoded_again_at_full_size(monkeypatch):
    pipe = compose("LTX-2.3", guided=False)

    @stage(writes=("refine_condition_latents",))
    def keep_small(condition_latents):
        return {
            "refine_condition_latents": [x.repeat_interleave(2, 3).repeat_interleave(2, 4) for x in condition_latents]
        }

    pipe.add(keep_small, before="LTX2RefinementStage")
    assert run(pipe, "LTX-2.3", with_image=True).distance(recipe("LTX-2.3", True, False)) > 1e-2


def test_the_image_is_placed_into_the_noise_that_was_prepared(monkeypatch):
    pipe = compose("LTX-2.3", guided=False)

    @stage(writes="image_generator")
    def lose(generator):
        return generator

    pipe.add(lose, before="LTX2ImageEncodingStage")
    assert run(pipe, "LTX-2.3", with_image=True).distance(recipe("LTX-2.3", True, False)) > 1e-2


def test_timesteps_left_over_from_the_first_stage_make_the_second_raise():
    pipe = compose("LTX-2.3", guided=False)
    refine = next(bind for each, bind in pipe._bound() if each.registered_name == "LTX2RefinementStage")
    refine.given.pop("timesteps")
    refine.values.pop("timesteps")
    with pytest.raises(ValueError, match="Only one of `timesteps` or `sigmas`"):
        run(pipe, "LTX-2.3", with_image=False)


def test_the_reference_schedule_is_a_constant_shift():
    pipe = ltx2.one_stage(checkpoint("LTX-2.3"), sigma_schedule="reference")
    pipe.result, pipe.progress = None, False
    request = {"prompt": PROMPT, "width": 64, "height": 64, "num_frames": 9, "seed": 7, "num_inference_steps": 5}
    pipe.run(**request)
    even = np.linspace(1, 0, 6)[:-1]
    shifted = np.exp(REFERENCE_SHIFT) / (np.exp(REFERENCE_SHIFT) + 1 / even - 1)
    stretched = 1 - (1 - shifted) * (1 - 0.1) / (1 - shifted[-1])
    np.testing.assert_allclose(pipe.components["scheduler"].sigmas.numpy(), [*stretched, 0.0], rtol=1e-6)
