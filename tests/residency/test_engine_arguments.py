"""A wrong argument of `apply` is one sentence that says what to do, before anything moves."""

import pytest
import torch
from safetensors.torch import save_file

from reslab.residency import Budget, Plan, PlanError, ResidencyError, apply
from reslab.stages import Pipeline, stage

WIDTH = 16
X = torch.linspace(-1, 1, WIDTH)


class Model(torch.nn.Module):
    def __init__(self, blocks=4):
        super().__init__()
        torch.manual_seed(blocks)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(blocks))

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


class Table(torch.nn.Module):
    """A module of buffers alone."""

    def __init__(self):
        super().__init__()
        self.register_buffer("values", torch.ones(WIDTH))


@stage(writes="y")
def compute(model, x):
    return model(x)


def make(**components):
    pipeline = Pipeline({"model": Model(), **components}, result="y")
    pipeline.add(compute())
    return pipeline


def run(pipeline):
    with torch.no_grad():
        return pipeline.run(x=X)


SWAP = Plan.of({"model": "swap"})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"plan": {"model": "swap"}}, r"plan is a Plan, got dict; write Plan\.of"),
        ({"pipeline": Model()}, r"pipeline is a Pipeline, got Model; make one .* Pipeline\.from_diffusers"),
        ({"budget": 2**30}, r"budget is a Budget, got int; write Budget\(device_bytes"),
        ({"device": "meta"}, r"there is no device 'meta' here; there are: cpu"),
        ({"device": "banana"}, r"there is no device 'banana' here; there are: cpu"),
        ({"device": ""}, r"there is no device '' here; there are: cpu"),
        ({"device": -1}, r"there is no device -1 here; there are: cpu"),
        ({"device": 1.5}, r"there is no device 1\.5 here; there are: cpu"),
        ({"device": {"model": "cpu"}}, r"device is one device, .* got 1 in a dict; .* name one, such as"),
        ({"device": ["cuda:0", "cuda:1"]}, r"device is one device, .* got 2 in a list"),
        ({"files": {"model": 5}}, r"files are paths of safetensors files, .* got 5"),
        ({"on_oom": "retry"}, r"on_oom is one of 'stop', 'step-down'; got 'retry'"),
        ({"on_oom": None}, r"on_oom is one of 'stop', 'step-down'; got None"),
        ({"link": "0 GB/s"}, r"link='0 GB/s' would never finish a copy; .* leave link out"),
        ({"link": 0}, r"link=0 would never finish"),
        ({"link": 25}, r"link=25 is 25 bytes a second; did you mean '25 GB/s'\?"),
        ({"blocks": {"modle": "blocks"}}, r"blocks names 'modle', which is not there; did you mean 'model'"),
        ({"blocks": {"model": ("Model",)}}, r"has no module or class 'Model'; did you mean 'ModuleList'"),
        ({"files": {"modle": "model.safetensors"}}, r"files names 'modle', which is not there"),
        ({"files": {"model": "absent.safetensors"}}, r"there is no file 'absent\.safetensors'"),
        ({"plan": Plan.of({"table": "swap"})}, r"the plan places 'table', which has no weights to move; leave it out"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_to_do(given, sentence):
    pipeline = make(table=Table())
    given = {"pipeline": pipeline, "plan": SWAP, **given}
    with pytest.raises(ValueError, match=sentence), apply(**given):
        pytest.fail("it was let in")
    assert torch.equal(run(pipeline), run(make()))


@pytest.mark.parametrize("nbytes", [-1, 1.5, "12 GiB"])
def test_a_budget_is_a_number_of_bytes(nbytes):
    with pytest.raises(ValueError, match=r"device_bytes is a whole number of bytes.*got"):
        Budget(device_bytes=nbytes)


def test_blocks_inside_blocks_are_refused():
    pipeline = make(nested=torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 2))))
    given = {"nested": ("0", "0.0")}
    with (
        pytest.raises(ResidencyError, match=r"'0\.0' lies inside the block '0'; name one"),
        apply(pipeline, SWAP, blocks=given),
    ):
        pytest.fail("it was let in")


def test_a_pipeline_without_stages_is_refused():
    with pytest.raises(PlanError, match="has no stages"), apply(Pipeline({"model": Model()}), SWAP):
        pytest.fail("it was let in")


def test_compiled_methods_and_scripted_modules_are_refused():
    compiled = Model()
    compiled.forward = torch.compile(compiled.forward, backend="eager")
    with pytest.warns(DeprecationWarning, match="jit"):
        traced = torch.jit.script(torch.nn.Linear(WIDTH, WIDTH))
    for model, sentence in ((compiled, "'forward' compiled by torch.compile"), (traced, "compiled by torch.jit")):
        with pytest.raises(ResidencyError, match=sentence), apply(make(model=model), SWAP):
            pytest.fail("it was let in")


def test_entering_again_is_refused_and_leaves_the_residency_in_force():
    pipeline = make()
    with apply(pipeline, SWAP) as managed:
        want = run(pipeline)
        with pytest.raises(ResidencyError, match="in force already"), managed:
            pytest.fail("it was let in")
        assert torch.equal(run(pipeline), want)
        assert managed.fetched_bytes["compute"] > 0
    with managed:
        assert torch.equal(run(pipeline), want)


def test_a_module_that_another_residency_manages_is_refused():
    first = make()
    second = make(model=first.components["model"])
    with apply(first, SWAP):
        want = run(first)
        with pytest.raises(ResidencyError, match="'model' is managed by another residency; leave"), apply(second, SWAP):
            pytest.fail("it was let in")
        assert torch.equal(run(first), want)
    assert torch.equal(run(second), want)


@pytest.mark.parametrize("blocks", [2, 6])
def test_a_component_with_other_blocks_can_take_the_place_of_one_whose_calls_are_known(blocks):
    pipeline, want = make(), run(make(model=Model(blocks)))
    with apply(pipeline, Plan.of({"model": "layerwise"})) as managed:
        run(pipeline)
        pipeline.components["model"] = Model(blocks)
        for _ in range(2):
            assert torch.equal(run(pipeline), want)
        assert managed.fetched_bytes["compute"] == sum(p.nbytes for p in Model(blocks).parameters())


def test_files_that_are_read_already_may_go(tmp_path):
    pipeline = make()
    file = tmp_path / "model.safetensors"
    save_file(pipeline.components["model"].state_dict(), file)
    with apply(pipeline, Plan.of({"model": "disk"}), files={"model": file}):
        want = run(pipeline)
        file.unlink()
        assert torch.equal(run(pipeline), want)


def test_sizes_are_said_in_a_unit_that_shows_them():
    budget = Budget(device_bytes=2000)
    with pytest.raises(PlanError, match=r"needs 4\.25 KiB, 1\.95 KiB are free"), apply(make(), SWAP, budget=budget):
        pytest.fail("it was let in")


def test_files_of_components_that_the_pipeline_does_not_have_are_left_alone(tmp_path):
    """A checkpoint names the files of all its components, and one stage of two has no upsampler."""
    with apply(make(), SWAP, files={"latent_upsampler": tmp_path / "absent.safetensors"}) as managed:
        assert managed.plan == SWAP


def test_files_of_other_weights_are_refused(tmp_path):
    save_file({"blocks.0.weight": torch.zeros(WIDTH, WIDTH)}, tmp_path / "other.safetensors")
    pipeline = make()
    files = {"model": tmp_path / "other.safetensors"}
    with apply(pipeline, Plan.of({"model": "disk"}), files=files), pytest.raises(ResidencyError, match="is not what"):
        run(pipeline)
    assert torch.equal(run(pipeline), run(make()))
