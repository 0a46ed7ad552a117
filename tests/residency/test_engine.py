"""The engine on small models: every placement computes the same bits, moves the plan's bytes, and puts all back."""

import copy
import os
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from reslab.profiler import Profiler
from reslab.residency import (
    Budget,
    Plan,
    PlanError,
    ResidencyError,
    WeightsAbsent,
    apply,
    disk,
    footprint,
    layerwise,
    schedule,
    swap,
)
from reslab.residency._engine._lanes import LinkThrottle
from reslab.residency._units import LinkRatio
from reslab.stages import Pipeline, stage

WIDTH = 16  # one weight and its bias are 1088 bytes, so nothing is padded


class Model(torch.nn.Module):
    """Blocks between two layers, as a transformer is; `decode` runs the last block alone."""

    def __init__(self, blocks=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.register_buffer("scale", torch.full((WIDTH,), 0.5))

    def forward(self, x, skip=()):
        x = self.first(x)
        for number, block in enumerate(self.blocks):
            if number not in skip:
                x = torch.tanh(block(x)) * self.scale
        return self.last(x)

    def decode(self, x):
        return self.last(self.blocks[-1](x))


@stage(writes="y")
def encode(encoder, x):
    return encoder(x)


@stage(writes="z")
def denoise(transformer, y, steps=2):
    for _ in range(steps):
        y = transformer(y) + transformer(y, skip=(1,))
    return y


@stage(writes="w")
def refine(transformer, z):
    return transformer(z)


@stage(writes="video")
def decode(encoder, vae, w):
    return encoder.first(vae.decode(w))  # a part of a component, called directly


NAMES = ("encoder", "transformer", "vae")


def make():
    components = {name: Model(blocks=count, seed=count) for name, count in zip(NAMES, (3, 5, 2), strict=True)}
    pipeline = Pipeline(components, result="video")
    for each in (encode, denoise, refine, decode):
        pipeline.add(each())
    return pipeline


@pytest.fixture
def pipeline():
    return make()


X = torch.linspace(-1, 1, WIDTH)


def run(pipeline, **inputs):
    with torch.no_grad():
        return pipeline.run(x=X, **inputs)


def picture(pipeline):
    """State that leaving restores: parameters by identity and value, buffers, hooks, attributes."""
    found = []
    for name, module in pipeline.components.items():
        for path, part in module.named_modules():
            own = {key: value for key, value in vars(part).items() if not key.startswith("_") or key == "_apply"}
            hooks = [len(hooks) for key, hooks in sorted(vars(part).items()) if key.endswith("_hooks")]
            weights = [
                (id(p), p.detach().clone().numpy().tobytes(), sorted(vars(p))) for p in part._parameters.values()
            ]
            found.append((name, path, sorted(own), hooks, weights, part.training))
    return found


#: Places of each kind, with what can differ about them.
PLACES = {
    "resident": "resident",
    "swap": swap(),
    "swap each": swap(until="each stage"),
    "swap ahead": swap(until="each stage", prefetch_stages=1),
    "layerwise": layerwise(),
    "strided": layerwise(resident=2, prefetch=2),
    "leading": layerwise(resident=1, layout="leading", prefetch=0),
    "kept": layerwise(resident=1, until="run"),
    "disk": disk(resident=1),
}


@pytest.fixture(params=PLACES)
def plan(request):
    return Plan.of(dict.fromkeys(NAMES, PLACES[request.param]))


@pytest.mark.identity
def test_every_placement_computes_the_same_bits_and_moves_the_scheduled_bytes(pipeline, plan):
    want, before = run(pipeline), picture(pipeline)
    with apply(pipeline, plan) as managed:
        assert torch.equal(run(pipeline), want)
        for _ in range(2):
            assert torch.equal(run(pipeline), want)
            assert managed.notes == ()
            assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
    assert picture(pipeline) == before
    assert torch.equal(run(pipeline), want)


def test_entering_moves_nothing_and_leaving_without_a_run_changes_nothing(pipeline, plan):
    before = [parameter.data_ptr() for part in pipeline.components.values() for parameter in part.parameters()]
    seen = picture(pipeline)
    with apply(pipeline, plan) as managed:
        assert managed.device_bytes == 0
        assert before == [p.data_ptr() for part in pipeline.components.values() for p in part.parameters()]
    assert picture(pipeline) == seen


def test_what_is_resident_is_all_that_is_on_the_device_between_runs(pipeline):
    plan = Plan.of({"transformer": "resident", "encoder": "swap", "vae": "layerwise"})
    with apply(pipeline, plan) as managed:
        run(pipeline)
        table = managed.table()
        held = dict(table.select("component", "device_bytes").iter_rows())
        assert held == {"encoder": 0, "transformer": 7 * 1088, "vae": 0}
        assert table["where"].to_list() == ["host", "device", "host"]
        assert "<table>" in managed._repr_html_()
        assert repr(managed) == "Residency('plan' on cpu, in force: 3 components, 0.00 GiB on the device)"
    assert managed.device_bytes == 0


def test_the_device_copy_is_other_memory_and_is_aligned(pipeline):
    seen = []

    def look(module, _arguments):
        seen.extend((each.data_ptr(), each.numel()) for each in module.parameters())

    with apply(pipeline, Plan.of({"transformer": "layerwise"})) as managed:
        pipeline.components["transformer"].blocks[2].register_forward_pre_hook(look)
        run(pipeline)
        host = {tensor.data_ptr() for unit in managed._conductor.mover.units for tensor in unit.source.tensors}
    assert seen
    assert all(pointer % 64 == 0 and pointer not in host for pointer, _ in seen)
    assert {numel for _, numel in seen} == {256, 16}


class Peak:
    """Watches the bytes held on the device at every event."""

    def __init__(self, managed):
        self.managed, self.bytes, self.stage = managed, Counter(), None

    def begin(self, kind, name, index=-1, nbytes=0):
        if kind == "stage":  # the moves of the border before it are still to come
            self.stage = name
        else:
            self.bytes[self.stage] = max(self.bytes[self.stage], self.managed._conductor.mover.held_bytes())

    def end(self, error=None):
        pass


def test_no_more_is_on_the_device_than_the_plan_says(pipeline, plan):
    with apply(pipeline, plan) as managed:
        run(pipeline)
        peak = Peak(managed)
        with pipeline.observe(peak):
            run(pipeline)
        scheduled = footprint(plan, managed.workload).device_bytes
        assert max(peak.bytes.values()) <= managed.peak_bytes == max(scheduled.values())
    assert all(peak.bytes[stage] <= scheduled[stage] for stage in scheduled)


def test_a_run_that_is_not_as_scheduled_is_right_and_says_so(pipeline, plan):
    want = [run(pipeline, steps=steps) for steps in (2, 3, 1)]
    with apply(pipeline, plan) as managed:
        assert [torch.equal(run(pipeline, steps=n), each) for n, each in zip((2, 3, 1), want, strict=True)] == [
            True
        ] * 3
        assert [note.rpartition(": ")[2] for note in managed.notes] == [
            "transformer.forward in denoise",
            "denoise ended without a call that was scheduled",
        ]


def test_placements_can_differ_from_stage_to_stage(pipeline):
    plan = Plan.of({"transformer": "layerwise", "transformer@refine": "resident", "transformer.prefetch": 0})
    want = run(pipeline)
    with apply(pipeline, plan) as managed:
        for _ in range(2):
            assert torch.equal(run(pipeline), want)
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
        assert managed.fetched_bytes["refine"] == 5 * 1088


def test_known_calls_are_followed_from_the_first_run_on(pipeline):
    plan = Plan.of({"transformer": "layerwise", "encoder": "swap"})
    with apply(pipeline, plan) as managed:
        run(pipeline)
        known = managed.workload
    with apply(pipeline, plan, known=known) as managed:
        run(pipeline)
        assert sum(managed.fetched_bytes.values()) == schedule(plan, known).moved_bytes()
        assert managed.workload == known


def test_blocks_can_be_named_by_path_or_class(pipeline):
    want = run(pipeline)
    plan = Plan.of({"transformer": layerwise(prefetch=0)})
    for named, count in (("blocks", 5), (["first", "last"], 2), ("Linear", 7), ([], 0)):
        with apply(pipeline, plan, blocks={"transformer": named}) as managed:
            assert len(managed.workload.components["transformer"].block_bytes) == count
            assert all(torch.equal(run(pipeline), want) for _ in range(2))
    with pytest.raises(ResidencyError, match="no module or class 'block'; did you mean 'blocks'"):
        apply(pipeline, plan, blocks={"transformer": "block"}).__enter__()
    assert torch.equal(run(pipeline), want)


def test_tied_weights_move_once_and_stay_tied(pipeline):
    model = pipeline.components["transformer"]
    model.last.weight = model.blocks[0].weight
    model.blocks[2].weight = model.blocks[1].weight
    want = run(pipeline)
    with apply(pipeline, Plan.of({"transformer": "layerwise"})) as managed:
        size = managed.workload.components["transformer"]
        assert size.weight_bytes == 7 * 1088 - 2 * 1024
        assert size.block_bytes == (64, 64, 64, 1088, 1088)
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
    assert model.last.weight is model.blocks[0].weight


def test_blocks_that_share_memory_share_it_in_host_memory_too(pipeline):
    model = pipeline.components["transformer"]
    for block in model.blocks:
        block.weight.data, block.bias.data = model.blocks[0].weight.data, model.blocks[0].bias.data
    want = run(pipeline)
    with apply(pipeline, Plan.of({"transformer": "layerwise"})) as managed:
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
        held = dict(managed.table().select("component", "host_bytes").iter_rows())
        assert held["transformer"] == 3 * 1088
    assert len({block.weight.data_ptr() for block in model.blocks}) == 1


def test_layers_outside_the_blocks_that_share_memory_move_as_if_they_did_not(pipeline, plan):
    model = pipeline.components["transformer"]
    model.last.weight.data = model.first.weight.data
    want, before = run(pipeline), picture(pipeline)
    with apply(pipeline, plan) as managed:
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
        assert managed.workload.components["transformer"].weight_bytes == 7 * 1088
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
    assert picture(pipeline) == before
    assert model.last.weight.data_ptr() == model.first.weight.data_ptr()


def test_strides_of_weights_are_kept(pipeline):
    model = pipeline.components["transformer"]
    model.blocks[1].weight.data = model.blocks[1].weight.data.t()
    model.first.weight.data = torch.randn(WIDTH, 2 * WIDTH)[:, ::2]
    want, stride = run(pipeline), model.first.weight.stride()
    with apply(pipeline, Plan.of({"transformer": "layerwise"})):
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
    assert (model.first.weight.stride(), model.blocks[1].weight.stride()) == (stride, (1, WIDTH))


def test_a_component_with_two_names_is_one_and_cannot_be_placed_apart(pipeline):
    pipeline.components["refiner"] = pipeline.components["transformer"]
    with apply(pipeline, Plan.of({"transformer": "swap"})) as managed:
        run(pipeline)
        assert list(managed.workload.components) == ["encoder", "transformer", "vae"]
    with pytest.raises(ResidencyError, match="'refiner' and 'transformer' are one module"):
        apply(pipeline, Plan.of({"transformer": "swap", "refiner": "layerwise"})).__enter__()


class Halves(torch.nn.Module):
    """Blocks that are mere containers, as in diffusers' audio VAE, and one whose parts are used without it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.up, self.blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
        for _ in range(3):
            level = torch.nn.Module()
            level.bias = torch.nn.Parameter(torch.rand(WIDTH))
            level.block = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(2))
            self.up.append(level)
            self.blocks.append(torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()))

    def decode(self, x):
        for level, block in zip(self.up, self.blocks, strict=True):
            for part in level.block:
                x = torch.tanh(part(x)) + level.bias
            x = block[0](x)
        return x

    forward = decode


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_is_entered_by_its_parts_is_on_the_device_when_they_compute(place):
    pipeline = Pipeline({"vae": Halves()}, result="y")
    pipeline.add(stage(lambda vae, x: {"y": vae.decode(x)}), name="decode")
    pipeline.add(stage(lambda vae, y: {"z": vae.blocks[1][0](y)}), name="part")
    want, elsewhere = run(pipeline), []

    def look(module, _arguments):
        on_device = {tensor.data_ptr() for unit in managed._conductor.mover.on_device() for tensor in unit._views}
        elsewhere.extend(each for each in module.parameters(recurse=False) if each.data_ptr() not in on_device)

    plan = Plan.of({"vae": place, "vae@part": "layerwise"})
    with apply(pipeline, plan) as managed:
        handles = [part.register_forward_pre_hook(look) for part in pipeline.components["vae"].modules()]
        for _ in range(3):
            assert torch.equal(run(pipeline), want)
            assert managed.fetched_bytes.keys() >= {"part"}
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
        for handle in handles:
            handle.remove()
    assert elsewhere == []


def test_what_leaves_before_it_has_arrived_takes_nothing_with_it_that_came_in_the_same_piece(pipeline):
    want = run(pipeline)
    plan = Plan.of({"vae": "resident", "vae@denoise": layerwise(until="run")})
    with apply(pipeline, plan, link="200 KB/s"):  # the VAE's copy waits in the lane when its blocks have to leave
        assert torch.equal(run(pipeline), want)


def test_a_copy_that_was_lost_is_made_again(pipeline):
    want = run(pipeline)
    with apply(pipeline, Plan.of(), link="200 KB/s") as managed:
        managed._conductor.director.begin_run()
        managed._conductor.mover.lane.drain()  # as an interrupt between two evictions leaves it
        assert torch.equal(run(pipeline), want)


# What is absent


@pytest.fixture
def away(pipeline):
    with apply(pipeline, Plan.of(dict.fromkeys(NAMES, "layerwise"))):
        run(pipeline)
        yield pipeline.components["transformer"]


def test_absent_weights_are_named_when_they_are_used(away):
    assert all(parameter.numel() == 0 and parameter.dtype == torch.float32 for parameter in away.parameters())
    with pytest.raises(WeightsAbsent, match="'transformer' are not on the device: no stage is under way"):
        away(X)
    with pytest.raises(WeightsAbsent, match="'transformer/4'"):
        away.decode(X)
    with pytest.raises(WeightsAbsent, match="'transformer/1'"):
        away.blocks[1](X)


def test_buffers_are_never_absent(away):
    assert torch.equal(away.scale, torch.full((WIDTH,), 0.5))


@pytest.mark.parametrize("place", ["layerwise", "disk", "resident"])
def test_state_dictionaries_hold_whole_weights(pipeline, tmp_path, place):
    model = pipeline.components["transformer"]
    want = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with apply(pipeline, Plan.of({"transformer": place})):
        run(pipeline)
        found = model.state_dict()
        save_file(found, tmp_path / "whole.safetensors")
        kept = model.blocks[0].state_dict(keep_vars=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in want.items())
    assert (tmp_path / "whole.safetensors").stat().st_size > 7 * 1088
    assert torch.equal(kept["weight"], want["blocks.0.weight"])


@pytest.mark.parametrize(
    "attempt",
    [copy.deepcopy, pickle.dumps, lambda model: copy.deepcopy(model.blocks[0]), lambda model: model.to(torch.float64),
     lambda model: model.load_state_dict(Model(blocks=5).state_dict())],
)  # fmt: skip
def test_what_would_miss_or_overwrite_weights_is_refused(away, attempt):
    with pytest.raises(ResidencyError, match="leave its `with` block first"):
        attempt(away)


def test_a_model_can_be_copied_pickled_and_converted_afterwards(pipeline):
    model = pipeline.components["transformer"]
    want = model.state_dict()["blocks.0.weight"].clone()
    with apply(pipeline, Plan.of({"transformer": "layerwise"})):
        run(pipeline)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin.state_dict()["blocks.0.weight"], want)
    assert len(pickle.dumps(model.blocks[0].weight)) < 3000  # not the buffer around it
    assert model.to(torch.float64).blocks[0].weight.dtype == torch.float64


def test_weights_added_and_taken_away_while_managed_are_managed_too(pipeline, plan):
    model = pipeline.components["transformer"]
    want = run(pipeline)
    with apply(pipeline, plan) as managed:
        run(pipeline)
        model.blocks[1].register_parameter("extra", torch.nn.Parameter(torch.ones(WIDTH)))
        handle = model.blocks[1].register_forward_hook(lambda block, _arguments, result: result + block.extra)
        other = [run(pipeline) for _ in range(3)]
        assert managed.workload.components["transformer"].block_bytes[1] == 1088 + 64
        extra = model.state_dict()["blocks.1.extra"].clone()
        handle.remove()
        del model.blocks[1].extra
        assert torch.equal(run(pipeline), want)
    assert torch.equal(extra, torch.ones(WIDTH))
    assert not torch.equal(other[0], want)
    assert torch.equal(other[0], other[1])
    assert torch.equal(other[1], other[2])


def test_a_component_put_in_the_place_of_another_is_managed_and_the_other_given_back(pipeline, plan):
    old, new = pipeline.components["transformer"], Model(blocks=5, seed=99)
    pipeline.components["transformer"] = new
    want = run(pipeline)
    pipeline.components["transformer"] = old
    with apply(pipeline, plan):
        run(pipeline)
        pipeline.components["transformer"] = new
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
        assert old.first(X).shape == (WIDTH,)
    assert old(X).shape == new(X).shape == (WIDTH,)


# What is refused before anything moves


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"vae.granularity": "leaf"}, "granularity='leaf' describes other tools"),
        ({"vae": "swap", "vae.copy_back": True}, "copy_back=true describes other tools"),
        ({"unet": "swap"}, "'unet', which is not there"),
        ({"vae": layerwise(resident=9)}, "vae has 2 blocks"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(pipeline, arguments, sentence):
    before = picture(pipeline)
    with pytest.raises(PlanError, match=sentence):
        apply(pipeline, Plan.of(arguments)).__enter__()
    assert picture(pipeline) == before
    with apply(pipeline, Plan.of()):  # and no conductor was left behind
        run(pipeline)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"numerics.pass_batching": "batched"}, "pass_batching='batched' describes another pipeline.* one by one"),
        ({"numerics.weight_dtype": "float8"}, "weight_dtype='float8' .* weights are moved as they are"),
        ({"numerics.attention": "math"}, "attention='math' .* the kernel is the pipeline's choice"),
        ({"numerics.vae_tiling": "off"}, "vae_tiling='off' .* compose it without tiling"),
        ({"numerics.vae_tiling": "on"}, "vae_tiling='on', but no component can compute in tiles"),
    ],
)
def test_choices_that_cannot_be_carried_out_are_refused(pipeline, arguments, sentence):
    before = picture(pipeline)
    with pytest.raises(PlanError, match=sentence):
        apply(pipeline, Plan.of(arguments)).__enter__()
    assert picture(pipeline) == before


def test_choices_that_are_how_the_pipeline_is_are_let_in(pipeline):
    arguments = {"lora": "merged", "numerics": {"pass_batching": "separate", "vae_tiling": "pipeline"}}
    want = run(pipeline)
    with apply(pipeline, Plan.of(arguments)):  # without a LoRA there is nothing to merge
        assert torch.equal(run(pipeline), want)


def test_tiling_is_on_while_the_plan_that_says_so_is_in_force(pipeline):
    vae, seen = pipeline.components["vae"], []
    vae.use_tiling = False
    vae.last.register_forward_pre_hook(lambda *_: seen.append(vae.use_tiling))
    with apply(pipeline, Plan.of({"numerics.vae_tiling": "on"})):
        run(pipeline)
    run(pipeline)
    assert (seen, vae.use_tiling) == ([True, False], False)


def test_compiled_graphed_quantised_and_weightless_modules_are_refused(pipeline):
    def refused(match):
        with pytest.raises(ResidencyError, match=match):
            apply(pipeline, Plan.of({"vae": "swap"})).__enter__()

    model = pipeline.components["vae"]
    model._compiled_call_impl = model._call_impl  # what Module.compile sets
    refused("vae is compiled by torch.compile")
    model._compiled_call_impl = None
    model.blocks[0]._hf_hook = object()
    refused("vae.blocks.0 is moved by accelerate already")
    del model.blocks[0]._hf_hook
    model.first.weight = torch.nn.Parameter(torch.empty(WIDTH, WIDTH, device="meta"))
    refused("vae.first has a weight 'weight' on meta")
    model.first.weight = type("Int8Params", (torch.nn.Parameter,), {})(torch.ones(WIDTH, WIDTH))
    refused(r"quantised or otherwise no plain tensor \(Int8Params\)")
    pipeline.components["vae"] = Model(blocks=2)
    pipeline.components["vae"].first.weight = pipeline.components["encoder"].first.weight
    refused("'encoder' and 'vae' share weights")


POOLS = ("device_bytes", "host_bytes")


def refused_below(pipeline, plan, pool, need, **arguments):
    """What a plan needs of one memory is enough to enter and run, a byte less is refused with nothing moved."""
    want, before = run(pipeline), picture(pipeline)
    with apply(pipeline, plan, budget=Budget(**{pool: need}), **arguments):
        assert torch.equal(run(pipeline), want)
    managed = apply(pipeline, plan, budget=Budget(**{pool: need - 1}), **arguments)
    with pytest.raises(PlanError, match=r"does not fit, so nothing was moved.* needs [0-9.]+ KiB"):
        managed.__enter__()
    assert (managed.device_bytes, picture(pipeline)) == (0, before)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("place", ["swap", "layerwise"])
def test_a_plan_that_does_not_fit_is_refused_before_anything_moves(pipeline, pool, place):
    plan = Plan.of(dict.fromkeys(NAMES, place) | {"vae": "resident"})
    with apply(pipeline, plan) as managed:
        run(pipeline)
        known = managed.workload
    moving = known.weight_bytes - known.components["vae"].weight_bytes
    needs = max(footprint(plan, known).device_bytes.values()), moving
    refused_below(pipeline, plan, pool, dict(zip(POOLS, needs, strict=True))[pool], known=known)


@pytest.mark.parametrize(
    ("arguments", "pool", "need"),
    [
        # resident: three blocks, five, two, and two layers around each
        ({}, "device_bytes", (5 + 7 + 4) * 1088),
        # the largest component, beside what stays; no stage uses two that swap
        ({"encoder": "resident", "transformer": "swap", "vae": "resident"}, "device_bytes", (5 + 7 + 4) * 1088),
        ({"encoder": "resident", "transformer": layerwise(prefetch=0), "vae": "resident"}, "device_bytes", 12 * 1088),
        (dict.fromkeys(NAMES, "swap"), "host_bytes", (5 + 7 + 4) * 1088),
        # a window for the two layers around its blocks; the others need nothing of the host
        ({"transformer": "disk"}, "host_bytes", 2 * 1088),
    ],
    ids=["resident", "one swaps", "one streams", "host", "disk"],
)
def test_before_a_first_run_what_each_component_needs_is_known_already(pipeline, arguments, pool, need):
    refused_below(pipeline, Plan.of(arguments), pool, need)


def test_a_second_residency_is_refused(pipeline):
    with apply(pipeline, Plan.of()), pytest.raises(ResidencyError, match="managed by another residency; leave"):
        apply(pipeline, Plan.of()).__enter__()


# Disk, link, events


def test_weights_stream_from_the_files_they_came_from(pipeline, tmp_path):
    model, want = pipeline.components["transformer"], run(pipeline)
    save_file({name: weight.data for name, weight in model.named_parameters()}, tmp_path / "model.safetensors")
    files = {"transformer": tmp_path / "model.safetensors"}
    with apply(pipeline, Plan.of({"transformer": "disk"}), files=files) as managed:
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
        assert managed._conductor.sources.disk._folder is None
        assert managed._conductor.sources.disk.window.bytes.nbytes == 2 * 1088
        assert dict(managed.table().select("component", "host_bytes").iter_rows())["transformer"] == 0
    with torch.no_grad():
        model.first.weight[0, 0] += 1
    other = pytest.raises(ResidencyError, match=r"'first.weight' of 'transformer' is not what its file")
    with apply(pipeline, Plan.of({"transformer": "disk"}), files=files), other:
        run(pipeline)
    assert run(pipeline).shape == want.shape


def test_the_temporary_folder_is_removed(pipeline):
    with apply(pipeline, Plan.of({"vae": "disk"})) as managed:
        run(pipeline)
        folder = managed._conductor.sources.disk._folder.name
    with pytest.raises(FileNotFoundError):
        os.listdir(folder)


def test_a_link_holds_copies_to_their_time_together():
    slept, now = [], [100.0]

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    link = LinkThrottle("1 KB/s", clock=lambda: now[0], sleep=sleep)
    link.hold(500, 100.0)
    link.hold(250, 100.0)  # waited for the lane
    now[0] = 200.0
    link.hold(100, 200.0)
    assert slept == [0.5, 0.25, pytest.approx(0.1)]


def test_a_ratio_becomes_a_bandwidth_by_the_time_that_computing_took():
    link = LinkThrottle(LinkRatio(copy_s_per_compute_s=2.0))
    assert link.bytes_per_s is None
    link.learn(copied_bytes=1000, compute_s=0.5)
    link.learn(copied_bytes=1, compute_s=9.0)
    assert link.bytes_per_s == 1000.0


def test_what_a_card_would_copy_is_a_bandwidth_from_the_first_run_on(pipeline):
    with apply(pipeline, Plan.of({"vae": "swap"}), link=LinkRatio(copy_s_per_compute_s=1e-9)) as managed:
        assert managed.link_bytes_per_s is None
        run(pipeline)
        known = managed.link_bytes_per_s
        run(pipeline)
        assert managed.link_bytes_per_s == known > 0
    with apply(pipeline, Plan.of(), link="1 GB/s") as managed:
        assert managed.link_bytes_per_s == 1_000_000_000


def test_a_link_changes_no_bit_and_no_byte(pipeline):
    want, plan = run(pipeline), Plan.of(dict.fromkeys(NAMES, "layerwise"))
    with apply(pipeline, plan, link="10 MB/s") as managed:
        assert all(torch.equal(run(pipeline), want) for _ in range(2))
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()


def test_a_profiler_sees_every_transfer_with_its_stage_and_bytes(pipeline):
    plan = Plan.of({"transformer": layerwise(prefetch=2), "encoder": "swap", "vae": "disk"})
    with apply(pipeline, plan, link="5 MB/s") as managed, Profiler(pipeline, counters=managed) as prof:
        run(pipeline)
        first = sum(managed.fetched_bytes.values())
        run(pipeline)
        fetched = dict(managed.fetched_bytes)
    spans = prof.profile.spans
    transfers = spans.filter(kind="transfer")
    assert transfers["moved_bytes"].sum() == first + sum(fetched.values())
    second = transfers.filter(run=1)
    assert dict(second.group_by("registered_name").agg(bytes="moved_bytes").rows()).keys() == fetched.keys()
    assert {
        stage: sum(sizes) for stage, sizes in second.group_by("registered_name").agg("moved_bytes").rows()
    } == fetched
    assert set(second.filter(component="transformer")["block"].cast(str)) >= {"0", "1", "2", "3", "4"}
    assert spans.filter(kind="wait").height > 0


# Any plan


@st.composite
def any_plan(draw):
    counts = dict(zip(NAMES, (3, 5, 2), strict=True))
    arguments = {}
    for name, count in counts.items():
        for scope in draw(st.lists(st.sampled_from([None, "denoise", "refine", "decode"]), unique=True, max_size=2)):
            arguments[name if scope is None else f"{name}@{scope}"] = draw(
                st.one_of(
                    st.sampled_from(["resident", "swap", "disk"]),
                    st.builds(
                        swap, until=st.sampled_from(["last stage", "each stage"]), prefetch_stages=st.integers(0, 2)
                    ),
                    st.builds(
                        layerwise,
                        resident=st.integers(0, count),
                        layout=st.sampled_from(["strided", "leading"]),
                        prefetch=st.integers(0, 3),
                        until=st.sampled_from(["run", "last stage", "each stage"]),
                    ),
                )
            )
    return Plan.of(arguments)


PIPELINE = make()


@settings(max_examples=120)
@given(plan=any_plan(), steps=st.lists(st.integers(1, 3), min_size=2, max_size=3))
def test_any_plan_in_any_runs_is_right_and_moves_its_bytes_exactly(plan, steps):
    before = picture(PIPELINE)
    want = {count: run(PIPELINE, steps=count) for count in set(steps)}
    with apply(PIPELINE, plan) as managed:
        for count in (*steps, steps[-1]):
            assert torch.equal(run(PIPELINE, steps=count), want[count])
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
    assert (managed.device_bytes, picture(PIPELINE)) == (0, before)
