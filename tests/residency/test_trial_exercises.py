"""The exercises of notebook 08: its folded answers are those of the mid-size model, and of the full one where told."""

from pathlib import Path

import nbformat
import pytest
import torch

from reslab import ltx2, residency
from reslab.ltx2 import _trial
from reslab.ltx2._checkpoint import _blank
from reslab.ltx2._checkpoint._small_configs import small_config
from reslab.residency import exercises

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "08_is_it_right_on_my_gpu.ipynb"
# what else the check takes, right answer at mid size, at full size
ANSWERS = {
    "gib_with_kept": ({"kept": 9}, 1.09, 367.55),
    "gib_more_each_stage": ({}, 0.3, 35.37),
    "gib_of_prefetch": ({"prefetch": 3}, 0.12, 3.68),
}


@pytest.fixture(scope="module")
def rehearsals():
    """Of what the notebook runs on a CPU, by a mid-size model without values, and of what it runs on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blank, "config", lambda name, component: small_config(name, component, "mid"))
        mid = ltx2.two_stage(ltx2.blank("LTX-2.3 distilled", dtype=torch.float32))
    full = ltx2.rehearsal("LTX-2.3 distilled", **_trial._FULL)
    return residency.rehearse(mid, **_trial._REQUEST, **_trial._MID), full


@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_answer_is_right_and_a_wrong_one_is_not(name, rehearsals):
    check, (more, *answers) = getattr(exercises, name), ANSWERS[name]
    for rehearsal, right in zip(rehearsals, answers, strict=True):
        verdicts = [check(answer, rehearsal, **more).right for answer in (right, right + 0.01, ...)]
        assert verdicts == [True, False, None]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_notebook_asks_it_and_folds_the_right_answers(name):
    more, mid, full = ANSWERS[name]
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    asked = next(i for i, cell in enumerate(cells) if f"exercises.{name}(...," in cell.source)
    assert all(f"{key}={value}" in cells[asked].source for key, value in more.items())
    assert f"\n\n{mid}. " in cells[asked + 1].source
    assert f"At full size {full}" in cells[asked + 1].source
