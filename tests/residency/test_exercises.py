"""The exercises of notebooks 00 and 05 and their folded answers."""

from pathlib import Path

import nbformat
import pytest

from reslab import ltx2
from reslab.residency import exercises

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SIZE = {"width": 1536, "height": 1024, "num_frames": 121}
# notebook, answer, a wrong answer, keywords
ANSWERS = {
    "rule_misses_tflop": ("05_rehearse_22B_on_a_laptop", 203, 204, {}),
    "activation_gib_at": ("05_rehearse_22B_on_a_laptop", 4.5, 4.4, {"tokens": 32640}),
    "traced_blocks": ("05_rehearse_22B_on_a_laptop", 6, 10, {}),
}


@pytest.fixture(scope="module")
def rehearsal():
    return ltx2.rehearsal("LTX-2.3", **SIZE)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_answer_is_right_and_a_wrong_one_is_not(name, rehearsal):
    check, (_, right, wrong, keywords) = getattr(exercises, name), ANSWERS[name]
    verdicts = [check(answer, rehearsal, **keywords).right for answer in (right, wrong, ...)]
    assert verdicts == [True, False, None]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_notebook_asks_it_and_folds_the_right_answer(name):
    notebook, answer, *_ = ANSWERS[name]
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    asked = next(i for i, cell in enumerate(cells) if f"exercises.{name}(...," in cell.source)
    assert "<details>" in cells[asked + 1].source
    assert f"\n\n{answer}. " in cells[asked + 1].source
