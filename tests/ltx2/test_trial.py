"""What is tried on a device: full size where there is an accelerator, the mid-size model on a CPU."""

import pytest

from reslab import ltx2
from reslab.ltx2 import _trial
from reslab.ltx2._checkpoint import _blank
from reslab.ltx2._checkpoint._small_configs import small_config


def test_a_cpu_gets_the_mid_size_model(monkeypatch):
    monkeypatch.setattr(_trial, "load", lambda size, variant: ltx2.load("tiny", variant=variant))
    trial = ltx2.trial("cpu")
    assert trial.checkpoint.source == "tiny"
    assert "a CPU would take hours" in trial.why
    video = ltx2.two_stage(trial.checkpoint).run(**trial.request)
    assert video.frames.shape == (9, 64, 128, 3)


def test_an_accelerator_gets_the_full_size_in_host_memory_without_being_touched(monkeypatch):
    monkeypatch.setattr(_blank, "config", small_config)
    trial = ltx2.trial("cuda:3")
    assert trial.checkpoint.source == "random values"
    assert {part.device.type for module in trial.checkpoint.modules.values() for part in module.parameters()} == {"cpu"}
    assert (
        len(
            {
                block.scale_shift_table.data_ptr()
                for block in trial.checkpoint.components["transformer"].transformer_blocks
            }
        )
        == 1
    )
    assert "at full size" in trial.why


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_request_keeps_to_the_models_rules(monkeypatch, tiny_distilled, device):
    monkeypatch.setattr(_trial, "load", lambda size, variant: tiny_distilled)
    monkeypatch.setattr(_blank, "config", small_config)
    trial = ltx2.trial(device)
    pipe = ltx2.two_stage(trial.checkpoint)
    assert pipe.check(**trial.request) is None


def test_without_a_device_it_is_the_one_that_notebooks_use(monkeypatch, tiny_distilled):
    monkeypatch.setenv("RESLAB_DEVICE", "cpu")
    monkeypatch.setattr(_trial, "load", lambda size, variant: tiny_distilled)
    assert ltx2.trial().checkpoint is tiny_distilled
