"""The engine on the tiny LTX-2.3 in two stages: the same video bit by bit, the LoRA included, whatever happens."""

import copy
import random

import pytest
import torch

from reslab import ltx2
from reslab.residency import Plan, WeightsAbsent, apply, disk, footprint, layerwise, schedule, swap
from reslab.residency._engine._director import Director
from reslab.residency._engine._lanes import ThreadLane
from reslab.residency._engine._layout import copy_on_host
from reslab.residency._model._anatomy import find_blocks

REQUEST = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 7}
PARTS = ("text_encoder", "connectors", "transformer", "vae", "audio_vae", "vocoder", "latent_upsampler")
#: Where a component may live, and what may be raised, in a sample.
WAYS = ("resident", swap(), swap(until="each stage", prefetch_stages=1), layerwise(), layerwise(prefetch=2), disk())
ERRORS = (RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError, ValueError)


@pytest.fixture(scope="module")
def pipe():
    return ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3"))


@pytest.fixture(scope="module")
def want(pipe):
    return pipe.run(**REQUEST)


def same(found, want):
    return torch.equal(torch.as_tensor(found.frames), torch.as_tensor(want.frames)) and torch.equal(
        torch.as_tensor(found.audio), torch.as_tensor(want.audio)
    )


def weights(pipe):
    return {
        (name, path): (id(weight), weight.detach().clone())
        for name in PARTS
        for path, weight in pipe.components[name].named_parameters()
    }


def unchanged(before, after):
    return before.keys() == after.keys() and all(
        before[key][0] == after[key][0] and torch.equal(before[key][1], after[key][1]) for key in before
    )


@pytest.mark.parametrize(
    "given",
    [
        dict.fromkeys(PARTS, swap()),
        dict.fromkeys(PARTS, swap(until="each stage")),
        dict.fromkeys(PARTS, layerwise(prefetch=2)),
        dict.fromkeys(PARTS, disk()) | {"transformer": disk(resident=1)},
        {"transformer": layerwise(resident=2), "transformer@LTX2RefinementStage": "resident", "vae": "layerwise"},
    ],
    ids=["swap", "swap each", "layerwise", "disk", "by stage"],
)
def test_every_placement_makes_the_same_video(pipe, want, given):
    plan, before = Plan.of(given), weights(pipe)
    with apply(pipe, plan) as managed:
        for _ in range(2):
            assert same(pipe.run(**REQUEST), want)
        assert managed.notes == ()
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
    assert unchanged(before, weights(pipe))
    assert same(pipe.run(**REQUEST), want)


def test_whatever_module_computes_has_its_weights_on_the_device(pipe, want):
    """Blocks of the audio VAE are mere containers: no code calls them, only what they hold."""
    elsewhere = set()

    def look(module, _arguments):
        units = [unit_of[id(weight)] for weight in module._parameters.values() if weight is not None]
        elsewhere.update(unit.name for unit in units if not unit.is_on_device)

    with apply(pipe, Plan.of(dict.fromkeys(PARTS, layerwise(prefetch=0)))) as managed:
        unit_of = {key: unit for unit in managed._conductor.mover.units for key in unit.by_parameter}
        parts = [part for name in PARTS for part in [*pipe.components[name].modules()][1:]]
        handles = [part.register_forward_pre_hook(look) for part in parts]
        assert same(pipe.run(**REQUEST), want)
        decoded = next(call.blocks for call in managed.workload.calls if call.component == "audio_vae")
        for handle in handles:
            handle.remove()
    assert elsewhere == set()
    assert decoded == (5, 4, 3)


def test_language_layers_and_both_halves_of_the_vae_are_blocks(pipe):
    lists = {name: {path.rpartition(".")[0] for path in find_blocks(pipe.components[name])} for name in PARTS}
    assert lists["text_encoder"] == {"model.language_model.layers"}
    assert lists["vae"] == {"encoder.down_blocks", "decoder.up_blocks"}
    assert lists["transformer"] == {"transformer_blocks"}


def test_an_image_goes_through_the_vae_encoder(pipe):
    import numpy as np

    image = np.arange(64 * 128 * 3, dtype=np.uint8).reshape(64, 128, 3)
    want = pipe.run(**REQUEST, image=image)
    with apply(pipe, Plan.of({"vae": "layerwise", "transformer": "swap"})) as managed:
        assert all(same(pipe.run(**REQUEST, image=image), want) for _ in range(2))
        encoded = [call for call in managed.workload.calls if call.method == "encode"]
        assert encoded
        assert same(pipe.run(**REQUEST, image=image), want)


def test_a_lora_can_be_loaded_and_unloaded_while_managed(pipe, want):
    checkpoint = ltx2.load("tiny", variant="LTX-2.3")
    transformer = checkpoint.components["transformer"]
    one = ltx2.one_stage(checkpoint)
    plain = one.run(**REQUEST)
    state = {key: tensor.clone() for key, tensor in checkpoint.distilled_lora.items()}
    with apply(one, Plan.of({"transformer": layerwise(resident=1)})) as managed:
        one.run(**REQUEST)
        transformer.load_lora_adapter(state, prefix="transformer", adapter_name="late")
        late = [one.run(**REQUEST) for _ in range(2)]
        lora_bytes = managed.workload.components["transformer"].weight_bytes
        transformer.unload_lora()
        assert same(one.run(**REQUEST), plain)
        assert managed.workload.components["transformer"].weight_bytes < lora_bytes
    transformer.load_lora_adapter(state, prefix="transformer", adapter_name="late")
    assert same(late[0], late[1])
    assert same(one.run(**REQUEST), late[0])


@pytest.mark.parametrize("name", ["transformer", "text_encoder"])
def test_what_is_saved_while_managed_is_whole(pipe, want, name, tmp_path):
    component = pipe.components[name]
    with apply(pipe, Plan.of({name: "layerwise"})):
        pipe.run(**REQUEST)
        before = {key: value.clone() for key, value in component.state_dict().items()}
        component.save_pretrained(tmp_path)
        with pytest.raises(WeightsAbsent, match=name):
            component(torch.zeros(1))
        with pytest.raises(ValueError, match="leave its `with` block first"):
            copy.deepcopy(component)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size >= sum(weight.nbytes for weight in component.parameters())
    assert all(torch.equal(value, before[key]) for key, value in component.state_dict().items())


def test_a_managed_transformer_refuses_to_be_fused(pipe, want):
    with apply(pipe, Plan.of({"transformer": "swap"})), pytest.raises(ValueError, match="fuse_lora 'transformer'"):
        pipe.components["transformer"].fuse_lora()


def test_a_plan_switches_tiling_of_the_vae_on_as_the_pipeline_itself_does():
    tiled = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3"), tiling="on").run(**REQUEST)
    plain = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3"), tiling="off")
    with apply(plain, Plan.of({"numerics.vae_tiling": "on", "vae": "swap"})):
        assert same(plain.run(**REQUEST), tiled)
    assert not plain.components["vae"].use_tiling


class Fault:
    """Raises before the n-th forward of a transformer block."""

    def __init__(self, pipe, count, error):
        self.left, self.error = count, error
        blocks = pipe.components["transformer"].transformer_blocks
        self.handles = [block.register_forward_pre_hook(self) for block in blocks]

    def __call__(self, *_arguments):
        self.left -= 1
        if self.left == 0:
            raise self.error("injected")

    def remove(self):
        for handle in self.handles:
            handle.remove()


class Site:
    """Places where something may go wrong, in a whole run: borders of stages, blocks of all components, copies."""

    def __init__(self, pipe, where, monkeypatch):
        self.passed, self.fails_at, self.error = 0, 0, None
        getattr(self, where)(pipe, monkeypatch)

    def check(self, *_arguments):
        self.passed += 1
        if self.passed == self.fails_at:
            raise self.error("injected")

    def border(self, pipe, monkeypatch):
        for method in ("enter", "leave"):
            real = getattr(Director, method)
            monkeypatch.setattr(Director, method, lambda *given, real=real: (self.check(), real(*given), self.check()))

    def block(self, pipe, monkeypatch):
        self.handles = []
        for name in PARTS:
            for block in find_blocks(pipe.components[name]).values():
                self.handles += [block.register_forward_pre_hook(self.check), block.register_forward_hook(self.check)]

    def copy(self, pipe, monkeypatch):
        def copy(target, source):
            copy_on_host(target[: source.nbytes // 2], source[: source.nbytes // 2])
            self.check()
            copy_on_host(target, source)

        own = ThreadLane.__init__.__kwdefaults__
        monkeypatch.setattr(ThreadLane.__init__, "__kwdefaults__", own | {"copy": copy})


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_raised_anywhere_leaves_the_same_video(pipe, want, seed, monkeypatch):
    """A seeded sample of what `test_engine_ways_out` tries exhaustively on a small pipeline."""
    draw = random.Random(seed)
    site = Site(pipe, ("border", "block", "copy")[seed % 3], monkeypatch)
    plan = Plan.of({name: draw.choice(WAYS) for name in PARTS})
    with apply(pipe, plan) as managed:
        assert same(pipe.run(**REQUEST), want)
        held = managed.device_bytes
        site.error, site.fails_at, site.passed = draw.choice(ERRORS), draw.randint(1, site.passed), 0
        with pytest.raises(site.error, match=r"injected|ran out of memory"):
            pipe.run(**REQUEST)
        assert managed.device_bytes <= held
        assert same(pipe.run(**REQUEST), want)
        assert managed.device_bytes == held
    for handle in getattr(site, "handles", ()):
        handle.remove()


@pytest.mark.parametrize("count", [3, 34])  # in denoising, in refining
def test_stepping_down_repeats_a_denoising_stage_bit_by_bit(pipe, want, count):
    plan = Plan.of().decide({"transformer": "resident"}, why="to begin with")
    with apply(pipe, plan, on_oom="step-down") as managed:
        fault = Fault(pipe, count, torch.OutOfMemoryError)
        assert same(pipe.run(**REQUEST), want)
        fault.remove()
        assert len(managed.notes) == 1
        stage = managed.notes[0].split("'")[1]
        assert stage == ("LTX2AVDenoisingStage" if count == 3 else "LTX2RefinementStage")
        need = [footprint(each, managed.workload).device_bytes[stage] for each in (plan, managed.plan)]
        assert need[1] < need[0]
