"""Blocks of Modular Diffusers as stages, by what they look like: hand-made blocks, without diffusers."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from reslab.stages import BlockStage, Choice, Pipeline, PipelineError, stage


class Param(NamedTuple):
    name: str | None
    required: bool = False
    default: Any = None
    kwargs_type: str | None = None


class Block:
    """A leaf block: `reads` and `writes` are declared, `work` is done with the components and the state."""

    model_name, sub_blocks = None, {}

    def __init__(self, work=None, reads=(), writes=(), components=()):
        self.work = work
        self.inputs = [name if isinstance(name, Param) else Param(name) for name in reads]
        self.intermediate_outputs = [name if isinstance(name, Param) else Param(name) for name in writes]
        self.expected_components = [SimpleNamespace(name=name) for name in components]

    def __call__(self, components, state):
        self.work(components, state)
        return components, state

    def init_pipeline(self):
        return Computes()


class Computes:
    """Stands for diffusers' own modular pipeline, which computes some things from components."""

    default_scale = 3

    @property
    def scale(self):
        return 10 * self.vae if hasattr(self, "vae") else 1

    @property
    def _execution_device(self):
        return "from diffusers"


def run(work, *, reads=(), writes=(), renamed=None, given=None, components=None, **inputs):
    """All values after a pipeline of one such block."""
    block = Block(work, reads, writes)
    return Pipeline(components).add(BlockStage(block), values=renamed, given=given).run(**inputs)


def put(**values):
    """Work that writes these values."""
    return lambda components, state: [state.set(name, value) for name, value in values.items()]


def test_block_sees_exactly_its_declared_inputs():
    seen = {}
    look = Block(lambda components, state: seen.update({n: state.get(n) for n in ("a", "b", "c")}), reads=("a", "c"))
    Pipeline().add(stage(lambda b: {"c": 3}), name="other").add(BlockStage(look)).run(a=1, b=2)
    assert seen == {"a": 1, "b": None, "c": 3}


def test_only_declared_outputs_come_back():
    values = run(put(latents=1, scratch=2), reads=("width",), writes=("latents",), width=8)
    assert dict(values) == {"width": 8, "latents": 1}


def test_declared_input_that_the_block_changed_comes_back():
    assert run(put(width=16), reads=("width",), width=8).width == 16


def test_filled_in_default_does_not_leak():
    def fill_in(components, state):
        steps = state.get("steps")
        assert steps == [1, 2]
        if state.get("steps") is not steps:  # as blocks do: what they changed, and no more, is set
            state.set("steps", steps)

    values = run(fill_in, reads=(Param("steps", default=[1, 2]),))
    assert dict(values) == {}


def test_none_takes_the_declared_default():
    seen = []
    reads = (Param("steps", default=8),)
    run(lambda components, state: seen.append(state.get("steps")), reads=reads, steps=None)
    run(lambda components, state: seen.append(state.get("steps")), reads=reads, given={"steps": None})
    assert seen == [8, 8]


def test_state_is_fresh_for_each_block():
    first = Block(put(latents=1, scratch=2), writes=("latents",))
    seen = []
    second = Block(
        lambda components, state: seen.append((state.get("latents"), state.get("scratch"))),
        reads=("latents", "scratch"),
    )
    Pipeline().add(BlockStage(first, second)).run()
    assert seen == [(1, None)]


def test_values_are_renamed_in_and_out():
    def double(components, state):
        state.set("latents", 2 * state.get("height"))

    values = run(double, reads=("height",), writes=("latents",), renamed={"height": "half", "latents": "out"}, half=4)
    assert dict(values) == {"half": 4, "out": 8}


def test_given_is_seen_and_does_not_come_back_as_a_value():
    seen = []
    values = run(lambda components, state: seen.append(state.get("scale")), reads=("scale",), given={"scale": 3})
    assert (seen, dict(values)) == ([3], {})


def test_given_hides_the_value_of_that_name():
    def start(components, state):
        state.set("latents", "fresh" if state.get("latents") is None else "continued")

    values = run(start, reads=("latents",), writes=("latents",), given={"latents": None}, renamed={"latents": "z"})
    assert values.z == "fresh"


def test_given_stands_until_the_stage_itself_writes_the_value():
    seen = []
    first = Block(put(latents=5), reads=("latents",), writes=("latents",))
    second = Block(lambda components, state: seen.append(state.get("latents")), reads=("latents",))
    pipeline = Pipeline().add(BlockStage(first, second), name="both", given={"latents": None})
    for _ in range(2):
        assert pipeline.run().latents == 5
    assert seen == [5, 5]


TAG = "denoiser_input_fields"
GATHERS = (Param(None, kwargs_type=TAG),)


def tagged(**values):
    return lambda components, state: [state.set(name, value, TAG) for name, value in values.items()]


def gathered(write, values=None, **inputs):
    """What a block that gathers by tag sees after `write`, its values renamed so."""
    seen = {}
    look = Block(lambda components, state: seen.update(state.get_by_kwargs(TAG)), reads=GATHERS)
    write = BlockStage(Block(write, writes=("coords", "frames", "refine_coords")))
    Pipeline().add(write, name="write").add(BlockStage(look), name="look", values=values).run(**inputs)
    return seen


def test_tagged_values_are_gathered():
    assert gathered(tagged(coords=1, frames=2)) == {"coords": 1, "frames": 2}


def test_untagged_values_are_not_gathered():
    assert gathered(put(coords=1)) == {}


def test_renamed_tagged_value_is_gathered_under_the_blocks_name():
    seen = gathered(tagged(coords=1, refine_coords=2, frames=3), {"coords": "refine_coords"})
    assert seen == {"coords": 2, "frames": 3}


def test_value_renamed_away_stays_hidden():
    assert gathered(tagged(coords=1), {"coords": "refine_coords"}) == {}


def test_tagged_value_that_the_block_changed_comes_back():
    write = BlockStage(Block(tagged(coords=1), writes=("coords",)))
    change = BlockStage(Block(tagged(coords=2, other=3), reads=GATHERS))
    values = Pipeline().add(write, name="write").add(change, name="change").run()
    assert dict(values) == {"coords": 2}


def test_components_are_seen_under_the_blocks_names():
    seen = []
    look = Block(lambda components, state: seen.append((components.vae, components.components)), components=("vae",))
    Pipeline({"vae": 1, "tiny": 2}).add(BlockStage(look), components={"vae": "tiny"}).run()
    assert seen == [(2, {"vae": 2, "tiny": 2})]


def test_what_is_no_component_is_computed_by_the_modular_pipeline():
    seen = []
    run(lambda components, state: seen.append(components.scale), components={"vae": 7})
    run(lambda components, state: seen.append(components.scale))
    assert seen == [70, 1]


def test_what_nobody_has_is_an_error_with_the_stages_name():
    with pytest.raises(AttributeError, match="has no component 'vocoder', and diffusers' modular pipeline") as caught:
        run(lambda components, state: components.vocoder)
    assert caught.value.__notes__ == ["in the stage 'Block' (1 of 1) of 'pipeline'"]


def test_execution_device_is_the_conductors_or_else_diffusers(conductor):
    seen = []
    block = BlockStage(Block(lambda components, state: seen.append(components._execution_device)))
    pipeline = Pipeline().add(block)
    pipeline.run()
    conductor.execution_device = "conducted"
    with pipeline.conduct(conductor):
        pipeline.run()
    assert seen == ["from diffusers", "conducted"]


def test_stage_asks_for_what_no_block_before_writes():
    first = Block(put(latents=1), reads=(Param("prompt", required=True),), writes=("latents",))
    second = Block(
        reads=(Param("latents", required=True), Param("prompt"), Param("steps", default=8)), components=("vae",)
    )
    signature = BlockStage(first, second).signature()
    assert [name for name, default in signature.reads.items() if repr(default) == "REQUIRED"] == ["prompt"]
    assert signature.reads["steps"] == 8
    assert (signature.writes, signature.components) == (("latents",), ("vae",))


def test_required_input_is_checked_before_the_run():
    block = Block(put(), reads=(Param("prompt", required=True),))
    with pytest.raises(PipelineError, match="the stage 'encode' reads 'prompt'"):
        Pipeline().add(BlockStage(block), name="encode").run(prompt=None)


def test_declared_component_is_checked_before_the_run():
    with pytest.raises(PipelineError, match="the stage 'Block' uses the component 'vae'"):
        Pipeline().add(BlockStage(Block(put(), components=("vae",)))).check()


def test_stage_class_is_the_blocks_where_it_wraps_one():
    one = Block()
    assert BlockStage(one).stage_class == "Block"
    assert BlockStage(one, one).stage_class == "BlockStage"
    assert BlockStage(one, one, stage_class="Connector").stage_class == "Connector"


def test_rule_for_blocks_is_asked():
    def check(values, components):
        raise PipelineError(f"width {values['width']} is no multiple of 64")

    with pytest.raises(PipelineError, match="width 65 is no multiple"):
        Pipeline().add(BlockStage(Block(reads=("width",)), check=check)).check(width=65)


def test_composition_of_blocks_is_refused():
    composed = Block()
    composed.sub_blocks = {"a": Block()}
    with pytest.raises(PipelineError, match=r"got Block, which is composed of blocks; Pipeline\.from_blocks finds"):
        BlockStage(composed)
    with pytest.raises(PipelineError, match="got none"):
        BlockStage()


def test_class_of_a_block_is_made_a_block():
    assert isinstance(BlockStage(Block).blocks[0], Block)


def test_stage_of_blocks_runs_in_a_pipeline_alone():
    with pytest.raises(TypeError, match=r"Block runs in a pipeline: Pipeline\(\).add\(stage\).run"):
        BlockStage(Block()).run()


def test_repeated_stage_finds_the_values_that_its_own_blocks_had_not_written_yet(new_retries):
    def fails_once(components, state):
        seen.append(state.get("count"))
        if len(seen) == 1:
            raise MemoryError

    seen = []
    count = Block(lambda components, state: state.set("count", state.get("count") + 1), ("count",), ("count",))
    pipeline = Pipeline(result="count").add(BlockStage(count, Block(fails_once, ("count",))), name="both")
    with pipeline.conduct(new_retries(1)):
        assert pipeline.run(count=1) == 2
    assert seen == [2, 2]


class Loop(Block):
    """A loop of two steps, each with the passes that are given, counted by `i` or by `k`."""

    def __init__(self, passes=("pred_cond",), counter="i"):
        super().__init__(reads=("latents",), components=("transformer",))
        self.passes, self.counter, self.bars = passes, counter, []
        self.sub_blocks = {"before": Block()}

    def set_progress_bar_config(self, **config):
        self.bars.append(config)

    def __call__(self, components, state):
        for number in range(2):
            self.loop_step(components, state, **{self.counter: number}, t=1.0)
        return components, state

    def loop_step(self, components, state, t, **number):
        for name in self.passes:
            with components.transformer.cache_context(name):
                components.transformer.forward(t)
        return components, state


@pytest.fixture
def transformer(doubler):
    @contextmanager
    def cache_context(name):
        yield

    doubler.cache_context = cache_context
    return doubler


def test_loop_tells_its_steps_and_each_steps_passes(log, transformer):
    loop = Loop(passes=("pred_cond", "pred_uncond"))
    pipeline = Pipeline({"transformer": transformer}).add(BlockStage(loop), name="denoise")
    with pipeline.observe(log):
        pipeline.run()
    forward = "        component call transformer.forward"
    passes = ["      guidance pass pred_cond 0", forward, "      guidance pass pred_uncond 1", forward]
    assert log.lines[1:] == ["  stage denoise 0", "    step step 0", *passes, "    step step 1", *passes]
    assert "loop_step" not in vars(loop)


def test_loop_over_chunks_tells_no_steps_and_runs_alike(log, transformer):
    pipeline = Pipeline({"transformer": transformer}).add(BlockStage(Loop(counter="k")), name="denoise")
    with pipeline.observe(log):
        pipeline.run()
    assert [line.strip() for line in log.lines[2:5:2]] == ["guidance pass pred_cond 0", "guidance pass pred_cond 1"]
    assert not [line for line in log.lines if "step" in line]


def test_loop_in_two_stages_tells_each_step_once(log, transformer):
    loop = Loop(passes=())
    pipeline = Pipeline({"transformer": transformer}).add(BlockStage(loop), name="a").add(BlockStage(loop), name="b")
    with pipeline.observe(log):
        pipeline.run()
    assert [line.strip() for line in log.lines] == [
        "run pipeline", "stage a 0", "step step 0", "step step 1", "stage b 1", "step step 0", "step step 1",
    ]  # fmt: skip


def test_loop_inside_a_choice_tells_its_steps(log, transformer):
    loop = Choice("image", absent=BlockStage(Loop(passes=())))
    pipeline = Pipeline({"transformer": transformer}).add(loop, name="denoise")
    with pipeline.observe(log):
        pipeline.run()
    assert log.lines[2:] == ["    step step 0", "    step step 1"]


def test_step_that_raises_is_told_with_its_error(log, transformer):
    transformer.forward = lambda t: 1 / 0
    pipeline = Pipeline({"transformer": transformer}).add(BlockStage(Loop()), name="denoise")
    with pipeline.observe(log), pytest.raises(ZeroDivisionError):
        pipeline.run()
    assert [line.split(" ! ")[1] for line in log.lines] == ["ZeroDivisionError"] * 5
    assert log.open == []


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_names_the_stage(transformer, progress):
    loop = Loop()
    pipeline = Pipeline({"transformer": transformer}, progress=progress)
    pipeline.add(Choice("image", absent=BlockStage(loop)), name="denoise").run()
    assert loop.bars == [{"desc": "denoise", "disable": not progress}]
