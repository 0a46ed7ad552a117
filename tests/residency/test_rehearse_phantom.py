"""Phantoms: what is small and known stays real, whatever depends on weights does not, and nothing large is made."""

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from reslab.residency import UnknownValueError, weightless
from reslab.residency._rehearse._phantom import PhantomFunctions, Phantoms
from reslab.residency._rehearse._trace import Liveness, Trace


@pytest.fixture
def traced():
    """Phantoms that record into a trace."""
    trace = Trace(Liveness())
    phantoms = Phantoms(trace)
    with torch.no_grad(), phantoms, PhantomFunctions(phantoms):
        yield trace


def meta(*shape, dtype=torch.float32):
    """A phantom from outside: inside, code that asks for a small tensor on meta gets a real one."""
    with _disable_current_modes():
        return torch.empty(shape, dtype=dtype, device="meta")


def test_small_tensors_that_code_makes_itself_keep_their_values(traced):
    mask = torch.zeros(3, device="meta") == 0
    assert bool(mask.all())
    assert torch.tensor([1.0, 2.0], device="meta").sum().item() == 3.0
    assert torch.arange(4).to("meta").tolist() == [0, 1, 2, 3]


def test_what_depends_on_a_phantom_is_one_and_large_tensors_are_never_made(traced):
    assert (meta(2) + torch.ones(2)).is_meta
    assert torch.randn(1024, 1024, generator=torch.Generator()).is_meta
    assert torch.ones(1024, 512).repeat(2, 4).is_meta
    assert torch.ones(8).sum().item() == 8


def test_writing_something_unknown_into_a_known_tensor_makes_it_unknown(traced):
    known = torch.zeros(4)
    known[:2] = meta(2)
    with pytest.raises(UnknownValueError):
        known.sum().item()


def test_a_known_mask_picks_its_rows_of_a_phantom_and_an_unknown_one_is_an_error(traced):
    assert meta(4, 8)[torch.tensor([True, False, True, True])].shape == (3, 8)
    with pytest.raises(UnknownValueError):
        meta(4, 8)[meta(4, dtype=torch.bool)]


def test_a_phantom_leaves_for_numpy_as_zeros_without_memory(traced):
    frames = meta(121, 1024, 1536, 3, dtype=torch.uint8).cpu().numpy()
    assert frames.shape == (121, 1024, 1536, 3)
    assert frames.strides == (0, 0, 0, 0)


def test_attention_is_one_operation_with_its_flops_and_rows_outside_heads(traced):
    query, key = meta(1, 8, 64, 32), meta(1, 8, 128, 32)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, key)
    (row,) = traced.rows
    assert (row.op, row.kind) == ("scaled_dot_product_attention", "attention")
    assert row.flops == 2 * 2 * 8 * 64 * 128 * 32
    assert row.read_bytes == 4 * 32 * 8 * (64 + 128 + 128)
    assert out.transpose(1, 2).is_contiguous()


def test_bytes_are_those_that_go_in_and_come_out(traced):
    torch.nn.functional.embedding(torch.tensor([[1, 2]]), meta(1000, 16))
    meta(4, 8).add_(1)
    meta(1, 8).expand(4, 8) * 2
    rows = [(row.op, row.kind, row.read_bytes, row.written_bytes) for row in traced.rows if row.op != "lift_fresh"]
    assert rows == [
        ("embedding", "index", 2 * 16 * 4 + 2 * 8, 2 * 16 * 4),  # two rows, not the table
        ("add_", "elementwise", 4 * 8 * 4, 4 * 8 * 4),
        ("mul", "elementwise", 8 * 4, 4 * 8 * 4),  # an expanded row is read once
    ]


def test_live_bytes_follow_storages_not_tensors(traced):
    first = meta(256) * 2
    view = first[:10]
    second = first + 1
    assert traced.liveness.now == 2 * 1024
    del first
    assert traced.liveness.now == 2 * 1024  # the view holds it
    del view, second
    assert traced.liveness.now == 0
    assert traced.activation_peak_bytes == 2 * 1024


def test_weightless_modules_keep_the_small_tables_that_they_compute():
    class Rotary(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2048, 2048)
            self.register_buffer("frequencies", 10000 ** -(torch.arange(4) / 4), persistent=False)

    with weightless():
        rotary = Rotary()
    assert rotary.layer.weight.is_meta
    assert rotary.frequencies.tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    assert torch.get_default_dtype() is torch.float32


def test_operations_are_recorded_again_after_a_pause_that_an_error_ended():
    trace = Trace(Liveness())
    phantoms = Phantoms(trace)
    with torch.no_grad(), phantoms:
        with pytest.raises(RuntimeError, match="ends"), phantoms.paused(), phantoms.paused():
            raise RuntimeError("an error ends it")
        assert (meta(2) + meta(2)).is_meta
    trace.close()
    assert [row.op for segment in trace.segments for row in segment.rows] == ["add"]
