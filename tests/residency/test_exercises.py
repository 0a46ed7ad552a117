"""The exercises of notebooks 00, 03 and 05 and their folded answers."""

from pathlib import Path

import nbformat
import pytest

from reslab import ltx2, residency
from reslab.residency import exercises

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FIRST, FIFTH = "00_what_does_offloading_cost", "05_rehearse_22B_on_a_laptop"
THIRD = "03_what_moves_when"
# notebook, right answer, wrong answer, what else the check takes
ANSWERS = {
    "link_for_free": (FIRST, 81, 55, [residency.device("H100")]),
    "blocks_for_free": (FIRST, 43, 42, [residency.device("L40S")]),
    "recipe_gib_encoding_once": (FIRST, 102, 67, []),
    "rule_misses_tflop": (FIFTH, 203, 205, []),
    "activation_gib_at": (FIFTH, 4.5, 4.4, [32640]),
    "traced_blocks": (FIFTH, 6, 10, []),
}
# the same for those that lay the order of moves on two lanes
ON_LANES = {
    "copies_made": (THIRD, 120, 12, {"blocks": 12, "slots": 11, "passes": 10}),
    "blocks_that_stay": (THIRD, 16, 15, {"blocks": 24, "copy": 2.5}),
    "prefetch_of_leading": (THIRD, 4, 1, {"blocks": 12, "resident": 6, "copy": 2}),
}


@pytest.fixture(scope="module")
def rehearsals():
    small = ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=121)
    return {True: small, False: ltx2.rehearsal("LTX-2.3", width=1536, height=1024, num_frames=121)}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_answer_is_right_and_a_wrong_one_is_not(name, rehearsals):
    check, (_, right, wrong, more) = getattr(exercises, name), ANSWERS[name]
    rehearsal = rehearsals[name == "blocks_for_free"]
    assert [check(answer, rehearsal, *more).right for answer in (right, wrong, ...)] == [True, False, None]


@pytest.mark.parametrize("name", ON_LANES)
def test_a_right_answer_on_two_lanes_is_right_and_a_wrong_one_is_not(name):
    check, (_, right, wrong, more) = getattr(exercises, name), ON_LANES[name]
    assert [check(answer, **more).right for answer in (right, wrong, ...)] == [True, False, None]


@pytest.mark.parametrize("name", [*ANSWERS, *ON_LANES])
def test_the_notebook_asks_it_and_folds_the_right_answer(name):
    notebook, answer, *_ = (ANSWERS | ON_LANES)[name]
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    asked = next(i for i, cell in enumerate(cells) if f"exercises.{name}(...," in cell.source)
    assert "<details>" in cells[asked + 1].source
    assert f"\n\n{answer}. " in cells[asked + 1].source
