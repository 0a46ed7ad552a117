"""The rules of LTX-2: ours name the nearest legal value before anything runs; beside each, what diffusers does."""

import functools
import warnings

import numpy as np
import pytest
import torch
from diffusers.modular_pipelines.ltx2 import LTX2AutoBlocks
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

from reslab import ltx2
from reslab.ltx2._rules import nearest_multiple
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


@pytest.mark.parametrize(("name", "asked", "nearest"), [("height", 100, 128), ("width", 1, 64), ("width", 719, 704)])
def test_sizes_are_multiples_of_64(pipe, name, asked, nearest):
    assert refused(pipe, **{name: asked}) == (
        f"{name}={asked} is not a multiple of 64 (the first stage runs at half size); the nearest is {nearest}."
    )


def test_one_stage_takes_multiples_of_32():
    assert "multiple of 32; the nearest is 96." in refused(ltx2.one_stage(checkpoint()), height=100)


def test_diffusers_rounds_a_height_of_100_down_in_silence():
    assert diffusers_would(height=100).get("videos").shape[-2] == 96


def test_frames_are_8k_plus_1(pipe):
    assert refused(pipe, num_frames=10) == "num_frames=10 is not 8k+1; the nearest is 9."
    assert refused(pipe, num_frames=14) == "num_frames=14 is not 8k+1; the nearest is 17."


def test_diffusers_makes_9_frames_of_10_in_silence():
    assert diffusers_would(num_frames=10).get("videos").shape[1] == 9


def test_at_least_two_steps(pipe):
    assert "at least 2 are needed" in refused(pipe, num_inference_steps=1)


def test_diffusers_computes_nan_with_one_step():
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert diffusers_would(num_inference_steps=1).get("latents").isnan().all()


def test_a_distilled_variant_has_its_own_steps():
    pipe = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3 distilled"))
    assert "runs 8 fixed steps; leave it out" in refused(pipe, num_inference_steps=30)


def test_the_sequence_length_is_a_multiple_of_the_registers(pipe):
    assert refused(pipe, max_sequence_length=200) == (
        "max_sequence_length=200 is not a multiple of the connectors' 128 registers; the nearest is 256."
    )


def test_diffusers_fails_on_a_sequence_length_of_200_after_the_text_encoder_ran():
    with pytest.raises(ValueError, match="divisible by"):
        diffusers_would(max_sequence_length=200)


@pytest.mark.parametrize("rate", [0, -24.0, float("nan"), float("inf"), "24"])
def test_the_frame_rate_is_positive(pipe, rate):
    assert "is not a positive number of frames a second; the default is 24." in refused(pipe, frame_rate=rate)


def test_diffusers_divides_by_a_frame_rate_of_0():
    with pytest.raises(ZeroDivisionError):
        diffusers_would(frame_rate=0.0)


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
    with pytest.raises(ValueError, match=r"The nearest is 'LTX-2\.3 distilled'"):
        ltx2.load("tiny", variant="LTX-2.3 destilled")


@pytest.mark.parametrize(
    ("image", "got"),
    [
        ("heron.png", "got str"),
        (np.zeros((64, 128, 3)), "got ndarray of shape (64, 128, 3) and float64"),
        (np.zeros((64, 128), np.uint8), "got ndarray of shape (64, 128) and uint8"),
    ],
)
def test_an_image_of_the_wrong_kind_is_refused(pipe, image, got):
    assert got in refused(pipe, image=image)


def test_diffusers_takes_a_float_image_only_after_the_text_encoder_ran():
    with pytest.raises(ValueError, match="expects a uint8 RGB frame"):
        diffusers_would(conditions=[LTX2VideoCondition(frames=np.zeros((64, 128, 3)))])


def test_all_that_is_wrong_is_said_at_once(pipe):
    message = refused(pipe, width=100, num_frames=10, frame_rate=0)
    assert all(part in message for part in ("width=100", "num_frames=10", "frame_rate=0"))


def test_seed_and_generator_exclude_each_other(pipe):
    assert "give one of them" in refused(pipe, generator=torch.Generator())


@pytest.mark.parametrize("number", range(1, 200))
def test_the_nearest_multiple_is_legal_and_nearest(number):
    nearest = nearest_multiple(number, 8, offset=1)
    assert nearest % 8 == 1
    assert abs(nearest - number) == min(abs(number - legal) for legal in range(1, 300, 8))
