"""The exercises of notebooks 01 and 04 and their folded answers."""

from functools import cache
from pathlib import Path

import nbformat
import pytest

from reslab import ltx2, residency
from reslab.ltx2 import exercises

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FIRST, MODES = "01_what_happens.ipynb", "04_original_snapshot_resident.ipynb"
ANSWERS = {
    "forward_passes": (FIRST, 123),
    "refine_tokens": (FIRST, 14080),
    "shared_row": (FIRST, "Preview"),
    "snapshot_moves_more": (MODES, 70.7),
    "fullest_stage": (MODES, "LTX2TextConnectorStage"),
    "free_for_resident": (MODES, 86.7),
}


@cache
def given():
    """What the checks of notebook 04 take besides the answer."""
    return ltx2.rehearsal("LTX-2.3", width=1536, height=1024, num_frames=121), residency.device("H100")


@pytest.mark.parametrize(("name", "notebook", "answer"), [(name, *each) for name, each in ANSWERS.items()])
def test_a_right_answer_is_right_and_a_wrong_one_is_not(name, notebook, answer):
    check, others = getattr(exercises, name), given() if notebook == MODES else ()
    wrong = "Decode" if isinstance(answer, str) else answer - 1
    assert [check(each, *others).right for each in (answer, wrong, ...)] == [True, False, None]


@pytest.mark.parametrize(("name", "notebook", "answer"), [(name, *each) for name, each in ANSWERS.items()])
def test_the_notebook_asks_it_and_folds_the_right_answer(name, notebook, answer):
    cells = nbformat.read(NOTEBOOKS / notebook, as_version=4).cells
    asked = next(i for i, cell in enumerate(cells) if f"exercises.{name}(..." in cell.source)
    folded = cells[asked + 1].source
    assert "<details>" in folded
    assert (f"`{answer}`" if isinstance(answer, str) else f"{answer:,}") in folded
