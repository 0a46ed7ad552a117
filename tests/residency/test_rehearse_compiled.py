"""A compiled model is rehearsed as the original: the same frames, nothing compiled, nothing left behind."""

import logging

import pytest
import torch
from torch._dynamo.utils import counters

from reslab.residency import rehearse
from reslab.stages import Pipeline, stage

torch.set_num_threads(1)

COMPILED = []


def backend(graph, inputs):
    """Compile nothing, and tell that it was asked to."""
    COMPILED.append(graph)
    return graph.forward


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.inner = torch.nn.Linear(8, 8), torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())

    def forward(self, x):
        return x + self.inner(self.layer(x))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = torch.nn.Linear(8, 8), torch.nn.ModuleList(Block() for _ in range(8))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def compiled(module):
    return torch.compile(module, backend=backend)


def whole(model):
    return compiled(model)


def in_place(model):
    model.compile(backend=backend)
    return model


def repeated_blocks(model):
    for block in model.blocks:
        block.compile(backend=backend)
    return model


def blocks_exchanged(model):
    model.blocks = torch.nn.ModuleList(compiled(block) for block in model.blocks)
    return model


def some_blocks_in_a_compiled_model(model):
    for place in (1, 2, 5):
        model.blocks[place] = compiled(model.blocks[place])
    return compiled(model)


def inside_a_block(model):
    model.blocks[0].inner = compiled(model.blocks[0].inner)
    model.first = compiled(model.first)
    return compiled(model)


def forwards(model):
    for module in (model, *model.blocks):
        module.forward = compiled(module.forward)
    return model


def function(model):
    step = compiled(torch.tanh)
    for block in model.blocks:
        block.inner[1].forward = step
    return model


WAYS = [
    whole,
    in_place,
    repeated_blocks,
    blocks_exchanged,
    some_blocks_in_a_compiled_model,
    inside_a_block,
    forwards,
    function,
]


def pipeline(model):
    return Pipeline({"model": model}, result="y").add(stage(lambda model, x: {"y": model(x)}, writes="y"), name="run")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_compiled_model_is_rehearsed_as_its_original_and_nothing_is_compiled(way, caplog):
    x, plain = torch.ones(2, 8), rehearse(pipeline(Model()), x=torch.ones(2, 8))
    model, before = way(Model()), {name: dict(each) for name, each in counters.items()}
    attributes = [(part, dict(vars(part))) for part in model.modules()]
    COMPILED.clear()
    with caplog.at_level(logging.DEBUG):
        assert rehearse(pipeline(model), x=x) == plain
    assert COMPILED == []
    assert [record for record in caplog.records if record.name.startswith("torch")] == []
    assert {name: dict(each) for name, each in counters.items() if each} == {k: v for k, v in before.items() if v}
    assert all(vars(part) == was for part, was in attributes)


def test_a_compiled_model_is_compiled_again_after_its_rehearsal():
    model = compiled(Model())
    rehearse(pipeline(model), x=torch.ones(2, 8))
    COMPILED.clear()
    with torch.no_grad():
        model(torch.ones(2, 8))
    assert len(COMPILED) >= 1
    torch._dynamo.reset()


def test_a_compiled_model_that_fails_stays_compiled():
    model = repeated_blocks(Model())
    calls = [vars(block)["_compiled_call_impl"] for block in model.blocks]
    with pytest.raises(RuntimeError):
        rehearse(pipeline(model), x=torch.ones(2, 9))
    assert [vars(block)["_compiled_call_impl"] for block in model.blocks] == calls
    assert torch._dynamo.eval_frame._stance.stance == "default"
