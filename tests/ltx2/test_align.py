"""Weights lie at aligned addresses, once, and keep identity and sharing."""

import copy

import pytest
import torch

from reslab.ltx2._checkpoint._align import align, aligned_copy, aligned_empty, is_aligned


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, one element past an aligned address."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def test_align_moves_weights_to_64_bytes_and_keeps_their_values():
    layer = torch.nn.Linear(7, 5)
    layer.weight.data = misaligned(layer.weight.data)
    before = copy.deepcopy(layer.state_dict())
    assert not is_aligned(layer)
    weight = layer.weight
    align(layer)
    assert layer.weight is weight
    assert all(tensor.data_ptr() % 64 == 0 for tensor in layer.state_dict().values())
    assert all(torch.equal(tensor, before[key]) for key, tensor in layer.state_dict().items())


def test_tied_weights_stay_tied():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 3), "head": torch.nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    align(model)
    model["embed"].weight.data[0] = 7.0
    assert model["head"].weight is model["embed"].weight
    assert model["head"].weight[0].tolist() == [7.0, 7.0, 7.0]


def test_dtype_converts_what_is_stored_and_not_what_a_module_computes():
    layer = torch.nn.Linear(2, 2)
    layer.register_buffer("statistics", torch.ones(2))
    layer.register_buffer("frequencies", torch.ones(2), persistent=False)
    layer.register_buffer("steps", torch.ones(2, dtype=torch.int64))
    align(layer, dtype=torch.bfloat16)
    dtypes = [layer.weight.dtype, layer.statistics.dtype, layer.frequencies.dtype, layer.steps.dtype]
    assert dtypes == [torch.bfloat16, torch.bfloat16, torch.float32, torch.int64]


@pytest.mark.parametrize("shape", [(), (0,), (3, 1, 2)])
def test_a_copy_has_memory_of_its_own(shape):
    original = torch.ones(shape)
    copied = aligned_copy(original)
    assert torch.equal(copied, original)
    copied.fill_(2.0)
    assert bool((original == 1.0).all())


def test_strided_tensors_become_contiguous_values():
    turned = torch.arange(6.0).view(2, 3).T
    assert torch.equal(aligned_copy(turned), turned)
    assert aligned_copy(turned).is_contiguous()


@pytest.mark.parametrize("boundary", [64, 256, 4096])
def test_memory_starts_at_the_boundary_even_where_the_allocator_does_not(boundary):
    empty = aligned_empty(torch.zeros(3, 5, dtype=torch.bfloat16), device="cpu", boundary=boundary)
    assert (empty.data_ptr() % boundary, empty.shape, empty.dtype) == (0, (3, 5), torch.bfloat16)
