"""Compositions of Modular Diffusers give here what they give in diffusers, value by value, where they can be tiny."""

import logging
import re
from importlib import util
from pathlib import Path

import diffusers.modular_pipelines
import pytest
import torch
from diffusers.modular_pipelines import WanBlocks

from reslab.stages import BlockStage, Pipeline, PipelineError

torch.set_num_threads(1)
logging.getLogger("diffusers").setLevel(logging.ERROR)  # each block of diffusers' own runs would log


def load():
    spec = util.spec_from_file_location("modular_models", Path(__file__).with_name("modular_models.py"))
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models = load()

#: Compositions that diffusers exports and no test here runs, each with its reason.
NOT_TINY = {
    "Cosmos3DistilledBlocks": "reads tokenized prompts of Cosmos' reasoner in its own layout",
    "Cosmos3OmniBlocks": "reads tokenized prompts of Cosmos' reasoner in its own layout",
    "EchoBlocks": "continues speech: made from sound, not from text alone",
    "Flux3AutoBlocks": "its prompt upsampler is a Qwen 3.5 with a processor of files",
    "Flux3DistilledAutoBlocks": "its prompt upsampler is a Qwen 3.5 with a processor of files",
    "HeliosPyramidAutoBlocks": "diffusers 0.42.1 stops on a CPU: its noise's covariance is singular in float32",
    "HeliosPyramidDistilledAutoBlocks": "as HeliosPyramidAutoBlocks",
    "Ideogram4AutoBlocks": "its prompt enhancer is a Qwen 3 VL with a tokenizer of files",
    "LTX25AutoBlocks": "its diffusion decoder has no small configuration",
    "LTX2AutoBlocks": "runs in tests/residency/test_rehearse_blank.py, on the tiny LTX-2",
    "MiniMaxH3Blocks": "its prompt's layout comes from a processor of files",
    "MiniMaxMusic3Blocks": "makes music",
    "QwenImageEditAutoBlocks": "edits pictures",
    "QwenImageLayeredAutoBlocks": "takes pictures apart",
    "WanAnimate2Blocks": "animates from a video",
    "WanAnimate2DistilledBlocks": "animates from a video",
}
BASES = {"AutoPipelineBlocks", "ConditionalPipelineBlocks", "LoopSequentialPipelineBlocks", "ModularPipelineBlocks"}


def compositions():
    names = (name for name in dir(diffusers.modular_pipelines) if name.endswith("Blocks"))
    return {name for name in names if name not in BASES | {"SequentialPipelineBlocks"}}


def tensors(value):
    """The tensors in a value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for item in value for each in tensors(item)] if isinstance(value, (list, tuple)) else []


def run_by_diffusers(name):
    tiny = models.tiny(name)
    pipe = tiny.blocks.init_pipeline()
    pipe.update_components(**tiny.parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe(**tiny.request).values


def composed(name, **more):
    tiny = models.tiny(name)
    pipe = Pipeline.from_blocks(tiny.blocks, components=tiny.parts, **tiny.request, **more)
    pipe.progress = False
    return pipe, tiny.request


def test_every_composition_is_run_or_has_its_reason():
    assert compositions() == models.MODELS.keys() | NOT_TINY.keys()
    assert not models.MODELS.keys() & NOT_TINY.keys()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", models.MODELS)
def test_a_composition_gives_what_it_gives_in_diffusers(name):
    theirs = run_by_diffusers(name)
    pipe, request = composed(name)
    ours = pipe.run(**request)
    assert {"images", "videos"} & theirs.keys() <= ours.keys()
    for key, value in theirs.items():
        own = tensors(ours.get(key))
        assert [each.shape for each in own] == [each.shape for each in tensors(value)], key
        for mine, other in zip(own, tensors(value), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", sorted(compositions()))
def test_a_composition_asks_for_no_more_than_it_does_in_diffusers(name):
    blocks = getattr(diffusers.modular_pipelines, name)()
    pipe = Pipeline.from_blocks(blocks, prompt="a", image=object())
    for stage in pipe.stages:
        for component in stage.signature().components:
            pipe.components.setdefault(component, None)
    asked = set()
    try:
        pipe.check(prompt="a")
    except PipelineError as refused:
        asked = set(re.findall(r"reads '(\w+)': give it to run", str(refused)))
    assert asked <= set(blocks.get_execution_blocks(prompt="a", image=object()).required_inputs)


def test_a_value_that_a_block_may_change_counts_as_written():
    stage = BlockStage(WanBlocks().sub_blocks["denoise"].sub_blocks["set_timesteps"])
    assert "timesteps" in stage.signature().changes
    assert "timesteps" not in stage.signature().writes


def test_a_setting_of_the_blocks_is_their_default_or_what_is_given():
    assert composed("Wan22Blocks")[0].config["boundary_ratio"] == 0.875
    assert composed("Wan22Blocks", config={"boundary_ratio": 0.5})[0].config["boundary_ratio"] == 0.5
    with pytest.raises(PipelineError, match="declares no setting 'boundary'; did you mean 'boundary_ratio'"):
        composed("Wan22Blocks", config={"boundary": 0.5})


@pytest.mark.parametrize(("ratio", "second"), [(0.0, 0), (1.1, 4)])
def test_the_boundary_of_two_experts_is_the_setting(ratio, second, log):
    pipe, request = composed("Wan22Blocks", config={"boundary_ratio": ratio})
    with pipe.observe(log):
        pipe.run(**request)
    called = [line.split()[-1] for line in log.lines if "component call transformer" in line]
    assert called.count("transformer_2.forward") == second
    assert len(called) == 4  # two steps, each guided


def test_a_setting_given_as_none_is_filled_in_by_the_block_that_reads_it():
    pipe, request = composed("FluxAutoBlocks")
    assert pipe.run(**{**request, "num_inference_steps": 1, "sigmas": None}).timesteps.shape == (1,)
