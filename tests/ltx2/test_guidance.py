"""Guidance that is paid for changes the video, whatever the variant; what could change nothing is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel

from reslab import ltx2
from reslab.ltx2._checkpoint._configs import config
from reslab.ltx2._checkpoint._model_classes import detect
from reslab.ltx2._checkpoint._small_configs import SIZES, small_config
from reslab.stages import PipelineError

NAMES = ["LTX-2", "LTX-2.3", "LTX-2.3 distilled"]
REQUEST = {"prompt": "a heron", "width": 64, "height": 64, "num_frames": 9, "seed": 7}
OFF = ltx2.Guidance()


def pipeline(checkpoint, video=OFF, audio=OFF):
    pipe = ltx2.one_stage(checkpoint, video_guidance=video, audio_guidance=audio)
    pipe.progress = False
    return pipe


def video_of(checkpoint, video=OFF, audio=OFF):
    steps = {} if checkpoint.variant.sigmas else {"num_inference_steps": 2}
    pipe = pipeline(checkpoint, video, audio)
    if checkpoint.variant.is_distilled:  # it names no blocks to perturb
        pipe.components["guider"].spatio_temporal_guidance_blocks = [2]
    return pipe.run(**REQUEST, **steps)


@pytest.fixture(scope="module")
def unguided():
    kept = {}

    def of(checkpoint):
        return kept.setdefault(checkpoint.variant.name, video_of(checkpoint))

    return of


KINDS = {"cfg": {"cfg": 3.0}, "stg": {"stg": 1.0}, "modality": {"modality": 3.0}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["video", "audio"])
def test_each_pass_that_is_paid_for_changes_its_side(checkpoint, unguided, kind, side):
    guided = video_of(checkpoint, **{side: ltx2.Guidance(**KINDS[kind])})
    before, after = ((each.frames if side == "video" else each.audio) for each in (unguided(checkpoint), guided))
    assert not np.allclose(before, after, atol=1e-3)


def test_rescaling_changes_what_is_guided_and_costs_no_pass(tiny_ltx2):
    strong, rescaled = ltx2.Guidance(cfg=3.0), ltx2.Guidance(cfg=3.0, rescale=0.7)
    assert strong.passes == rescaled.passes
    assert not np.array_equal(video_of(tiny_ltx2, strong).frames, video_of(tiny_ltx2, rescaled).frames)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [None, *SIZES])
def test_a_transformer_that_can_be_perturbed_has_the_released_weights(name, size):
    sizes = config(name, "transformer") if size is None else small_config(name, "transformer", size)
    assert sizes["perturbed_attn"]
    with torch.device("meta"):
        ours, without = (
            LTX2VideoTransformer3DModel(**{**sizes, "num_layers": 1, "perturbed_attn": on}) for on in (True, False)
        )
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (ours, without)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("published", [True, False, None])
def test_the_variant_is_detected_whatever_a_configuration_says_of_perturbing(name, published):
    transformer = config(name, "transformer") | {"perturbed_attn": published}
    if published is None:
        del transformer["perturbed_attn"]
    assert detect(transformer, config(name, "scheduler")).name == name


def test_a_loaded_ltx_2_can_be_perturbed_whatever_its_folder_says(tmp_path, tiny_ltx2):
    folder = ltx2.write(tiny_ltx2, tmp_path / "written")
    file = folder / "transformer" / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    assert settings["perturbed_attn"]
    file.write_text(json.dumps(settings | {"perturbed_attn": False}), encoding="utf-8")  # as Lightricks/LTX-2 has it
    loaded = ltx2.load(folder, progress=False)
    stg = ltx2.Guidance(cfg=3.0, stg=1.0)
    assert np.array_equal(video_of(loaded, stg, stg).frames, video_of(tiny_ltx2, stg, stg).frames)
    assert loaded.components["transformer"].config.perturbed_attn


def test_a_transformer_that_cannot_be_perturbed_is_refused_with_the_way_out(tiny_ltx2):
    transformer = LTX2VideoTransformer3DModel.from_config(
        tiny_ltx2.components["transformer"].config, perturbed_attn=False
    )
    made_elsewhere = replace(tiny_ltx2, components={**tiny_ltx2.components, "transformer": transformer})
    with pytest.raises(PipelineError, match=r"was built with perturbed_attn=False.*LTX2VideoTransformer3DModel") as no:
        pipeline(made_elsewhere, ltx2.Guidance(stg=1.0)).check(**REQUEST)
    assert "stg=0" in str(no.value)
    pipeline(made_elsewhere, ltx2.Guidance(cfg=3.0)).check(**REQUEST)


@pytest.mark.parametrize("side", ["video", "audio"])
def test_guidance_without_blocks_to_perturb_is_refused(tiny_distilled, side):
    with pytest.raises(PipelineError, match=r"no block to perturb.*spatio_temporal_guidance_blocks = \[2\]"):
        pipeline(tiny_distilled, **{side: ltx2.Guidance(stg=1.0)}).check(**REQUEST)


@pytest.mark.parametrize("side", ["video", "audio"])
def test_a_block_beyond_the_depth_is_refused_whichever_side_asks(tiny_ltx2, side):
    pipe = pipeline(tiny_ltx2, **{side: ltx2.Guidance(stg=1.0)})
    pipe.components["guider"].spatio_temporal_guidance_blocks = [29]
    with pytest.raises(PipelineError, match=r"perturbs block 29, but the transformer has 4 blocks"):
        pipe.check(**REQUEST)


@pytest.mark.parametrize("strength", [float("nan"), float("-inf"), True])
@pytest.mark.parametrize("kind", ["cfg", "stg", "rescale", "modality"])
def test_a_strength_is_a_number(kind, strength):
    with pytest.raises(ValueError, match=rf"{kind}={strength!r} is not a finite number; off is "):
        ltx2.Guidance(**{kind: strength})


@pytest.mark.parametrize("rescale", [-0.1, 1.5])
def test_rescaling_is_a_share(rescale):
    with pytest.raises(ValueError, match=rf"rescale={rescale} is not between 0 and 1; the nearest is [01]\."):
        ltx2.Guidance(rescale=rescale)


def test_numbers_of_numpy_are_strengths():
    guidance = ltx2.Guidance(cfg=np.float64(3), stg=np.float64(1))
    assert guidance.passes == ("cond", "uncond", "stg")
    assert type(guidance.cfg) is float
