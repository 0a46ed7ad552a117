"""What is written into weights while they are managed is kept or reported, and gradients are right or an error."""

import pytest
import torch

from reslab.residency import Plan, ResidencyError, apply
from reslab.stages import Pipeline, stage

WIDTH = 16
PLACES = {
    "resident": "resident",
    "swap": "swap",
    "layerwise": {"placement": "layerwise", "resident": 1},
    "disk": "disk",
}
X = torch.linspace(-1, 1, WIDTH)


class Model(torch.nn.Module):
    def __init__(self, blocks=5):
        super().__init__()
        torch.manual_seed(blocks)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.last = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.last(x)


@stage(writes="y")
def compute(model, x):
    return model(x)


@stage(writes="gradient")
def differentiate(model, x):
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    return x.grad


@stage(writes="y")
def train(model, x):
    model.blocks[1](x)  # on the device, in a slot if it streams
    with torch.no_grad():
        model.blocks[1].weight.mul_(0.5)
    return model(x)


def make(of=compute, blocks=5):
    pipeline = Pipeline({"model": Model(blocks)}, result=of().writes[0])
    pipeline.add(of())
    return pipeline


def run(pipeline):
    with torch.no_grad():
        return pipeline.run(x=X)


def halve(model):
    with torch.no_grad():
        model.blocks[1].weight.mul_(0.5)


def replace(model):
    model.blocks[1].weight.data = torch.ones(WIDTH, WIDTH)


def exchange(model):
    model.blocks[1] = Model(blocks=2).blocks[0]


def scale_whole(model):
    model.state_dict()["blocks.1.weight"].mul_(0.5)


SEEN = [(place, write) for place in PLACES for write in (replace, exchange)] + [("resident", halve)]
SEEN += [(place, scale_whole) for place in ("resident", "swap", "layerwise")]


@pytest.mark.parametrize(("place", "write"), SEEN)
def test_what_is_written_between_runs_is_seen_and_kept(place, write):
    pipeline, other = make(), make()
    with apply(pipeline, Plan.of({"model": PLACES[place]})) as managed:
        run(pipeline)
        run(pipeline)
        write(pipeline.components["model"])
        write(other.components["model"])
        assert torch.equal(run(pipeline), run(other))
    assert torch.equal(run(pipeline), run(other))
    assert managed.notes == ()


@pytest.mark.parametrize("place", PLACES)
def test_what_a_stage_writes_into_weights_on_the_device_is_kept(place):
    pipeline, other = make(train), make(train)
    with apply(pipeline, Plan.of({"model": PLACES[place]})):
        for _ in range(3):
            assert torch.equal(run(pipeline), run(other))
    assert torch.equal(run(pipeline), run(other))


@pytest.mark.parametrize("place", ["swap", "layerwise", "disk"])
def test_what_is_written_while_weights_are_away_is_reported_once(place):
    pipeline, want = make(), run(make())
    with apply(pipeline, Plan.of({"model": PLACES[place]})):
        run(pipeline)
        halve(pipeline.components["model"])
        with pytest.raises(ResidencyError, match=r"'model/1' were written while .*write into weights before"):
            run(pipeline)
        assert torch.equal(run(pipeline), want)


def test_what_is_written_while_weights_are_away_is_reported_when_nothing_runs_any_more(caplog):
    pipeline = make()
    with apply(pipeline, Plan.of({"model": "swap"})) as managed:
        run(pipeline)
        halve(pipeline.components["model"])
    assert "'model/1' were written" in caplog.text
    assert managed.notes == tuple(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("place", PLACES)
def test_gradients_through_weights_are_right_or_an_error_but_never_wrong(place):
    pipeline, other = make(differentiate), make(differentiate)
    pipeline.components["model"].requires_grad_(False)
    want = other.run(x=X)
    with apply(pipeline, Plan.of({"model": PLACES[place]})):
        for _ in range(2):
            if place in ("resident", "swap"):
                assert torch.equal(pipeline.run(x=X), want)
            else:
                with pytest.raises(RuntimeError, match="inplace") as caught:
                    pipeline.run(x=X)
                assert "place components that gradients go through as 'resident' or 'swap'" in caught.value.__notes__[0]
    assert torch.equal(pipeline.run(x=X), want)
