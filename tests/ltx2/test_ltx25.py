"""LTX-2.5, which can be rehearsed and not loaded: what is counted, and what is said of it."""

import math

import polars as pl
import pytest
import torch
from diffusers.models.autoencoders.ltx2_diffusion_decoder import _neighborhood_block_mask

from reslab import ltx2
from reslab.ltx2._checkpoint._configs import config
from reslab.ltx2._checkpoint._model_classes import detect
from reslab.ltx2._pipeline._stages import tiled
from reslab.residency import rehearse
from reslab.stages import Pipeline, stage

#: Counted from the configurations: Gemma 4 12B as its page on the Hub counts it, scales of its layers among them; the
#: rest as LTX-2.3's, but for the biases of 48 feed-forward layers (16384 + 4096) and the embedding of keyframes (4096).
PARAMETERS = {
    "text_encoder": 11_959_730_224 - 48,
    "connectors": 3_172_227_584,
    "transformer": 18_988_838_144 - 48 * (16_384 + 4_096) + 4_096,
    "vae": 726_105_969,
    "audio_vae": 53_248_146,
    "vocoder": 128_537_448,
    "latent_upsampler": 497_867_904,
}


@pytest.fixture(scope="module")
def blank():
    return ltx2.blank("LTX-2.5")


@pytest.fixture(scope="module")
def rehearsal(blank):
    return rehearse(ltx2.two_stage(blank), prompt="a heron", width=512, height=256, num_frames=17)


def test_every_component_has_its_parameters_and_lies_on_meta(blank):
    found = {name: sum(w.numel() for w in part.parameters()) for name, part in blank.modules.items()}
    with torch.device("meta"):
        decoder = type(blank.components["diffusion_decoder"])(**config("LTX-2.5", "diffusion_decoder"))
    assert found == PARAMETERS | {"diffusion_decoder": sum(weight.numel() for weight in decoder.parameters())}
    assert all(weight.is_meta for part in blank.modules.values() for weight in part.parameters())


def test_two_stages_make_eight_steps_three_more_and_one_decoding(rehearsal):
    made = rehearsal.calls.select(pl.col("stage", "component").cast(pl.String)).rows()
    assert made == [
        ("TextEncodingStage", "text_encoder"),
        ("TextEncodingStage", "text_encoder"),
        ("LTX2TextConnectorStage", "connectors"),
        *[("LTX2AVDenoisingStage", "transformer")] * 8,
        ("LTX2UpsampleStage", "latent_upsampler"),
        *[("LTX2RefinementStage", "transformer")] * 3,
        ("LTX2AVDecodingStage", "diffusion_decoder"),
        ("LTX2AVDecodingStage", "audio_vae"),
        ("LTX2AVDecodingStage", "vocoder"),
    ]


def test_the_decoder_attends_to_whole_windows(rehearsal):
    trace = rehearsal.traces.filter(pl.col("component").cast(pl.String) == "diffusion_decoder")
    stages = [  # blocks, frames × rows × columns, channels, window: two ghost frames until the last stage
        (4, 5 * 8 * 16, 2048, 3 * 7 * 7),
        (6, 5 * 16 * 32, 1024, 3 * 7 * 7),
        (4, 9 * 16 * 32, 512, 3 * 5 * 5),
        (2, 17 * 32 * 64, 512, 3 * 5 * 5),
        (8, 17 * 64 * 128, 256, 11 * 11 * 11),
    ]
    expected = sum(blocks * 4 * tokens * channels * window for blocks, tokens, channels, window in stages)
    assert trace["attention_flops"].to_list() == [expected]


def test_a_query_meets_as_many_keys_as_are_counted():
    kernel, (frames, rows, columns) = (3, 5, 5), (4, 6, 7)
    places = torch.arange(frames * rows * columns)
    mask = _neighborhood_block_mask(frames, rows, columns, kernel, "cpu").mask_mod
    met = mask(0, 0, places[:, None], places[None, :]).sum(dim=1)
    assert met.unique().tolist() == [math.prod(kernel)]


def test_what_is_missing_or_assumed_is_seen(blank):
    assert any("taken to be Gemma 4 12B" in note for note in blank.notes)
    assert repr(blank).endswith(f"{len(blank.notes)} notes)")
    assert all(note.split("'")[0] in blank._repr_html_() for note in blank.notes)
    assert ltx2.blank("LTX-2").notes == ()


@pytest.mark.parametrize(
    "wish",
    [
        lambda blank: blank.materialize(),
        lambda blank: ltx2.load("tiny", variant="LTX-2.5"),
        lambda blank: ltx2.load("LTX-2.5"),
        lambda blank: detect(config("LTX-2.5", "transformer"), config("LTX-2.5", "scheduler")),
    ],
)
def test_nothing_claims_to_load_or_run_it(blank, wish):
    with pytest.raises(ValueError, match=r"LTX-2\.5 can be rehearsed \(ltx2\.blank\), not loaded or run: the text enc"):
        wish(blank)
    assert "LTX-2.5" not in [each.name for each in ltx2.variants()]


def test_a_video_smaller_than_the_decoders_window_is_refused_before_anything_runs(blank):
    request = {"prompt": "a heron", "width": 192, "height": 256, "num_frames": 9}
    with pytest.raises(
        ValueError, match=r"width=192 is less than a window of the video decoder, 224; .* is 256\.\n"
    ) as no:
        ltx2.two_stage(blank).check(**request)
    assert "num_frames=9 is less than a window of the video decoder, 11; the nearest is 17." in str(no.value)
    ltx2.one_stage(blank).check(**request | {"width": 224, "num_frames": 17})


def test_its_default_is_rehearsed_in_two_stages_that_double_the_first_pass():
    asked = ltx2.rehearsal("LTX-2.5").meta["request"]
    assert (asked["width"], asked["height"], asked["num_frames"]) == (2 * 960, 2 * 544, 121)


@pytest.mark.parametrize("in_tiles", [False, True])
def test_sharing_equal_tiles_of_the_decoder_changes_no_total(blank, in_tiles):
    decoder = blank.components["diffusion_decoder"]

    @stage
    def decode(diffusion_decoder, latents):
        with tiled(diffusion_decoder, in_tiles):
            diffusion_decoder.decode(latents)

    pipe, latents = (
        Pipeline({"diffusion_decoder": decoder}).add(decode),
        torch.empty(1, 128, 3, 8, 32, dtype=torch.bfloat16, device="meta"),
    )
    shared, alone = (rehearse(pipe, latents=latents, share_blocks=share) for share in (True, False))
    assert shared.traces.equals(alone.traces)
