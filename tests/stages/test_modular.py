"""Compositions of Modular Diffusers give here what they give in diffusers, value by value, where they can be tiny."""

import logging
import re
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import diffusers.modular_pipelines
import pytest
import torch
from diffusers.modular_pipelines import WanBlocks
from diffusers.modular_pipelines.helios import encoders as helios
from diffusers.modular_pipelines.qwenimage import encoders as qwenimage
from diffusers.modular_pipelines.wan import encoders as wan
from torch.nn.attention import flex_attention

from reslab.stages import BlockStage, Pipeline, PipelineError

torch.set_num_threads(1)
logging.getLogger("diffusers").setLevel(logging.ERROR)  # each block of diffusers' own runs would log


def load(name):
    spec = util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models, texts = load("modular_models"), load("modular_texts")

#: Compositions that diffusers exports and no test here runs, each with its reason.
NOT_TINY = {
    "EchoBlocks": "continues speech: made from sound, not from text alone",
    "HeliosPyramidAutoBlocks": "tried: diffusers 0.42.1 alone stops on a CPU (its noise's covariance: LinAlgError)",
    "HeliosPyramidDistilledAutoBlocks": "as HeliosPyramidAutoBlocks",
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


def tiny(name, prompted=False):
    return models.tiny(name, *texts.PROMPTED[name]) if prompted else models.tiny(name)


def run_by_diffusers(made):
    pipe = made.blocks.init_pipeline()
    pipe.update_components(**made.parts, **made.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe(**made.request).values


def composed(name, prompted=False, config=None):
    made = tiny(name, prompted)
    config = made.config if config is None else config
    pipe = Pipeline.from_blocks(made.blocks, components=made.parts, config=config, **made.request)
    pipe.progress = False
    return pipe, made.request


@pytest.fixture
def small(monkeypatch):
    """Leave out, of diffusers' runs and ours alike, what takes seconds or a package, and changes nothing that we do."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # of LTX-2.5's decoder
    sized = qwenimage.calculate_dimensions
    monkeypatch.setattr(
        qwenimage, "calculate_dimensions", lambda _area, ratio: sized(64 * 64, ratio)
    )  # not 1024 * 1024
    for blocks in (wan, helios):  # they want ftfy to clean a prompt
        monkeypatch.setattr(blocks, "ftfy", SimpleNamespace(fix_text=str), raising=False)


def same(ours, theirs):
    """Hold our values to diffusers' own, and return how many tensors those were."""
    count = 0
    for key, value in theirs.items():
        own = tensors(ours.get(key))
        assert [each.shape for each in own] == [each.shape for each in tensors(value)], key
        for mine, other in zip(own, tensors(value), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4, equal_nan=True)
            count += 1
    return count


def test_every_composition_is_run_or_has_its_reason():
    assert compositions() == models.MODELS.keys() | NOT_TINY.keys()
    assert not models.MODELS.keys() & NOT_TINY.keys()


#: Warnings of the libraries that the compositions use.
quiet = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@quiet
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [*filter(models.is_embedded, models.MODELS)])
def test_a_composition_gives_what_it_gives_in_diffusers(name):
    theirs = run_by_diffusers(tiny(name))
    pipe, request = composed(name)
    ours = pipe.run(**request)
    assert {"images", "videos"} & theirs.keys() <= ours.keys()
    assert same(ours, theirs)


@quiet
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [*texts.PROMPTED])
def test_a_prompt_is_encoded_and_made_a_picture_or_video_as_in_diffusers(name, log):
    theirs = run_by_diffusers(tiny(name, prompted=True))
    pipe, request = composed(name, prompted=True)
    with pipe.observe(log):
        ours = pipe.run(**request)
    assert same(ours, theirs)
    encoders = {each for each in pipe.components if each.startswith("text_encoder")}
    assert encoders <= {line.split()[-1].split(".")[0] for line in log.lines if "component call" in line}


def test_every_composition_that_is_not_given_an_embedded_prompt_encodes_its_own():
    assert {name for name in models.MODELS if not models.is_embedded(name)} <= texts.PROMPTED.keys()


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
