"""The composed pipelines: their stages and names, what is shared and what is not, and what a run leaves behind."""

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from tqdm.auto import tqdm

from reslab import ltx2
from reslab.stages import PipelineError, stage

# facts of the reference two-stage pipeline (sglang 0.5.23), in order
TWO_STAGE = [
    "InputValidationStage",
    "TextEncodingStage",
    "LTX2TextConnectorStage",
    "LTX2HalveResolutionStage",
    "LTX2LoRASwitchStage",
    "LTX2SigmaPreparationStage",
    "TimestepPreparationStage",
    "LTX2AVLatentPreparationStage",
    "LTX2ImageEncodingStage",
    "LTX2AVDenoisingStage",
    "LTX2UpsampleStage",
    "ltx2_lora_switch_stage2",
    "ltx2_image_encoding_stage2",
    "LTX2RefinementStage",
    "LTX2AVDecodingStage",
]
ONLY_TWO = {
    "LTX2HalveResolutionStage",
    "LTX2LoRASwitchStage",
    "LTX2UpsampleStage",
    "ltx2_lora_switch_stage2",
    "ltx2_image_encoding_stage2",
    "LTX2RefinementStage",
}
REQUEST = {"prompt": "a heron over a weir", "width": 128, "height": 64, "num_frames": 9, "seed": 7}


@functools.cache
def checkpoint(name: str = "LTX-2.3") -> ltx2.Checkpoint:
    return ltx2.load("tiny", variant=name)


def two_stage(name: str = "LTX-2.3", **settings):
    pipe = ltx2.two_stage(checkpoint(name), **settings)
    pipe.progress = False
    return pipe


class Log:
    """Keeps the events of a run as (depth, kind, name, index)."""

    def __init__(self):
        self.events, self.depth = [], 0

    def begin(self, kind, name, index=-1, nbytes=0):
        self.events.append((self.depth, str(kind), name, index))
        self.depth += 1

    def end(self, error=None):
        self.depth -= 1

    def named(self, kind):
        return [name for _depth, its, name, _index in self.events if its == kind]


def observed(pipe, **changes):
    log = Log()
    with pipe.observe(log):
        pipe.run(**{**REQUEST, "num_inference_steps": 2, **changes})
    assert log.depth == 0
    return log


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
def test_stages_bear_the_registered_names_of_the_reference_in_order(name):
    assert [each.registered_name for each in two_stage(name).stages] == TWO_STAGE


def test_one_stage_leaves_out_what_only_two_need():
    one = ltx2.one_stage(checkpoint())
    assert [each.registered_name for each in one.stages] == [name for name in TWO_STAGE if name not in ONLY_TWO]


def test_repeated_classes_have_names_of_their_own():
    classes = Counter(each.stage_class for each in two_stage().stages)
    assert {name for name, count in classes.items() if count > 1} == {"LTX2LoRASwitchStage", "LTX2ImageEncodingStage"}
    assert len({each.profile_name for each in two_stage().stages}) == 15


def test_a_distilled_variant_switches_no_lora():
    names = [each.registered_name for each in two_stage("LTX-2.3 distilled").stages]
    assert names == [name for name in TWO_STAGE if "lora" not in name.lower()]


def test_the_prompt_is_encoded_once():
    log = observed(two_stage())
    assert Counter(log.named("component call"))["connectors.forward"] == 1
    assert Counter(log.named("component call"))["text_encoder.forward"] == 2  # the prompt and the negative prompt


def test_observers_see_every_stage_step_and_guidance_pass():
    log = observed(two_stage())
    assert log.named("stage") == TWO_STAGE
    steps = [index for _depth, kind, _name, index in log.events if kind == "step"]
    assert steps == [0, 1, 0, 1, 2]
    four = ["pred_cond", "pred_uncond", "pred_cond_stg", "pred_cond_modality"]
    assert log.named("guidance pass") == four * 2 + ["pred_cond"] * 3


def test_ltx_2_is_guided_in_two_passes_and_a_distilled_variant_in_one():
    assert observed(two_stage("LTX-2")).named("guidance pass") == ["pred_cond", "pred_uncond"] * 2 + ["pred_cond"] * 3
    distilled = observed(two_stage("LTX-2.3 distilled"), num_inference_steps=None)
    assert distilled.named("guidance pass") == ["pred_cond"] * 11


def test_equal_seeds_give_equal_videos_bit_for_bit():
    pipe = two_stage()
    first, again, other = (pipe.run(**REQUEST | {"seed": seed, "num_inference_steps": 2}) for seed in (7, 7, 8))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.audio, again.audio)
    assert not np.array_equal(first.frames, other.frames)


def test_the_result_is_uint8_frames_and_sound_on_the_host():
    video = two_stage().run(**REQUEST, num_inference_steps=2)
    assert (video.frames.shape, video.frames.dtype) == ((9, 64, 128, 3), np.uint8)
    assert video.audio.ndim == 2
    assert video.audio.shape[1] == 2
    assert (video.frame_rate, video.sample_rate, video.untrained) == (24.0, 48000, True)


def test_an_image_becomes_the_first_frame_of_both_stages():
    image = PIL.Image.fromarray(np.full((64, 128, 3), 200, np.uint8))
    pipe = two_stage()
    pipe.result = None
    values = pipe.run(**REQUEST, image=image, num_inference_steps=2)
    clean, tokens = values.refine_condition_latents[0], values.refine_latents[:, : 2 * 4]
    assert clean.shape == (1, 8, 1, 2, 4)
    torch.testing.assert_close(tokens, clean.flatten(2).transpose(1, 2))


def test_a_run_with_an_image_encodes_it_at_both_sizes():
    image = PIL.Image.new("RGB", (128, 64))
    assert Counter(observed(two_stage(), image=image).named("component call"))["vae.encode"] == 2
    assert "vae.encode" not in observed(two_stage()).named("component call")


def test_what_decoding_hands_over_is_the_video_alone():
    pipe = two_stage()
    assert pipe.stages["LTX2AVDecodingStage"].signature().writes == ("video",)
    pipe.result = "videos"
    with pytest.raises(PipelineError, match="no stage writes the result 'videos'; did you mean 'video'"):
        pipe.check(**REQUEST)


def test_decode_audio_says_whose_sound_is_decoded():
    request = REQUEST | {"num_inference_steps": 2}
    first, second = (two_stage(decode_audio=whose).run(**request) for whose in ("stage 1", "stage 2"))
    assert np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.audio, second.audio)


def test_the_two_sigma_schedules_differ_and_are_recorded():
    assert two_stage(sigma_schedule="reference").settings["sigma_schedule"] == "reference"
    request = REQUEST | {"num_inference_steps": 3}
    ours, theirs = (two_stage(sigma_schedule=which).run(**request) for which in ("diffusers", "reference"))
    assert not np.array_equal(ours.frames, theirs.frames)


def test_two_stages_say_what_the_checkpoint_was_loaded_without():
    whole = checkpoint()
    parts = {name: part for name, part in whole.components.items() if name != "latent_upsampler"}
    with pytest.raises(PipelineError, match="load it again with latent_upsampler=… and lora=…, or compose one_stage"):
        ltx2.two_stage(replace(whole, components=parts, distilled_lora=None))


@pytest.mark.parametrize("setting", ["sigma_schedule", "decode_audio", "tiling"])
def test_an_unknown_setting_is_refused(setting):
    with pytest.raises(PipelineError, match=rf"there is no {setting} 'sometimes'; known: "):
        two_stage(**{setting: "sometimes"})


@pytest.mark.parametrize(
    ("tiling", "pixels", "user", "expected"),
    [("auto", 10**6, False, False), ("auto", 0, False, True), ("on", 10**6, False, True), ("off", 0, False, False),
     ("off", 0, True, True), ("auto", 10**6, True, True)],
)  # fmt: skip
def test_the_vae_decodes_in_tiles_where_due_and_is_left_as_it_was(tiling, pixels, user, expected):
    pipe = two_stage(tiling=tiling)
    decoding = pipe.stages["LTX2AVDecodingStage"]
    if tiling == "auto":
        decoding.tile_above_pixels = pixels
    vae, seen = pipe.components["vae"], []
    vae.use_tiling = user

    class Look(Log):
        def begin(self, kind, name, index=-1, nbytes=0):
            super().begin(kind, name, index, nbytes)
            if name == "vae.decode":
                seen.append(vae.use_tiling)

    with pipe.observe(Look()):
        pipe.run(**REQUEST, num_inference_steps=2)
    assert (seen, vae.use_tiling) == ([expected], user)
    vae.use_tiling = False


def test_above_the_stated_size_tiling_is_on():
    assert ltx2.variant("LTX-2.3").tile_above_pixels == 768 * 512 * 121
    assert two_stage().stages["LTX2AVDecodingStage"].tile_above_pixels == 768 * 512 * 121


def test_tiled_decoding_of_a_larger_video_changes_bits_and_little_else():
    request = REQUEST | {"width": 576, "height": 64, "num_inference_steps": 2}
    whole, tiles = (two_stage(tiling=tiling).run(**request).frames.astype(int) for tiling in ("off", "on"))
    assert 0 < np.abs(whole - tiles).mean() < 16


def test_one_stage_runs_without_the_lora_that_two_stages_left_on():
    one = ltx2.one_stage(checkpoint())
    one.progress = False
    request = REQUEST | {"num_inference_steps": 2}
    before = one.run(**request)
    two_stage().run(**request)
    assert np.array_equal(one.run(**request).frames, before.frames)


def test_composing_twice_adds_the_lora_once():
    parameters = sum(1 for _ in two_stage().components["transformer"].parameters())
    assert sum(1 for _ in two_stage().components["transformer"].parameters()) == parameters


def test_a_failing_stage_is_named_and_the_pipeline_stays_usable():
    pipe = two_stage()

    @stage
    def broken(refine_latents):
        raise RuntimeError("out of luck")

    pipe.add(broken, name="luck", before="LTX2RefinementStage")
    with pytest.raises(RuntimeError, match="out of luck") as error:
        pipe.run(**REQUEST, num_inference_steps=2)
    assert error.value.__notes__ == ["in the stage 'luck' (14 of 16) of 'LTX-2.3, two stages'"]
    assert two_stage().run(**REQUEST, num_inference_steps=2).frames.shape == (9, 64, 128, 3)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bars_name_their_stage(monkeypatch, progress):
    shown = []

    def bar(*args, **kwargs):
        shown.append((kwargs["desc"], kwargs["total"], kwargs.get("disable", False)))
        return tqdm(*args, **kwargs)

    monkeypatch.setattr("diffusers.modular_pipelines.modular_pipeline.tqdm", bar)
    pipe = two_stage()
    pipe.progress = progress
    pipe.run(**REQUEST, num_inference_steps=2)
    assert shown == [("LTX2AVDenoisingStage", 2, not progress), ("LTX2RefinementStage", 3, not progress)]


def test_the_checkpoint_keeps_its_own_scheduler_untouched():
    scheduler = checkpoint().components["scheduler"]
    before = dict(vars(scheduler))
    two_stage(sigma_schedule="reference").run(**REQUEST, num_inference_steps=2)
    assert vars(scheduler).keys() == before.keys()
    assert "num_inference_steps" not in vars(scheduler)
