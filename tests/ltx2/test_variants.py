"""The variants agree with the libraries and with the published sizes."""

import pytest
import torch
from diffusers.pipelines.ltx2 import utils

from reslab.ltx2._checkpoint._configs import COMPONENTS, class_name, config, config_source
from reslab.ltx2._checkpoint._model_classes import find_class
from reslab.ltx2._shapes import AudioShape, VideoShape
from reslab.ltx2._variants import variant, variants

# Parameters of the released models: counted from their configurations, as published with the checkpoints.
RELEASED = {
    "LTX-2": {
        "transformer": 18_876_174_592,
        "text_encoder": 12_187_325_040,
        "connectors": 1_431_475_200,
        "vae": 1_222_479_601,
        "audio_vae": 53_248_146,
        "vocoder": 55_592_802,
        "latent_upsampler": 497_867_904,
    },
    "LTX-2.3": {
        "transformer": 18_988_838_144,
        "connectors": 3_172_227_584,
        "vae": 726_105_969,
        "vocoder": 128_537_448,
    },
}


@pytest.mark.parametrize(("name", "component"), [(name, part) for name, parts in RELEASED.items() for part in parts])
def test_configurations_give_the_released_sizes(name, component):
    kind, sizes = find_class(class_name(name, component)), config(name, component)
    with torch.device("meta"):
        module = kind(kind.config_class(**sizes)) if component == "text_encoder" else kind(**sizes)
    assert sum(parameter.numel() for parameter in module.parameters()) == RELEASED[name][component]


def test_distilled_sigmas_are_those_of_diffusers():
    distilled = variant("LTX-2.3 distilled")
    assert list(distilled.sigmas) == utils.DISTILLED_SIGMA_VALUES
    assert list(distilled.stage_2_sigmas) == utils.STAGE_2_DISTILLED_SIGMA_VALUES
    assert distilled.noise_scale == utils.STAGE_2_DISTILLED_SIGMA_VALUES[0]


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("LTX-2", ("cond", "uncond")),
        ("LTX-2.3", ("cond", "uncond", "stg", "modality")),
        ("LTX-2.3 distilled", ("cond",)),
    ],
)
def test_guidance_names_its_passes(name, passes):
    assert variant(name).video.passes == passes


def test_only_the_distilled_variant_needs_no_lora():
    assert [each.is_distilled for each in variants()] == [False, False, True]
    assert [each.lora_strength_stage_2 for each in variants()] == [1.0, 1.0, 0.0]


def test_an_unknown_component_names_those_there_are():
    with pytest.raises(ValueError, match=r"LTX-2 has no configuration for 'unet'; it has audio_vae, connectors"):
        config("LTX-2", "unet")


def test_configurations_are_sourced_and_cover_every_component():
    assert "convert_ltx2_to_diffusers.py at " in config_source()
    for each in variants():
        assert all(config(each.name, part) for part in COMPONENTS if part != "tokenizer")


def test_a_configuration_is_a_fresh_copy():
    config("LTX-2", "vae")["block_out_channels"].clear()
    assert config("LTX-2", "vae")["block_out_channels"] == [256, 512, 1024, 2048]


@pytest.mark.parametrize(("width", "height", "tokens"), [(768, 512, 6144), (1536, 1024, 24576), (1920, 1088, 32640)])
def test_video_tokens(width, height, tokens):
    shape = VideoShape.from_pixel_shape(width=width, height=height, num_frames=121)
    assert (shape.token_count, shape.packed, shape.pixel_shape) == (tokens, (1, tokens, 128), (width, height, 121))


def test_audio_tokens():
    shape = AudioShape.from_video(num_frames=121, frame_rate=24.0)
    assert (shape.token_count, shape.packed) == (126, (1, 126, 128))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"width": 100}, "width=100 is not a multiple of 32; the nearest is 96"),
        ({"height": 1080}, "height=1080 is not a multiple of 32; the nearest is 1088"),
        ({"num_frames": 10}, r"num_frames=10 is not 8k\+1; the nearest is 9"),
        ({"num_frames": 0}, r"num_frames=0 is not 8k\+1; the nearest is 1"),
    ],
)
def test_an_illegal_size_names_the_nearest(size, message):
    with pytest.raises(ValueError, match=message):
        VideoShape.from_pixel_shape(**{"width": 768, "height": 512, "num_frames": 121, **size})
