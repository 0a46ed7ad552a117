"""FLOPs of products that torch's own registry does not have: 2 for each multiplication and addition."""

import pytest
import torch

from reslab.residency import rehearse
from reslab.residency._rehearse import _costs
from reslab.stages import Pipeline, stage

aten = torch.ops.aten


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


EIGHT = torch.int8
M, K, N, G = 4, 16, 32, 3
PRODUCTS = {
    "mv": (aten.mv.default, (meta(M, K), meta(K)), 2 * M * K),
    "addmv": (aten.addmv.default, (meta(M), meta(M, K), meta(K)), 2 * M * K),
    "addmv_": (aten.addmv_.default, (meta(M), meta(M, K), meta(K)), 2 * M * K),
    "dot": (aten.dot.default, (meta(K), meta(K)), 2 * K),
    "vdot": (aten.vdot.default, (meta(K), meta(K)), 2 * K),
    "addr": (aten.addr.default, (meta(M, N), meta(M), meta(N)), 2 * M * N),
    "addmm_": (aten.addmm_.default, (meta(M, N), meta(M, K), meta(K, N)), 2 * M * K * N),
    "baddbmm": (aten.baddbmm.default, (meta(G, M, N), meta(G, M, K), meta(G, K, N)), 2 * G * M * K * N),
    "baddbmm_": (aten.baddbmm_.default, (meta(G, M, N), meta(G, M, K), meta(G, K, N)), 2 * G * M * K * N),
    "addbmm": (aten.addbmm.default, (meta(M, N), meta(G, M, K), meta(G, K, N)), 2 * G * M * K * N),
    "_addmm_activation": (aten._addmm_activation.default, (meta(N), meta(M, K), meta(K, N)), 2 * M * K * N),
    "_int_mm": (aten._int_mm.default, (meta(M, K, dtype=EIGHT), meta(K, N, dtype=EIGHT)), 2 * M * K * N),
    "_weight_int8pack_mm": (
        aten._weight_int8pack_mm.default,
        (meta(M, K, dtype=torch.bfloat16), meta(N, K, dtype=EIGHT), meta(N, dtype=torch.bfloat16)),
        2 * M * K * N,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_costs_two_for_each_multiplication_and_addition(name):
    func, args, flops = PRODUCTS[name]
    op = _costs.describe(func)
    assert op.kind == "matmul"
    out = args[0] if func._schema.is_mutable else func(*args)
    assert _costs.flops(op, args, {}, out) == flops


HALF = torch.bfloat16
OFFSETS = torch.tensor([16, 16, 32], dtype=torch.int32)
GROUPED = {
    "rows by group": (meta(32, 16, dtype=HALF), meta(G, 16, 64, dtype=HALF), OFFSETS, 2 * 32 * 16 * 64),
    "columns by group": (meta(G, 64, 16, dtype=HALF), meta(16, 32, dtype=HALF), OFFSETS, 2 * 64 * 16 * 32),
    "inner axis by group": (meta(16, 32, dtype=HALF), meta(32, 64, dtype=HALF), OFFSETS, 2 * 16 * 32 * 64),
    "one to one": (meta(G, 32, 16, dtype=HALF), meta(G, 16, 64, dtype=HALF), None, 2 * G * 32 * 16 * 64),
}


@pytest.mark.parametrize("name", GROUPED)
def test_a_grouped_product_costs_its_rows_whatever_their_groups(name):
    a, b, offsets, flops = GROUPED[name]
    func = aten._grouped_mm.default
    out = func(a, b, None if offsets is None else offsets.to("meta"))
    assert _costs.flops(_costs.describe(func), (a, b, offsets), {}, out) == flops


class Products(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8, 16))

    def forward(self, x):
        y = torch.mv(self.weight, x)
        return torch.addmv(y, self.weight, x) * torch.dot(x, x)


def test_a_rehearsal_counts_them():
    pipe = Pipeline({"model": Products()}).add(stage(lambda model, x: {"y": model(x)}, writes="y"), name="s")
    rehearsal = rehearse(pipe, x=torch.ones(16))
    assert rehearsal.total_flops == 2 * 2 * 8 * 16 + 2 * 16
    assert rehearsal.traces["matmul_flops"].item() == rehearsal.total_flops
