"""The exercises of notebook 01 and their folded answers."""

from pathlib import Path

import nbformat
import pytest

from reslab.ltx2 import exercises

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_what_happens.ipynb"
ANSWERS = {"forward_passes": 123, "refine_tokens": 14080, "shared_row": "Preview"}


@pytest.mark.parametrize(("name", "answer"), ANSWERS.items())
def test_a_right_answer_is_right_and_a_wrong_one_is_not(name, answer):
    check = getattr(exercises, name)
    wrong = answer - 1 if isinstance(answer, int) else "Decode"
    assert (check(answer).right, check(wrong).right, check(...).right) == (True, False, None)


@pytest.mark.parametrize(("name", "answer"), ANSWERS.items())
def test_the_notebook_asks_it_and_folds_the_right_answer(name, answer):
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    asked = next(i for i, cell in enumerate(cells) if cell.source.endswith(f"exercises.{name}(...)"))
    folded = cells[asked + 1].source
    assert "<details>" in folded
    assert f"{answer:,}" in folded if isinstance(answer, int) else f"`{answer}`" in folded
