"""Components without values: the engine brings the values from safetensors files, and leaves without them again."""

import re

import pytest
import torch
from safetensors.torch import save_file

from reslab.residency import Plan, ResidencyError, WeightsAbsent, apply, disk, layerwise, swap
from reslab.stages import Pipeline, stage

WIDTH = 32
BLOCK = (WIDTH + 1) * WIDTH * 4  # bytes of one weight and its bias: nothing is padded
X = torch.linspace(-1, 1, WIDTH)


class Model(torch.nn.Module):
    def __init__(self, blocks=4):
        super().__init__()
        torch.manual_seed(blocks)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.last = torch.nn.Linear(WIDTH, WIDTH)
        self.register_buffer("scale", torch.full((WIDTH,), 0.5))

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x)) * self.scale
        return self.last(x)


@stage(writes="y")
def compute(model, x):
    return model(x)


def piped(model):
    pipeline = Pipeline({"model": model}, result="y")
    pipeline.add(compute())
    return pipeline


def without_values(blocks=4):
    with torch.device("meta"):
        return Model(blocks)


@pytest.fixture
def files(tmp_path):
    """Two files of what `Model()` is, as a checkpoint has them."""
    state = Model().state_dict()
    first = {key: value for key, value in state.items() if key.startswith("blocks")}
    save_file(first, tmp_path / "a.safetensors")
    save_file({key: value for key, value in state.items() if key not in first}, tmp_path / "b.safetensors")
    return [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


PLACES = {
    "resident": "resident",
    "swap": swap(),
    "swap each": swap(until="each stage"),
    "layerwise": layerwise(resident=1),
    "kept": layerwise(resident=1, until="run"),
    "disk": disk(resident=1),
}


@pytest.mark.identity
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("grad", [False, True])
def test_what_has_no_values_computes_with_those_of_its_files_and_is_left_without(files, place, grad):
    want = piped(Model()).run(x=X)
    model = without_values()
    before = {name: (id(each), each.is_meta) for name, each in (*model.named_parameters(), *model.named_buffers())}
    pipeline = piped(model)
    for _ in range(2):  # entered twice
        with (
            torch.set_grad_enabled(grad and "resident" in place),
            apply(pipeline, Plan.of({"model": PLACES[place]}), files={"model": files}) as managed,
        ):
            kept = [pipeline.run(x=X) for _ in range(3)]
            assert all(torch.equal(each, want) for each in kept)
            assert managed.notes == ()
        after = {name: (id(each), each.is_meta) for name, each in (*model.named_parameters(), *model.named_buffers())}
        assert after == before
        assert not any("_apply" in vars(part) for part in model.modules())


def test_what_streams_from_disk_or_stays_needs_no_host_copy(files):
    for place, copied in (("disk", 0), ("resident", 0), ("layerwise", 5 * BLOCK)):
        with (
            torch.no_grad(),
            apply(piped(without_values()), Plan.of({"model": place}), files={"model": files}) as managed,
        ):
            managed._pipeline.run(x=X)
            assert managed.table()["host_bytes"].sum() == copied, place


def test_outside_of_a_run_it_says_that_its_weights_are_absent_and_saves_what_it_has(files):
    pipeline = piped(without_values())
    with torch.no_grad(), apply(pipeline, Plan.of({"model": "disk"}), files={"model": files}):
        with pytest.raises(WeightsAbsent, match="no stage is under way"):
            pipeline.components["model"](X)
        assert pipeline.components["model"].state_dict()["last.weight"].shape == (WIDTH, WIDTH)
        pipeline.run(x=X)
        state, want = pipeline.components["model"].state_dict(), Model().state_dict()
        assert all(torch.equal(state[key], want[key]) for key in want)


def changed(tmp_path, **weights):
    """The file of `Model()` with some weights replaced, or (None) left out."""
    state = {key: weights.get(key.replace(".", "_"), value) for key, value in Model().state_dict().items()}
    extra = {key: value for key, value in weights.items() if key not in {name.replace(".", "_") for name in state}}
    path = tmp_path / "changed.safetensors"
    save_file({key: value for key, value in {**state, **extra}.items() if value is not None}, path)
    return path


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"blocks_2_bias": None}, r"'blocks\.2\.bias' of 'model' is on meta.*changed\.safetensors\) do not hold it"),
        ({"scale": None}, r"'scale' of 'model' is on meta, without values, and its files"),
        ({"other": torch.ones(3)}, r"changed\.safetensors holds 'other', which 'model' does not have"),
        (
            {"last_bias": torch.ones(3)},
            r"changed\.safetensors holds 'last\.bias' as float32 \(3,\), and 'model' has it",
        ),
        ({"last_bias": torch.ones(WIDTH).half()}, r"holds 'last\.bias' as float16 \(32,\), and .* as float32 \(32,\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_on_entering(tmp_path, weights, sentence):
    model = without_values()
    with (
        pytest.raises(ResidencyError, match=sentence),
        apply(piped(model), Plan.of({"model": "disk"}), files={"model": changed(tmp_path, **weights)}),
    ):
        pytest.fail("it was let in")
    assert all(each.is_meta for each in (*model.parameters(), *model.buffers()))


def test_a_key_in_two_files_is_refused(files, tmp_path):
    save_file({"last.bias": torch.zeros(WIDTH)}, tmp_path / "c.safetensors")
    given = {"model": [*files, tmp_path / "c.safetensors"]}
    with pytest.raises(ResidencyError, match=r"'last\.bias' of 'model' is in b\.safetensors and in c\.safetensors"):
        apply(piped(without_values()), Plan.of({"model": "disk"}), files=given).__enter__()


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", b"not a file of weights at all"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "damaged.safetensors").write_bytes(content)
    for model in (Model(), without_values()):
        with pytest.raises(ResidencyError, match=re.escape(str(tmp_path / "damaged.safetensors")) + " is damaged"):
            apply(
                piped(model), Plan.of({"model": "disk"}), files={"model": tmp_path / "damaged.safetensors"}
            ).__enter__()


def test_without_files_it_is_refused_with_what_to_give():
    model = without_values()
    del model.scale
    with pytest.raises(ResidencyError, match=r"model\.blocks\.0 has a weight 'weight' on meta.*files=\{…\}, or load"):
        apply(piped(model), Plan.of({"model": "disk"})).__enter__()
    model = Model()
    model.scale = model.scale.to("meta")
    with pytest.raises(ResidencyError, match=r"model has a buffer 'scale' on meta"):
        apply(piped(model), Plan.of({"model": "disk"})).__enter__()


def test_tied_weights_need_one_of_their_names(tmp_path):
    def tied():
        model = Model()
        model.last.weight = model.blocks[0].weight
        return model

    state = {key: value for key, value in tied().state_dict().items() if key != "blocks.0.weight"}
    save_file(state, tmp_path / "tied.safetensors")
    want = piped(tied()).run(x=X)
    with torch.device("meta"):
        model = tied()
    for place in ("disk", "swap"):
        with (
            torch.no_grad(),
            apply(piped(model), Plan.of({"model": place}), files={"model": tmp_path / "tied.safetensors"}) as managed,
        ):
            assert torch.equal(managed._pipeline.run(x=X), want)
        assert model.last.weight is model.blocks[0].weight


def test_weights_that_lie_in_another_order_of_memory_keep_it(tmp_path):
    def image():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).to(memory_format=torch.channels_last)

    save_file({key: value.contiguous() for key, value in image().state_dict().items()}, tmp_path / "image.safetensors")
    x = torch.rand(1, 3, 8, 8)
    want = piped(image()).run(x=x)
    for place in ("disk", "swap", "resident"):
        with torch.device("meta"):
            model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).to(memory_format=torch.channels_last)
        for each in (model, image()):
            with (
                torch.no_grad(),
                apply(
                    piped(each), Plan.of({"model": place}), files={"model": tmp_path / "image.safetensors"}
                ) as managed,
            ):
                assert torch.equal(managed._pipeline.run(x=x), want)


def test_what_is_written_into_weights_without_values_is_said_to_be_lost(files):
    model = without_values()
    with torch.no_grad(), apply(piped(model), Plan.of({"model": "resident"}), files={"model": files}) as managed:
        want = managed._pipeline.run(x=X)
        model.last.bias.add_(1)
        assert torch.allclose(managed._pipeline.run(x=X), want + 1)
    assert "'model' came without values" in managed.notes[-1]
    assert model.last.bias.is_meta
