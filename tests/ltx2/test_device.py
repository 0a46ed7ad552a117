"""Where notebooks take their device from."""

import pytest
import torch

from reslab.ltx2 import default_device


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("RESLAB_DEVICE", "cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    assert default_device() == torch.device("cpu")


def test_else_the_accelerator_or_the_cpu(monkeypatch):
    monkeypatch.delenv("RESLAB_DEVICE")
    assert default_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    assert default_device() == torch.device("cuda")


@pytest.mark.parametrize(("asked", "says"), [("gpu0", "is no device"), ("cuda:0", "this machine has no accelerator")])
def test_a_device_that_is_not_there_is_refused(monkeypatch, asked, says):
    monkeypatch.setenv("RESLAB_DEVICE", asked)
    with pytest.raises(ValueError, match=says):
        default_device()


@pytest.mark.parametrize("asked", ["cuda:2", "xpu"])
def test_a_device_beyond_those_that_are_there_is_refused(monkeypatch, asked):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setenv("RESLAB_DEVICE", asked)
    with pytest.raises(ValueError, match=f"'{asked}', but this machine has 2 of type 'cuda'; unset it"):
        default_device()
    monkeypatch.setenv("RESLAB_DEVICE", "cuda:1")
    assert default_device() == torch.device("cuda:1")
