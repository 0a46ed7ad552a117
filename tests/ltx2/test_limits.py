"""What a request may ask at most and at least; whatever is accepted can be scheduled and decoded."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler

from reslab import ltx2
from reslab.ltx2._checkpoint._configs import config
from reslab.ltx2._checkpoint._small_configs import small_config
from reslab.ltx2._pipeline._stages import tiled
from reslab.stages import PipelineError

REQUEST = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9}
NAMES = ["LTX-2", "LTX-2.3", "LTX-2.3 distilled"]


@pytest.fixture(scope="session")
def pipes(tiny_ltx2, tiny_ltx23, tiny_distilled):
    made = {}
    for point in (tiny_ltx2, tiny_ltx23, tiny_distilled):
        for stages, compose in (("one", ltx2.one_stage), ("two", ltx2.two_stage)):
            made[point.variant.name, stages] = pipe = compose(point)
            pipe.progress = False
    return made


def refused(pipe, **changes):
    with pytest.raises(PipelineError) as error:
        pipe.check(**{**REQUEST, **changes})
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("height", 720, "height=720 is not a multiple of 64 .*; the nearest is 704, then 768\\."),
        ("width", 1000, "the nearest is 1024, then 960\\."),
        ("width", 1, "the nearest is 64\\.$"),
        ("width", -64, "the nearest is 64\\.$"),
        ("height", 704.0, "height=704.0 is not a whole number of pixels; the nearest is 704\\."),
        ("height", "704", "height='704' is not a whole number of pixels\\."),
        ("height", True, "height=True is not a whole number of pixels\\."),
        ("num_frames", 100, "num_frames=100 is not 8k\\+1; the nearest is 97, then 105\\."),
        ("num_frames", -7, "the nearest is 1\\.$"),
        ("num_frames", "97", "num_frames='97' is not a whole number of frames\\."),
        ("max_sequence_length", 200, "the nearest is 256, then 128\\."),
    ],
)
def test_both_neighbours_are_proposed(pipes, name, asked, said):
    with pytest.raises(PipelineError, match=said):
        pipes["LTX-2.3", "two"].check(**{**REQUEST, name: asked})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 10**9}, "width=1000000000 is more than 8192 pixels, .*; the nearest is 8192."),
        ({"height": 640_000}, "height=640000 is more than 8192 pixels"),
        ({"width": np.int64(2**40)}, "is more than 8192 pixels"),
        ({"num_frames": 10**9 + 1}, "the nearest num_frames is 1913."),
        ({"num_frames": 1921}, "num_frames=1921 at frame_rate=24 lasts 80.04 s, more than 80 s"),
        ({"frame_rate": 1e-9}, "lasts 9e[+]09 s, more than 80 s.*; the nearest whole frame_rate is 1."),
        ({"frame_rate": Fraction(1, 10**9)}, "more than 80 s"),
        ({"frame_rate": 1e9}, "is more than 1000 frames a second.*; the nearest is 1000."),
        ({"num_inference_steps": 10**9}, "is more than the 1000 timesteps .*; the nearest is 1000."),
        ({"max_sequence_length": 128 * 10**7}, "is more than the 4096 positions .*; the nearest is 4096."),
        (
            {"width": 8192, "height": 8192},
            "1,048,576 tokens of video, more than 524,288.*; the nearest num_frames is 57.",
        ),
    ],
)
@pytest.mark.parametrize("stages", ["one", "two"])
def test_no_request_is_without_an_upper_bound(pipes, stages, changes, said):
    frames = {"num_frames": 121} if "height" in changes and "width" in changes else {}
    with pytest.raises(PipelineError, match=said):
        pipes["LTX-2.3", stages].check(**{**REQUEST, **frames, **changes})


@pytest.mark.parametrize(
    "request_", [{"width": 3840, "height": 2176, "num_frames": 481}, {"num_frames": 1913}, {"frame_rate": 240}]
)
def test_what_people_ask_for_is_within_the_bounds(pipes, request_):
    pipes["LTX-2.3 distilled", "two"].check(**{**REQUEST, "num_inference_steps": None, **request_})


def test_a_rehearsal_without_bounds_is_refused_before_a_model_is_built(monkeypatch):
    monkeypatch.setattr("reslab.ltx2._checkpoint._blank.blank", lambda *_, **__: pytest.fail("a model was built"))
    for asked in ({"width": 640_000, "height": 640_000}, {"num_frames": 10**9}, {"num_inference_steps": 10**9}):
        with pytest.raises(ValueError, match=r"is more than|lasts"):
            ltx2.rehearsal("LTX-2.3", image=True, **asked)


@pytest.mark.parametrize("asked", [{"width": 0}, {"num_frames": 0}, {"num_inference_steps": True}])
def test_a_rehearsal_of_nothing_is_refused(asked):
    with pytest.raises(ValueError, match=f"{next(iter(asked))}=.* is not"):
        ltx2.rehearsal("LTX-2.3", **asked)


def schedule_of(pipe, tokens, steps):
    """The sigmas of diffusers' schedule: its shift is linear in the tokens, 0.95 at 1024 and 2.05 at 4096."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.components["scheduler"].config)
    with np.errstate(all="ignore"):
        scheduler.set_timesteps(
            sigmas=np.linspace(1, 1 / steps, steps), mu=0.95 + (tokens - 1024) * (2.05 - 0.95) / (4096 - 1024)
        )
    return scheduler.sigmas


@pytest.mark.parametrize("steps", [2, 30, 40, 1000])
def test_what_is_accepted_has_a_schedule_of_numbers(pipes, steps):
    pipe, said = pipes["LTX-2", "one"], 0
    for frames in range(1, 481, 40):
        size = {"width": 1920, "height": 1088, "num_frames": frames // 8 * 8 + 1}
        tokens = (frames // 8 + 1) * 60 * 34
        finite = bool(schedule_of(pipe, tokens, steps).isfinite().all())
        if finite:
            pipe.check(**REQUEST | size | {"num_inference_steps": steps})
        else:
            said += 1
            message = refused(pipe, **size, num_inference_steps=steps)
            assert f"{tokens:,} tokens" in message
            assert 'sigma_schedule="reference"' in message
    assert said  # some of them are too long for the schedule


def test_the_reference_schedule_has_no_such_bound(tiny_ltx2):
    size = {"width": 1920, "height": 1088, "num_frames": 241}
    ltx2.one_stage(tiny_ltx2, sigma_schedule="reference").check(**REQUEST | size)


def test_the_first_of_two_stages_is_scheduled_by_its_own_tokens(pipes):
    pipes["LTX-2", "two"].check(**REQUEST | {"width": 3840, "height": 2176})  # half is 1920×1088: 4080 of 2 frames
    assert "tokens" in refused(pipes["LTX-2", "two"], width=3840, height=2176, num_frames=241)


@pytest.fixture(scope="module")
def vaes():
    """Tiny video VAEs on meta: a decode takes milliseconds, and its convolutions refuse what real ones refuse."""
    with torch.device("meta"):
        return {name: AutoencoderKLLTX2Video(**small_config(name, "vae")).eval() for name in ("LTX-2", "LTX-2.3")}


def decoded(vae, width, height, tiles, num_frames=1):
    latents = torch.empty(1, 8, (num_frames - 1) // 8 + 1, height // 32, width // 32, device="meta")
    with torch.no_grad(), tiled(vae, tiles, width=width, height=height):
        return tuple(vae.decode(latents, return_dict=False)[0].shape[2:])


def accepted(pipe, **size):
    try:
        pipe.check(**{**REQUEST, **size})
    except PipelineError:
        return False
    return True


class FirstConvolution(torch.nn.Module):
    """The video decoder's first convolution, which needs the most latents, and the size of what the others make."""

    def __init__(self, decoder):
        super().__init__()
        self.conv = decoder.conv_in

    def forward(self, latents, temb, causal):
        batch, _channels, frames, height, width = self.conv(latents, causal=causal).shape
        return torch.empty(batch, 3, (frames - 1) * 8 + 1, height * 32, width * 32, device="meta")


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
@pytest.mark.parametrize("stages", ["one", "two"])
def test_what_is_accepted_can_be_decoded_whole_and_in_tiles(monkeypatch, pipes, vaes, name, stages):
    monkeypatch.setitem(vaes[name]._modules, "decoder", FirstConvolution(vaes[name].decoder))
    for blend in ("blend_v", "blend_h"):  # hundreds of operations a tile, which change no shape
        monkeypatch.setattr(vaes[name], blend, lambda before, tile, extent: tile)
    step = 32 if stages == "one" else 64
    few = {step, 576, 928 if stages == "one" else 960}
    for width, height in itertools.product(range(step, 1900, step), few):
        fits = name == "LTX-2.3" or 32 not in (width, height)
        for sides in ({"width": width, "height": height}, {"width": height, "height": width}):
            assert accepted(pipes[name, stages], **sides, num_frames=1) == fits or {width, height} == {64}
            for tiles in (False, True) if fits else ():
                assert decoded(vaes[name], **sides, tiles=tiles) == (1, sides["height"], sides["width"])


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
@pytest.mark.parametrize(("width", "height"), [(480, 544), (928, 64), (64, 1376), (64, 64)])
def test_the_whole_decoder_takes_what_its_first_convolution_takes(vaes, name, width, height):
    assert decoded(vaes[name], width, height, tiles=True) == (1, height, width)


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
def test_a_size_that_is_refused_could_not_be_decoded(pipes, vaes, name):
    for width in (32, 64, 96):
        if not accepted(pipes[name, "one"], width=width, height=64, num_frames=1):
            with pytest.raises(RuntimeError, match=r"[Pp]adding"):
                decoded(vaes[name], width, 64, tiles=False)


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (32, 32)])
def test_one_latent_is_too_narrow_for_ltx_2_alone(pipes, size):
    width, height = size
    message = refused(pipes["LTX-2", "one"], width=width, height=height)
    name = "width" if width == 32 else "height"
    assert f"{name}=32 is less than the 64 pixels that LTX-2's video decoder needs, which pads by reflection" in message
    assert "the nearest is 64." in message
    pipes["LTX-2.3", "one"].check(**REQUEST | {"width": width, "height": height})


def test_no_error_proposes_a_size_below_the_least(pipes):
    assert refused(pipes["LTX-2", "one"], width=40).endswith("is not a multiple of 32; the nearest is 64.")


@pytest.mark.parametrize("image", [False, True])
def test_ltx_2_decodes_a_last_tile_of_one_latent(tiny_ltx2, image):
    pipe = ltx2.one_stage(tiny_ltx2, tiling="on", video_guidance=ltx2.Guidance(), audio_guidance=ltx2.Guidance())
    pipe.progress = False
    frame = {"image": np.zeros((928, 64, 3), np.uint8)} if image else {}
    video = pipe.run(prompt="x", width=64, height=928, num_frames=1, num_inference_steps=2, seed=7, **frame)
    assert video.frames.shape == (1, 928, 64, 3)
    vae = tiny_ltx2.components["vae"]
    assert (vae.tile_sample_stride_height, vae.use_tiling) == (448, False)


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
@pytest.mark.parametrize(("latents", "moved"), [(28, 448), (29, 416), (30, 448), (15, 416), (183, 384)])
def test_the_stride_moves_only_where_the_last_tile_would_be_too_narrow(vaes, name, latents, moved):
    with tiled(vaes[name], True, width=latents * 32, height=512):
        strides = vaes[name].tile_sample_stride_width, vaes[name].tile_sample_stride_height
    assert strides == (moved if name == "LTX-2" else 448, 448)


class Refusing:
    """A decoder whose stride cannot be set."""

    use_tiling, tile_sample_min_width, tile_sample_min_height = False, 512, 512
    config = type("Config", (dict,), {"spatial_compression_ratio": 32, "latent_channels": 4})(
        decoder_spatial_padding_mode="reflect"
    )
    tile_sample_stride_width = tile_sample_stride_height = property(lambda self: 448)


def test_a_decoder_that_refuses_a_stride_is_left_as_it_was():
    decoder = Refusing()
    with (
        pytest.raises(AttributeError, match="tile_sample_stride"),
        tiled(decoder, True, width=29 * 32, height=512),
    ):
        pass
    assert not decoder.use_tiling


def test_tiles_that_no_stride_makes_wide_enough_are_refused(tiny_ltx2):
    vae, pipe = tiny_ltx2.components["vae"], ltx2.one_stage(tiny_ltx2)
    before = dict(vars(vae))
    try:
        vae.enable_tiling(tile_sample_min_width=32, tile_sample_stride_width=32)
        assert "tiles of 32 pixels" in refused(pipe)
        assert "vae.enable_tiling(tile_sample_min_width=512, tile_sample_stride_width=448)" in refused(pipe)
    finally:
        vars(vae).update(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image", [False, True])
def test_one_frame_of_one_latent_is_too_little_for_a_narrow_upsampler(pipes, name, image):
    size = {"width": 64, "height": 64, "num_frames": 1}
    frame = {"image": np.zeros((64, 64, 3), np.uint8)} if image else {}
    message = refused(pipes[name, "two"], **size, **frame)
    assert "one value in each group of the latent upsampler's normalisation" in message
    assert "num_frames=9 or width=128" in message
    steps = {} if name.endswith("distilled") else {"num_inference_steps": 2}
    request = {"prompt": "x", "seed": 7, **steps, **frame}
    for enough in ({"width": 128}, {"height": 128}, {"num_frames": 9}):
        assert len(pipes[name, "two"].run(**request, **size | enough).frames)


def test_the_released_upsamplers_take_one_frame_of_one_latent():
    for name in NAMES:
        assert config(name, "latent_upsampler")["mid_channels"] // 32 > 1


@pytest.mark.parametrize("name", [*NAMES, "LTX-2.5"])
def test_the_defaults_of_every_variant_pass_its_own_check(name):
    checkpoint = ltx2.blank(name)
    for stages, compose in (("one", ltx2.one_stage), ("two", ltx2.two_stage)):
        width, height = checkpoint.variant.size(stages)
        for frame in ({}, {"image": np.zeros((height, width, 3), np.uint8)}):
            compose(checkpoint).check(prompt="x", **frame)
            compose(checkpoint).check(prompt="x", width=width, height=height, num_frames=121, **frame)


def test_two_stages_of_ltx_25_double_its_first_pass():
    assert ltx2.variant("LTX-2.5").size("one") == (960, 544)
    assert ltx2.variant("LTX-2.5").size("two") == (1920, 1088)
    assert ltx2.variant("LTX-2.3").size("two") == (768, 512)
