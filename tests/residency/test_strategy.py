"""A plan as the offload strategy of diffusers' own ComponentsManager: who leaves, and who stays."""

import pytest
import torch
from diffusers import ComponentsManager
from diffusers.utils.torch_utils import TorchDeviceBackend

from reslab.residency import Plan, layerwise, offload_strategy, swap

KIB = 1024


class Model(torch.nn.Module):
    """A model of so many KiB that says where it was moved to, since there is no accelerator here."""

    def __init__(self, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size * KIB // 4))
        self.device = torch.device("cpu")

    def to(self, device):
        self.device = torch.device(device)
        return self

    def forward(self):
        return self.device.type


class Card:
    """A manager's card of 100 KiB, whose free memory follows from what was moved there."""

    def __init__(self, monkeypatch, plan, **sizes):
        monkeypatch.setattr(TorchDeviceBackend, "mem_get_info", lambda backend: (0, 0))
        self.models = {name: Model(size) for name, size in sizes.items()}
        self.manager = ComponentsManager()
        for name, model in self.models.items():
            self.manager.add(name, model)
        strategy = offload_strategy(plan, reserve="10 KiB", free_bytes=self.free)
        self.manager.enable_auto_cpu_offload(device="cuda", offload_strategy=strategy)

    def free(self, device):
        assert device == torch.device("cuda:0")
        return 100 * KIB - sum(self.models[name].weight.nbytes for name in self.there())

    def there(self):
        return [name for name, model in self.models.items() if model.device.type == "cuda"]

    def call(self, name):
        assert self.models[name]() == "cuda"
        return self.there()


def test_what_is_resident_stays_and_what_swaps_stays_as_long_as_there_is_room(monkeypatch):
    plan = Plan.of({"text_encoder": swap(), "vae": swap()})
    card = Card(monkeypatch, plan, text_encoder=40, transformer=30, vae=50)
    assert card.call("text_encoder") == ["text_encoder"]
    assert card.call("transformer") == ["text_encoder", "transformer"]
    assert card.call("vae") == ["transformer", "vae"]
    assert card.call("transformer") == ["transformer", "vae"]
    card.manager.disable_auto_cpu_offload()
    assert card.there() == []


def test_what_swaps_in_each_stage_leaves_at_once_and_others_stay_as_there_is_room_for_them(monkeypatch):
    plan = Plan.of({"text_encoder": swap(until="each stage"), "transformer": swap(), "vae": swap()})
    card = Card(monkeypatch, plan, text_encoder=5, transformer=60, vae=20)
    assert card.call("transformer") == ["transformer"]
    assert card.call("text_encoder") == ["text_encoder", "transformer"]
    assert card.call("vae") == ["transformer", "vae"]


def test_of_those_that_may_stay_the_one_that_came_first_leaves_first(monkeypatch):
    card = Card(monkeypatch, Plan.of(dict.fromkeys("abcd", swap())), a=30, b=30, c=20, d=30)
    assert [card.call(name) for name in "abcd"] == [["a"], ["a", "b"], ["a", "b", "c"], ["b", "c", "d"]]
    assert card.call("a") == ["a", "c", "d"]


def test_what_should_stream_and_is_not_group_offloaded_comes_and_goes_whole(monkeypatch):
    card = Card(monkeypatch, Plan.of({"transformer": layerwise()}), transformer=20, vae=10)
    assert [card.call(name) for name in ("transformer", "vae")] == [["transformer"], ["vae"]]


def test_if_free_memory_is_unknown_every_swap_leaves(monkeypatch):
    decide = offload_strategy(Plan.of({"a": swap(), "b": swap(until="each stage")}), free_bytes=lambda device: None)
    card = Card(monkeypatch, Plan.of(), a=1, b=1, c=1, d=1)
    hooks = card.manager.model_hooks
    leaving = decide(hooks[:3], hooks[3].model_id, hooks[3].model, torch.device("cuda:0"))
    assert sorted(hook.model_id[0] for hook in leaving) == ["a", "b"]


def test_the_strategy_can_be_replaced_while_it_is_in_force(monkeypatch):
    card = Card(monkeypatch, Plan.of(), a=20, b=20)
    assert [card.call(name) for name in "ab"] == [["a"], ["a", "b"]]
    each = Plan.of(dict.fromkeys("ab", swap(until="each stage")))
    card.manager.set_offload_strategy(offload_strategy(each, reserve=0, free_bytes=card.free))
    card.models["a"].to("cpu")
    assert card.call("a") == ["a"]


def test_a_reserve_that_is_no_size_is_refused():
    with pytest.raises(ValueError, match="a size in bytes"):
        offload_strategy(Plan.of(), reserve="much")
