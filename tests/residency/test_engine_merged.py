"""MergedCopy copies: other weights in the same parameters, built out of place; the base is bit by bit what it was."""

import copy
import gc
import mmap
import weakref

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab.residency import (
    Plan,
    PlanError,
    ResidencyError,
    apply,
    disk,
    layerwise,
    lora_difference,
    resident,
    schedule,
    swap,
)
from reslab.residency._engine import _layout
from reslab.residency._model._lora import ComponentLora
from reslab.stages import Pipeline, stage

WIDTH = 16  # one weight and its bias are 1088 bytes; merging concerns the 1024 of the weight
X = torch.linspace(-1, 1, WIDTH)
MODEL, SECOND = "model", "model+lora"


class Model(torch.nn.Module):
    """Blocks between two layers; a LoRA reaches the first layer and the blocks, not the last layer."""

    def __init__(self, blocks=3):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(blocks))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.last(x)


def add_lora(model, name="style", seed=1, **config):
    torch.manual_seed(seed)
    arguments = {"r": 4, "lora_alpha": 8, "target_modules": ["first", "blocks.0", "blocks.1", "blocks.2"]}
    peft.inject_adapter_in_model(peft.LoraConfig(**arguments | config), model, adapter_name=name)
    for path, weight in model.named_parameters():
        if f"lora_B.{name}" in path:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def switch(model, on):
    for layer in ComponentLora(model).layers:
        layer.enable_adapters(on)


@stage(writes="y")
def denoise(model, x):
    switch(model, False)
    return model(model(x))


@stage(writes="z")
def refine(model, y):
    switch(model, True)
    return model(model(y))


def make(**config):
    pipeline = Pipeline({MODEL: add_lora(Model(), **config)}, result="z")
    return pipeline.add(denoise()).add(refine())


@pytest.fixture
def pipeline():
    return make()


def run(pipeline):
    with torch.no_grad():
        return pipeline.run(x=X)


def weights(pipeline):
    """Every parameter by identity and value, and every mark on a layer."""
    model = pipeline.components[MODEL]
    own = {path: (id(each), each.detach().clone(), dict(vars(each))) for path, each in model.named_parameters()}
    return own, [(layer.disable_adapters, layer.merged, dict(layer.scaling)) for layer in ComponentLora(model).layers]


def unchanged(before, after, *, marks=True):
    same = before[0].keys() == after[0].keys() and all(
        before[0][key][0] == after[0][key][0]
        and torch.equal(before[0][key][1], after[0][key][1])
        and before[0][key][2] == after[0][key][2]
        for key in before[0]
    )
    return same and (not marks or before[1] == after[1])


def reference(pipeline):
    """What PEFT's own merging gives: the base for the first stage, a merged model for the second."""
    base = copy.deepcopy(pipeline.components[MODEL])
    merged = copy.deepcopy(base)
    switch(base, False)
    switch(merged, True)
    for layer in ComponentLora(merged).layers:
        layer.merge(safe_merge=True)
    with torch.no_grad():
        return merged(merged(base(base(X))))


PLACES = {
    "resident": resident(),
    "swap": swap(),
    "swap each": swap(until="each stage"),
    "layerwise": layerwise(),
    "leading": layerwise(resident=1, layout="leading", prefetch=2),
    "disk": disk(),
    "disk, one block": disk(resident=1, prefetch=0),
}


def merged_plan(base, second):
    return Plan.of({MODEL: PLACES[base], SECOND: PLACES[second], "lora": "merged"})


@pytest.mark.parametrize(
    ("base", "second"),
    [
        ("resident", "resident"),
        ("swap", "swap"),
        ("layerwise", "leading"),
        ("leading", "swap each"),
        ("disk", "disk"),
        ("disk", "swap"),
        ("resident", "disk, one block"),
    ],
)
def test_every_placement_computes_what_peft_merges(pipeline, base, second):
    plan, want, before = merged_plan(base, second), reference(pipeline), weights(pipeline)
    with apply(pipeline, plan) as managed:
        assert torch.equal(run(pipeline), want)
        assert torch.equal(run(pipeline), want)
        assert managed.notes == ()
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
        assert {call.stage: call.component for call in managed.workload.calls} == {"denoise": MODEL, "refine": SECOND}
    assert unchanged(before, weights(pipeline), marks=False)


def test_what_the_lora_does_not_reach_is_kept_once_and_what_it_adds_is_not_moved(pipeline):
    with apply(pipeline, merged_plan("swap", "resident")) as managed:
        run(pipeline)
        rows = {row["component"]: row for row in managed.table().rows(named=True)}
        assert rows[MODEL]["host_bytes"] == 5 * 1088
        assert rows[SECOND]["host_bytes"] == 4 * 1024
        assert rows[SECOND]["device_bytes"] == 5 * 1088
        assert managed.counters() == {"host": 9536, "pinned": 0, f"device/{MODEL}": 0, f"device/{SECOND}": 5440}
        assert {name: size.weight_bytes for name, size in managed.workload.components.items()} == dict.fromkeys(
            (MODEL, SECOND), 5440
        )


def test_no_more_than_one_merged_weight_is_alive_beside_the_copy(pipeline, monkeypatch):
    alive, most, merged = [], [], ComponentLora.merged

    def counted(self, key, given):
        most.append(sum(each() is not None for each in alive))
        tensor = merged(self, key, given)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(ComponentLora, "merged", counted)
    with apply(pipeline, merged_plan("swap", "swap")):
        run(pipeline)
    assert len(most) == 4
    assert max(most) <= 1


def test_merging_happens_once_for_all_runs_and_anew_for_another_strength(pipeline, monkeypatch):
    calls, merged = [], ComponentLora.merged
    monkeypatch.setattr(ComponentLora, "merged", lambda self, key, given: calls.append(key) or merged(self, key, given))
    with apply(pipeline, merged_plan("layerwise", "layerwise")) as managed:
        run(pipeline), run(pipeline)
        assert len(calls) == 4
        for layer in ComponentLora(pipeline.components[MODEL]).layers:
            layer.set_scale("style", 0.25)
        found = run(pipeline)
        assert len(calls) == 8
        assert managed.notes == ("the LoRA of 'model' has changed, so it is merged anew",)
    assert torch.equal(found, reference(pipeline))


def test_a_strength_that_an_earlier_stage_sets_to_zero_does_not_reach_the_copy(pipeline):
    """What is merged is what was on in the call, though a later prefetch comes while the strength is another."""
    model, want = pipeline.components[MODEL], reference(pipeline)
    with apply(pipeline, merged_plan("swap", "layerwise")) as managed:
        run(pipeline)
        units = managed._conductor.components[SECOND].units
        for unit in units.values():
            unit.restore()  # as if a block had never been used
        for layer in ComponentLora(model).layers:
            layer.scaling["style"] = 0.0
            managed._conductor.mover.fetch([units[0]], stage=None)
        for layer in ComponentLora(model).layers:
            layer.scaling["style"] = 2.0
        assert torch.equal(run(pipeline), want)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}], ids=str)
def test_variants_of_lora_are_merged_as_peft_does(config):
    pipeline = make(**config)
    want = reference(pipeline)
    with apply(pipeline, merged_plan("layerwise", "swap")):
        assert torch.equal(run(pipeline), want)
        assert torch.equal(run(pipeline), want)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_loras_are_merged_one_after_the_other(pipeline):
    model = add_lora(pipeline.components[MODEL], name="tone", seed=2)
    for layer in ComponentLora(model).layers:
        layer.set_adapter(["style", "tone"])
    want = reference(pipeline)
    with apply(pipeline, merged_plan("swap", "swap")):
        assert torch.equal(run(pipeline), want)


@pytest.mark.parametrize(("lora_too", "copies"), [(True, 2), (False, 4)])
def test_blocks_that_share_memory_share_what_is_merged_if_they_share_the_lora(pipeline, lora_too, copies):
    blocks = pipeline.components[MODEL].blocks
    for block in blocks:
        mine, first = (block, blocks[0]) if lora_too else (block.base_layer, blocks[0].base_layer)
        for own, other in zip(mine.parameters(), first.parameters(), strict=True):
            own.data = other.data
    want = reference(pipeline)
    # as it was made, and as another mode left it, which parts blocks whose LoRAs differ
    for is_left in (False, True) if lora_too else (False,):
        if is_left:
            with apply(pipeline, Plan.of({MODEL: "layerwise"})):
                run(pipeline)
        with apply(pipeline, merged_plan("layerwise", "layerwise")) as managed:
            assert torch.equal(run(pipeline), want)
            host = dict(managed.table().select("component", "host_bytes").rows())
            assert host == {MODEL: 3 * 1088, SECOND: copies * 1024}


def test_between_stages_and_runs_the_parameters_are_the_bases(pipeline):
    model = pipeline.components[MODEL]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen = []
    pipeline.add(stage(lambda model, z: seen.append(model.state_dict()) or {}, writes=()), name="look")
    with apply(pipeline, merged_plan("resident", "resident")):
        run(pipeline)
        seen.append(model.state_dict())
        assert all(torch.equal(state[key], before[key]) for state in seen for key in before)
        switch(model, False)
        assert torch.equal(model(X), copy.deepcopy(Model())(X))


def test_within_a_stage_with_the_lora_what_is_saved_is_still_the_base(pipeline):
    model = pipeline.components[MODEL]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    saved = []
    model.blocks[1].register_forward_pre_hook(lambda *_: saved.append(model.state_dict()))
    with apply(pipeline, merged_plan("swap", "layerwise")):
        run(pipeline)
    assert len(saved) == 4
    assert all(torch.equal(state[key], before[key]) for state in saved for key in before)


def test_memory_that_another_mode_left_is_given_back(pipeline, monkeypatch):
    """After a LoRA was managed with the weights, it lies in one memory with them, which it must not keep alive."""
    made = []

    class Recorded(mmap.mmap):
        def __new__(cls, *arguments, **named):
            memory = super().__new__(cls, *arguments, **named)
            made.append(weakref.ref(memory))
            return memory

    monkeypatch.setattr(_layout.mmap, "mmap", Recorded)
    with apply(pipeline, Plan.of({MODEL: "swap"})):
        run(pipeline)
    assert [each() is not None for each in made] == [True] * 4  # what lies outside the blocks, and three blocks
    lora = {path: weight.clone() for path, weight in pipeline.components[MODEL].named_parameters() if "lora" in path}
    with apply(pipeline, merged_plan("swap", "swap")):
        run(pipeline)
        gc.collect()
        assert [each() is not None for each in made] == [False] * 4 + [True] * 8
    gc.collect()
    assert sum(each() is not None for each in made) == 4
    after = dict(pipeline.components[MODEL].named_parameters())
    assert all(torch.equal(after[path], weight) for path, weight in lora.items())


def test_a_plan_that_merges_what_is_never_on_merges_nothing(pipeline):
    model = Model()
    one = Pipeline({MODEL: model}, result="y").add(stage(lambda model, x: {"y": model(x)}), name="only")
    want = run(one)
    with apply(one, Plan.of({MODEL: "swap", "lora": "merged"})) as managed:
        assert torch.equal(run(one), want)
        assert list(managed.workload.components) == [MODEL]
    add_lora(model)
    switch(model, False)
    want = run(one)
    with apply(one, merged_plan("swap", "resident")) as managed:
        assert all(torch.equal(run(one), want) for _ in range(2))
        assert managed.table().row(1, named=True)["host_bytes"] == 0


def test_what_is_placed_though_nothing_can_be_merged_is_refused():
    pipeline = Pipeline({MODEL: Model()}).add(stage(lambda model, x: {"y": model(x)}), name="only")
    with pytest.raises(PlanError, match=r"model\+lora"), apply(pipeline, merged_plan("swap", "swap")):
        pass


def test_parts_used_without_a_call_are_refused_while_the_lora_is_on(pipeline):
    pipeline.add(stage(lambda model, z: {"w": model.first(z)}), name="part")
    with (
        apply(pipeline, merged_plan("swap", "swap")),
        pytest.raises(ResidencyError, match="lora='dynamic'"),
    ):
        run(pipeline)
    with torch.no_grad():
        assert run(pipeline).isfinite().all()


def test_a_fused_lora_is_left_as_it_is(pipeline):
    model = pipeline.components[MODEL]
    for layer in ComponentLora(model).layers:
        layer.merge()
    fused = Pipeline({MODEL: model}, result="y").add(stage(lambda model, x: {"y": model(x)}), name="only")
    want = run(fused)
    with apply(fused, merged_plan("swap", "swap")):
        assert torch.equal(run(fused), want)
    assert all(layer.merged_adapters == ["style"] for layer in ComponentLora(model).layers)


def test_a_classic_pipeline_with_a_loaded_adapter_runs_merged():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8),
        norm_num_groups=2,
        layers_per_block=1,
        attention_head_dim=4,
    )
    add_lora(unet, target_modules=["conv_in", "to_q", "conv2"])
    pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    request = {"num_inference_steps": 2, "output_type": "np"}
    merged = copy.deepcopy(unet)
    for layer in ComponentLora(merged).layers:
        layer.merge(safe_merge=True)
    other = diffusers.DDIMPipeline(merged, pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    want = other(**request, generator=torch.Generator().manual_seed(3)).images
    plan = Plan.of({"unet": "swap", "unet+lora": "layerwise", "lora": "merged"})
    managed = Pipeline.from_diffusers(pipe)
    with apply(managed, plan):
        found = managed.run(**request, generator=torch.Generator().manual_seed(3)).images
    assert (found == want).all()


class Fault:
    """Raises when it has been asked that many times: by blocks, and where a weight is merged."""

    def __init__(self, pipeline, patch, count, error):
        self.left, self.error, merged = count, error, ComponentLora.merged
        patch.setattr(ComponentLora, "merged", lambda lora, *arguments: self() or merged(lora, *arguments))
        self.handles = [block.register_forward_pre_hook(self) for block in pipeline.components[MODEL].blocks]

    def __call__(self, *_arguments):
        self.left -= 1
        if self.left == 0:
            raise self.error("injected")

    def remove(self):
        for handle in self.handles:
            handle.remove()


def run_twice_if_needed(pipeline, managed):
    """Run, and where a fault came in between see that all is released, and run again."""
    try:
        return run(pipeline)
    except (RuntimeError, KeyboardInterrupt) as error:
        assert "injected" in f"{error}{error.__cause__}"  # noqa: PT017
        moving = [name for name in (MODEL, SECOND) if managed.plan.placement(name) != resident()]
        assert all(managed._conductor.mover.held_bytes(name) == 0 for name in moving)
        assert not any(unit.front and unit.front.unit is not unit.front.base for unit in managed._conductor.mover.units)
        return run(pipeline)


PLACED = st.sampled_from([*PLACES])
ERRORS = st.sampled_from([RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
STEPS = st.lists(
    st.tuples(st.sampled_from(["merged", "dynamic"]), PLACED, PLACED, st.integers(0, 24), ERRORS),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_after_any_sequence_of_modes_and_interruptions_the_base_is_bit_identical(steps):
    pipeline = make()
    want, before = {"dynamic": run(pipeline), "merged": reference(pipeline)}, weights(pipeline)
    for lora, base, second, count, error in steps:
        plan = merged_plan(base, second) if lora == "merged" else Plan.of({MODEL: PLACES[base]})
        with pytest.MonkeyPatch.context() as patch, apply(pipeline, plan) as managed:
            fault = Fault(pipeline, patch, count, error)
            assert torch.equal(run_twice_if_needed(pipeline, managed), want[lora])
            fault.remove()
        assert unchanged(before, weights(pipeline), marks=False)
        assert torch.equal(run(pipeline), want["dynamic"])


def test_the_difference_is_that_of_rounding(pipeline):
    for layer in ComponentLora(pipeline.components[MODEL]).layers:
        layer.to(torch.bfloat16)
    pipeline.components[MODEL].to(torch.bfloat16)
    before = weights(pipeline)
    with torch.no_grad():
        frame = lora_difference(pipeline, {"x": X.bfloat16()})
    assert frame["what"].to_list() == ["model: merged weights", "model: LoRA's update of them", "z"]
    half_a_step = 2.0**-9  # a bfloat16 has 8 bits; the update is rounded once too, but is small
    relative = dict(frame.select("what", "relative").rows())
    assert 0 < relative["model: merged weights"] < half_a_step
    assert relative["model: merged weights"] < relative["model: LoRA's update of them"]
    assert frame["elements"].to_list() == [4 * 256, 4 * 256, 16]
    assert unchanged(before, weights(pipeline), marks=False)


def test_without_a_lora_there_is_no_difference_to_tell(pipeline):
    one = Pipeline({MODEL: Model()}, result="y").add(stage(lambda model, x: {"y": model(x)}), name="only")
    with pytest.raises(ResidencyError, match="no LoRA was on"):
        lora_difference(one, {"x": X})
