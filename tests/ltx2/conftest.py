"""Tiny checkpoints, built once a session; tests that change one load their own."""

import pytest
import torch

from reslab.ltx2._checkpoint._load import load

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_ltx2():
    return load("tiny", variant="LTX-2")


@pytest.fixture(scope="session")
def tiny_ltx23():
    return load("tiny", variant="LTX-2.3")


@pytest.fixture(scope="session")
def tiny_distilled():
    return load("tiny", variant="LTX-2.3 distilled")


@pytest.fixture(scope="session", params=["LTX-2", "LTX-2.3", "LTX-2.3 distilled"])
def checkpoint(request, tiny_ltx2, tiny_ltx23, tiny_distilled):
    by_name = {each.variant.name: each for each in (tiny_ltx2, tiny_ltx23, tiny_distilled)}
    return by_name[request.param]
