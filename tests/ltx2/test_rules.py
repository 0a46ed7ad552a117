"""The rules of LTX-2: ours name the nearest legal value before anything runs; beside each, what diffusers does."""

import dataclasses
import functools
import inspect
import warnings

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import LTX2ImageToVideoPipeline, LTX2Pipeline
from diffusers.modular_pipelines.ltx2 import LTX2AutoBlocks
from diffusers.pipelines.ltx2 import LTX2ConditionPipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

from reslab import ltx2
from reslab.ltx2._legal_numbers import neighbours
from reslab.stages import PipelineError

REQUEST = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 7}


@functools.cache
def checkpoint() -> ltx2.Checkpoint:
    return ltx2.load("tiny", variant="LTX-2.3")


@pytest.fixture(scope="module")
def pipe():
    return ltx2.two_stage(checkpoint())


def diffusers_would(**changes):
    """Run diffusers' own modular pipeline on a request and return its state."""
    pipe = LTX2AutoBlocks().init_pipeline()
    parts = {name: part for name, part in checkpoint().components.items() if name != "latent_upsampler"}
    pipe.update_components(**parts)
    for name, value in changes.pop("guider", {}).items():
        setattr(pipe.guider, name, value)
    pipe.set_progress_bar_config(disable=True)
    request = {**REQUEST, "generator": torch.Generator().manual_seed(7), "output_type": "pt", **changes}
    request.pop("seed")
    return pipe(**request)


def refused(pipe, **changes):
    """Return the message with which our pipeline refuses a request, having run nothing."""
    begun = []

    class Counter:
        def begin(self, *event):
            begun.append(event)

        def end(self, error=None):
            pass

    with pipe.observe(Counter()), pytest.raises(PipelineError) as error:
        pipe.run(**{**REQUEST, **changes})
    assert not begun
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "asked", "nearest"), [("height", 100, "128, then 64"), ("width", 1, 64), ("width", 719, "704, then 768")]
)
def test_sizes_are_multiples_of_64(pipe, name, asked, nearest):
    assert refused(pipe, **{name: asked}) == (
        f"{name}={asked} is not a multiple of 64 (the first stage runs at half size); the nearest is {nearest}."
    )


def test_one_stage_takes_multiples_of_32():
    assert "multiple of 32; the nearest is 96, then 128." in refused(ltx2.one_stage(checkpoint()), height=100)


def test_diffusers_rounds_a_height_of_100_down_in_silence():
    assert diffusers_would(height=100).get("videos").shape[-2] == 96


def test_frames_are_8k_plus_1(pipe):
    assert refused(pipe, num_frames=10) == "num_frames=10 is not 8k+1; the nearest is 9, then 17."
    assert refused(pipe, num_frames=14) == "num_frames=14 is not 8k+1; the nearest is 17, then 9."


def test_diffusers_makes_9_frames_of_10_in_silence():
    assert diffusers_would(num_frames=10).get("videos").shape[1] == 9


def test_at_least_two_steps(pipe):
    assert "at least 2 are needed" in refused(pipe, num_inference_steps=1)


@pytest.mark.parametrize("steps", [8.0, "8", True])
def test_steps_are_a_whole_number(pipe, steps):
    assert refused(pipe, num_inference_steps=steps) == (
        f"num_inference_steps={steps!r} is not a whole number from 2 up."
    )


def test_numbers_of_numpy_are_numbers(pipe):
    names = ("width", "height", "num_frames", "num_inference_steps", "seed")
    counts = {name: np.int64(REQUEST[name]) for name in names}
    theirs = pipe.run(prompt="a heron", frame_rate=np.float32(24), **counts)
    assert np.array_equal(theirs.frames, pipe.run(**REQUEST).frames)


def test_diffusers_computes_nan_with_one_step():
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert diffusers_would(num_inference_steps=1).get("latents").isnan().all()


def test_a_distilled_variant_has_its_own_steps():
    pipe = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3 distilled"))
    assert "runs 8 fixed steps; leave it out" in refused(pipe, num_inference_steps=30)


def test_the_sequence_length_is_a_multiple_of_the_registers(pipe):
    assert refused(pipe, max_sequence_length=200) == (
        "max_sequence_length=200 is not a multiple of the connectors' 128 registers; the nearest is 256, then 128."
    )


def test_diffusers_fails_on_a_sequence_length_of_200_after_the_text_encoder_ran():
    with pytest.raises(ValueError, match="divisible by"):
        diffusers_would(max_sequence_length=200)


@pytest.mark.parametrize("rate", [0, -24.0, float("nan"), float("inf"), "24", True])
def test_the_frame_rate_is_positive(pipe, rate):
    assert "is not a positive number of frames a second; the default is 24." in refused(pipe, frame_rate=rate)


def test_diffusers_divides_by_a_frame_rate_of_0():
    with pytest.raises(ZeroDivisionError):
        diffusers_would(frame_rate=0.0)


def test_a_video_is_long_enough_for_sound(pipe):
    assert refused(pipe, num_frames=1, frame_rate=50) == (
        "num_frames=1 at frame_rate=50 is too short for sound, whose latents are 40 ms long; "
        "the nearest whole frame_rate is 49."
    )
    assert len(pipe.run(**REQUEST | {"num_frames": 1, "frame_rate": 49}).audio) > 0


def test_diffusers_fails_without_sound_while_denoising():
    with pytest.raises(RuntimeError, match="cannot reshape tensor of 0 elements"):
        diffusers_would(num_frames=1, frame_rate=50.0)


def test_the_stg_block_is_inside_the_depth():
    pipe = ltx2.two_stage(checkpoint())
    pipe.components["guider"].spatio_temporal_guidance_blocks = [28]
    assert "perturbs block 28, but the transformer has 4 blocks (0 to 3); the nearest is 3." in refused(pipe)


def test_diffusers_pays_for_an_stg_pass_that_does_nothing():
    nothing = diffusers_would(guider={"spatio_temporal_guidance_blocks": [28]})
    without = diffusers_would(guider={"stg_scale": 0.0})
    perturbed = diffusers_would(guider={"spatio_temporal_guidance_blocks": [2]})
    assert torch.equal(nothing.get("latents"), without.get("latents"))
    assert not torch.equal(perturbed.get("latents"), without.get("latents"))


def test_unknown_keywords_are_named_with_the_nearest(pipe):
    assert refused(pipe, hieght=64) == "no stage reads 'hieght'; did you mean 'height'?"


def test_diffusers_ignores_unknown_keywords():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        diffusers_would(hieght=64)
    assert any("will be ignored" in str(warning.message) for warning in caught)


def test_unknown_variants_are_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no variant 'LTX-2\.3 destilled'; did you mean 'LTX-2\.3 distilled'"):
        ltx2.load("tiny", variant="LTX-2.3 destilled")


@pytest.mark.parametrize(
    ("image", "got"),
    [
        ("heron.png", "got str"),
        ([PIL.Image.new("RGB", (64, 64))] * 2, "image is the first frame alone, got 2 in a list; give one image"),
        (np.zeros((64, 128, 3)), "got ndarray of shape (64, 128, 3) and float64"),
        (np.zeros((64, 128), np.uint8), "got ndarray of shape (64, 128) and uint8"),
        (torch.zeros((64, 128, 3), dtype=torch.uint8), "got Tensor of shape (64, 128, 3) and torch.uint8"),
        (PIL.Image.new("RGB", (1, 300)), "image is 1×300"),
    ],
)
def test_an_image_of_the_wrong_kind_is_refused(pipe, image, got):
    assert got in refused(pipe, image=image)


def test_diffusers_takes_a_float_image_only_after_the_text_encoder_ran():
    with pytest.raises(ValueError, match="expects a uint8 RGB frame"):
        diffusers_would(conditions=[LTX2VideoCondition(frames=np.zeros((64, 128, 3)))])


def test_diffusers_takes_a_tensors_rows_for_its_channels():
    with pytest.raises(ValueError, match="Unexpected numpy array shape"):
        diffusers_would(conditions=[LTX2VideoCondition(frames=torch.zeros((64, 128, 3), dtype=torch.uint8))])


def test_diffusers_fails_on_an_image_of_one_pixel():
    with pytest.raises(IndexError):
        diffusers_would(conditions=[LTX2VideoCondition(frames=PIL.Image.new("RGB", (1, 300)))])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_a_pil_image_of_any_mode_is_taken(pipe, mode):
    image = PIL.Image.new("RGB", (40, 90)).convert(mode)
    assert pipe.run(**REQUEST, image=image, image_strength=None).frames.shape == (9, 64, 128, 3)


@pytest.mark.parametrize("crf", [-1, 52, 33.0, "33", True])
def test_the_images_quality_is_one_of_h264(pipe, crf):
    assert refused(pipe, image_crf=crf) == f"image_crf={crf!r} is not a whole number from 0 to 51, H.264's range."


@pytest.mark.parametrize("seed", [-1, 2**64, 7.0, "7", True])
def test_a_seed_is_one_that_torch_takes(pipe, seed):
    assert refused(pipe, seed=seed) == f"seed={seed!r} is not a whole number from 0 to 2⁶⁴−1."
    assert torch.Generator().manual_seed(2**64 - 1).initial_seed() == 2**64 - 1


def test_a_generator_is_one_of_torch(pipe):
    message = refused(pipe, seed=None, generator=np.random.default_rng(7))
    assert message == "generator is a torch.Generator, got Generator; for a number use seed=."


@pytest.mark.parametrize("name", ["sigmas", "conditions", "prompt_embeds", "half_width", "num_videos_per_prompt"])
def test_what_the_pipeline_makes_itself_is_refused(pipe, name):
    assert f"{name!r} would be ignored" in refused(pipe, **{name: [1]})


def test_all_that_is_wrong_is_said_at_once(pipe):
    message = refused(pipe, width=100, num_frames=10, frame_rate=0)
    assert all(part in message for part in ("width=100", "num_frames=10", "frame_rate=0"))


def test_seed_and_generator_exclude_each_other(pipe):
    assert "give one of them" in refused(pipe, generator=torch.Generator())


@pytest.mark.parametrize("number", range(1, 200))
def test_the_neighbours_are_legal_and_nearest(number):
    legal = range(1, 300, 8)
    near = sorted(legal, key=lambda size: (abs(number - size), size))
    assert neighbours(number, 8, offset=1) == near[: 1 if number in legal else 2]


@pytest.mark.parametrize("speed", [0, -1, float("nan"), "1", 1e9])
def test_the_speed_of_motion_is_above_0(pipe, speed):
    message = f"motion_speed={speed!r} is not a number from 0.01 to 100; real time is 1."
    assert refused(pipe, motion_speed=speed) == message


def test_the_speed_of_motion_changes_the_video(pipe):
    slow = pipe.run(**REQUEST, motion_speed=0.2)
    assert not np.array_equal(slow.frames, pipe.run(**REQUEST).frames)


#: What a run here takes of diffusers' keywords, under the same name.
TAKEN = {
    *("prompt", "negative_prompt", "image", "image_crf", "width", "height", "num_frames", "frame_rate", "generator"),
    *("motion_speed", "num_inference_steps", "attention_kwargs", "max_sequence_length"),
}
CALLS = (LTX2Pipeline, LTX2ImageToVideoPipeline, LTX2ConditionPipeline)
KEYWORDS = {name for each in CALLS for name in inspect.signature(each.__call__).parameters} - {"self"} - TAKEN


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_every_keyword_of_diffusers_is_taken_or_has_its_place_named(pipe, keyword):
    message = refused(pipe, **{keyword: 1})
    assert message.startswith(repr(keyword))
    assert "did you mean" not in message
    assert "known:" not in message


@pytest.mark.parametrize(
    ("keyword", "place"),
    [
        ("guidance_scale", "two_stage(checkpoint, video_guidance=Guidance(cfg=3.0))"),
        ("true_cfg_scale", "two_stage(checkpoint, video_guidance=Guidance(cfg=3.0))"),
        ("stg_scale", "two_stage(checkpoint, video_guidance=Guidance(stg=1.0))"),
        ("audio_guidance_scale", "two_stage(checkpoint, audio_guidance=Guidance(cfg=7.0))"),
        ("guidance_rescale", "two_stage(checkpoint, video_guidance=Guidance(rescale=0.7))"),
        ("sigmas", 'two_stage(checkpoint, sigma_schedule="reference")'),
        ("output_type", "result.save"),
        ("fps", "frame_rate="),
        ("min_seconds", "num_frames="),
        ("conditions", "image="),
        ("spatio_temporal_guidance_blocks", "are [2]; others are set by pipeline.components['guider']"),
    ],
)
def test_the_place_of_a_keyword_is_an_expression_that_works(pipe, keyword, place):
    assert place in refused(pipe, **{keyword: 3.0})


def test_guidance_of_one_stage_is_set_where_one_stage_is_made():
    assert "one_stage(checkpoint, video_guidance=" in refused(ltx2.one_stage(checkpoint()), guidance_scale=3.0)


def test_a_distilled_variant_names_its_sigmas():
    pipe = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3 distilled"))
    assert "LTX-2.3 distilled has 8 fixed sigmas" in refused(pipe, sigmas=[1.0, 0.5])


def test_the_image_is_held_alike_by_every_variant_and_otherwise_only_where_that_was_chosen():
    point = ltx2.load("tiny", variant="LTX-2")
    assert all(each.use_cross_timestep for each in ltx2.variants())  # as diffusers' pipelines and Lightricks' code
    other = dataclasses.replace(point, variant=dataclasses.replace(point.variant, use_cross_timestep=False))
    assert "dataclasses.replace(checkpoint, variant=" in refused(ltx2.one_stage(point), use_cross_timestep=False)
    request = REQUEST | {"width": 64, "image": PIL.Image.new("RGB", (64, 64), (200, 90, 20))}
    ours, theirs = (ltx2.one_stage(each).run(**request).frames for each in (point, other))
    assert not np.array_equal(ours, theirs)
