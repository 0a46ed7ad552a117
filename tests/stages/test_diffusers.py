"""Blocks and pipelines of diffusers itself, as stages."""

import inspect
import logging

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.modular_pipelines import LoopSequentialPipelineBlocks, ModularPipelineBlocks, SequentialPipelineBlocks
from diffusers.modular_pipelines.ltx2.before_denoise import LTX2SetTimestepsStep, LTX2TextInputStep
from diffusers.modular_pipelines.ltx2.modular_blocks_ltx2 import LTX2AutoBlocks
from diffusers.modular_pipelines.modular_pipeline import AutoPipelineBlocks, ConditionalPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam

from reslab.stages import BlockStage, Pipeline, PipelineError, stage


class Scale(ModularPipelineBlocks):
    """Writes `scaled`, and has a default that diffusers makes anew on every look."""

    model_name = "ltx2"

    @property
    def inputs(self):
        return [InputParam("latents", required=True), InputParam("by", default=[2])]

    @property
    def intermediate_outputs(self):
        return [OutputParam("scaled", kwargs_type="denoiser_input_fields")]

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.scaled = block_state.latents * block_state.by[0]
        block_state.scratch = 1
        self.set_block_state(state, block_state)
        return components, state


class Gather(Scale):
    @property
    def inputs(self):
        return [InputParam.template("denoiser_input_fields")]

    @property
    def intermediate_outputs(self):
        return [OutputParam("gathered")]

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.gathered = dict(block_state.denoiser_input_fields)
        self.set_block_state(state, block_state)
        return components, state


def test_default_that_a_block_fills_in_does_not_leak():
    assert dict(Pipeline().add(BlockStage(Scale())).run(latents=3)) == {"latents": 3, "scaled": 6}


def test_blocks_tag_and_gather_values_under_other_names():
    pipeline = Pipeline().add(BlockStage(Scale()), name="half", values={"scaled": "half_scaled"})
    pipeline.add(BlockStage(Scale()), name="full", given={"by": [10]})
    pipeline.add(BlockStage(Gather()), name="gather", values={"scaled": "half_scaled", "gathered": "half"})
    pipeline.add(BlockStage(Gather()), name="gather all")
    values = pipeline.run(latents=3)
    assert values.half == {"scaled": 6}
    assert values.gathered == {"half_scaled": 6, "scaled": 30}


def test_timesteps_of_ltx2_are_set_from_properties_that_diffusers_computes():
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipeline = Pipeline({"mine": scheduler}).add(
        BlockStage(LTX2SetTimestepsStep()), components={"scheduler": "mine"}, values={"height": "half_height"}
    )
    values = pipeline.run(num_inference_steps=2, half_height=64, width=128, num_frames=9)
    assert values.timesteps.tolist() == [1000.0, 500.0]
    assert set(values) == {
        "num_inference_steps", "half_height", "width", "num_frames", "timesteps", "audio_scheduler",
    }  # fmt: skip
    assert values.audio_scheduler is not scheduler


def test_timesteps_left_over_from_stage_one_can_be_hidden():
    pipeline = Pipeline({"scheduler": FlowMatchEulerDiscreteScheduler()})
    pipeline.add(BlockStage(LTX2SetTimestepsStep()), name="stage 1", given={"num_inference_steps": 2})
    fixed = {"num_inference_steps": 1, "sigmas": [0.25], "timesteps": None}
    pipeline.add(BlockStage(LTX2SetTimestepsStep()), name="stage 2", given=fixed)
    assert pipeline.run(num_frames=9).timesteps.tolist() == [250.0]


class Denoiser(ModularPipelineBlocks):
    model_name = "ltx2"

    @property
    def expected_components(self):
        return [ComponentSpec("transformer", torch.nn.Module)]

    @property
    def inputs(self):
        return [InputParam("latents", required=True)]

    def __call__(self, components, block_state, i, t):
        assert list(inspect.signature(components.transformer.forward).parameters) == ["latents", "t"]
        block_state.latents = components.transformer(block_state.latents, t)
        return components, block_state


class Denoise(LoopSequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (Denoiser,)
    block_names = ("denoiser",)

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        with self.progress_bar(total=2):
            for i in range(2):
                components, block_state = self.loop_step(components, block_state, i=i, t=10.0 * i)
        self.set_block_state(state, block_state)
        return components, state


class Transformer(torch.nn.Module):
    def forward(self, latents, t):
        if latents is None:
            raise ValueError("no latents")
        return latents + t


def test_loop_of_diffusers_runs_as_one_stage_and_tells_its_steps(log):
    pipeline = Pipeline({"transformer": Transformer()}, result="z", progress=False)
    pipeline.add(BlockStage(Denoise()), name="denoise", values={"latents": "z"})
    with pipeline.observe(log):
        assert pipeline.run(z=1.0) == 11.0
    forward = "      component call transformer.forward"
    assert log.lines[1:] == ["  stage denoise 0", "    step step 0", forward, "    step step 1", forward]


@pytest.fixture
def framework_log(caplog):
    """What diffusers logs of its blocks; its loggers do not propagate."""
    logger = logging.getLogger("diffusers.modular_pipelines.modular_pipeline")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_error_of_a_block_is_raised_once_without_the_frameworks_log_lines(framework_log):
    class Fails(Transformer):
        def forward(self, latents, t):
            raise ValueError("no latents")

    pipeline = Pipeline({"transformer": Fails()}, progress=False).add(BlockStage(Denoise()), name="denoise")
    with pytest.raises(ValueError, match="no latents") as caught:
        pipeline.run(latents=1.0)
    assert framework_log.records == []
    assert caught.value.__notes__ == ["in the stage 'denoise' (1 of 1) of 'pipeline'"]
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_framework_logs_again_after_a_stage(framework_log):
    pipeline = Pipeline({"transformer": Transformer()}, progress=False).add(BlockStage(Denoise()), name="denoise")
    pipeline.run(latents=1.0)
    with pytest.raises(TypeError):
        Denoise().loop_step(None, None, wrong=1)
    assert {record.getMessage().split(":")[0] for record in framework_log.records} == {"\nError in block"}


@pytest.fixture(scope="module")
def ltx2():
    return LTX2AutoBlocks()


def test_text_request_resolves_to_the_leaves_of_ltx2(ltx2):
    pipeline = Pipeline.from_blocks(ltx2, prompt="a heron", num_frames=9, result="videos")
    assert [(stage.registered_name, stage.stage_class) for stage in pipeline.stages] == [
        ("text_encoder.text_encoder", "LTX2TextEncoderStep"),
        ("text_encoder.connectors", "LTX2TextConnectorStep"),
        ("denoise.input", "LTX2TextInputStep"),
        ("denoise.set_timesteps", "LTX2SetTimestepsStep"),
        ("denoise.prepare_latents", "LTX2PrepareLatentsStep"),
        ("denoise.prepare_audio_latents", "LTX2PrepareAudioLatentsStep"),
        ("denoise.prepare_coords", "LTX2PrepareCoordsStep"),
        ("denoise.denoise", "LTX2DenoiseStep"),
        ("decode.video_decode", "LTX2VaeDecoderStep"),
        ("decode.audio_decode", "LTX2AudioDecoderStep"),
    ]
    assert (pipeline.name, pipeline.result) == ("LTX2AutoBlocks", "videos")


def test_image_request_resolves_to_other_leaves(ltx2):
    text = {stage.stage_class for stage in Pipeline.from_blocks(ltx2, prompt="p", image=None).stages}
    image = {stage.stage_class for stage in Pipeline.from_blocks(ltx2, prompt="p", image=object()).stages}
    assert "LTX2DenoiseStep" in text - image
    assert "LTX2Image2VideoDenoiseStep" in image - text


def test_components_made_from_configuration_are_added_and_yield_to_given_ones(ltx2):
    pipeline = Pipeline.from_blocks(ltx2, prompt="p", components={"vae": 1, "guider": 2})
    assert {"audio_guider", "video_processor"} < set(pipeline.components)
    assert (pipeline.components["vae"], pipeline.components["guider"]) == (1, 2)
    assert "transformer" not in pipeline.components


def test_missing_models_of_resolved_leaves_are_named_before_the_run(ltx2):
    pipeline = Pipeline.from_blocks(ltx2, prompt="p", num_frames=9)
    with pytest.raises(PipelineError) as caught:
        pipeline.run(prompt="p", num_frames=9, hight=64)
    for text in ("did you mean 'height'", "component 'text_encoder'", "component 'vocoder'"):
        assert text in str(caught.value)


def test_single_leaf_is_a_pipeline_of_one_stage():
    pipeline = Pipeline.from_blocks(LTX2TextInputStep())
    assert repr(pipeline.stages) == "Stages(LTX2TextInputStep)"
    assert repr(Pipeline.from_blocks(Denoise()).stages) == "Stages(Denoise)"


class Auto(AutoPipelineBlocks):
    block_classes = (Scale,)
    block_names = ("scale",)
    block_trigger_inputs = ("latents",)


def test_conditional_blocks_resolve_to_the_leaf_that_the_request_picks():
    assert Pipeline.from_blocks(Auto(), latents=1).run(latents=1).scaled == 2
    with pytest.raises(PipelineError, match="no block runs for a request of prompt"):
        Pipeline.from_blocks(Auto(), prompt="p")


class Say(ModularPipelineBlocks):
    model_name = "ltx2"
    mark, written = "!", "said"

    @property
    def inputs(self):
        return [InputParam("prompt", required=True)]

    @property
    def intermediate_outputs(self):
        return [OutputParam(self.written)]

    def __call__(self, components, state):
        state.set(self.written, state.get("prompt") + self.mark)
        return components, state


class Enhance(Say):
    mark, written = "?", "prompt"


class MayEnhance(ConditionalPipelineBlocks):
    block_classes = (Enhance,)
    block_names = ("enhance",)
    block_trigger_inputs = ("use_pe",)

    def select_block(self, use_pe=None):
        return "enhance" if use_pe else None


@pytest.mark.parametrize(("switch", "said"), [({}, "a!"), ({"use_pe": False}, "a!"), ({"use_pe": True}, "a?!")])
def test_what_chose_the_blocks_is_taken_again_and_nothing_else(switch, said):
    blocks = SequentialPipelineBlocks.from_blocks_dict({"may_enhance": MayEnhance(), "say": Say()})
    pipeline = Pipeline.from_blocks(blocks, prompt="a", **switch)
    pipeline.check(prompt="a", **switch)
    assert pipeline.run(prompt="a", **switch).said == said
    other = not switch.get("use_pe")
    with pytest.raises(PipelineError, match=f"'use_pe' chooses which blocks run, and {other} is not what .* anew"):
        pipeline.run(prompt="a", use_pe=other)


def test_a_stage_that_is_added_reads_what_chose_the_blocks():
    blocks = SequentialPipelineBlocks.from_blocks_dict({"may_enhance": MayEnhance(), "say": Say()})
    pipeline = Pipeline.from_blocks(blocks, prompt="a")
    pipeline.add(stage(lambda use_pe: {"seen": use_pe}, writes="seen"), name="see")
    assert pipeline.run(prompt="a", use_pe=True).seen is True


def test_composition_of_diffusers_is_refused_as_one_stage():
    composed = SequentialPipelineBlocks.from_blocks_dict({"one": Scale(), "two": Gather()})
    with pytest.raises(PipelineError, match=r"got SequentialPipelineBlocks, which is composed of blocks"):
        BlockStage(composed)
    assert Pipeline.from_blocks(composed).run(latents=1).gathered == {"scaled": 2}


class Tiny(DiffusionPipeline):
    """A stock pipeline of one module."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self, latents, num_inference_steps=2, **kwargs):
        for _ in range(num_inference_steps):
            latents = self.unet(latents)
        return latents


@pytest.fixture
def stock():
    return Pipeline.from_diffusers(Tiny(torch.nn.Identity(), FlowMatchEulerDiscreteScheduler()))


def test_stock_pipeline_is_observed_by_its_stages_and_components(stock, log):
    with stock.observe(log):
        assert stock.run(latents=3.0) == 3.0
    forward = "      component call unet.forward"
    assert log.lines == ["run Tiny", "  stage denoise 0", "    step step 0", forward, "    step step 1", forward]


def test_stock_pipeline_takes_what_its_call_takes(stock, log):
    with stock.observe(log):
        stock.run(latents=3.0, num_inference_steps=1)
    assert len(log.lines) == 4
    with pytest.raises(PipelineError, match="no stage reads 'num_inference_step'; did you mean 'num_inference_steps'"):
        stock.run(latents=3.0, num_inference_step=1)


def test_stock_pipeline_says_what_is_missing(stock):
    with pytest.raises(PipelineError, match="the stage 'Tiny' reads 'latents'"):
        stock.run()


def test_stock_pipeline_has_its_components(stock):
    assert set(stock.components) == {"unet", "scheduler"}
    assert (stock.stages[0].stage_class, stock.stages[0].used) == ("denoise", ("unet",))
