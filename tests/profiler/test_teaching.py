"""Checks of exercises: what they say, and that a wrong answer does not give the right one away."""

import pytest

from reslab.profiler import teaching
from reslab.profiler.teaching import Asked, Hints, check_choice, check_number


@pytest.fixture(autouse=True)
def fresh():
    """No wrong answers so far."""
    teaching._wrong.clear()


def number(answer):
    return check_number(
        answer,
        truth=11,
        what="the number of passes",
        why="8 and 3",
        hints=Hints(beside={"steps": 8}, section="section 4"),
    )


def test_an_answer_not_given_is_asked_for():
    assert repr(number(...)) == "Verdict('your turn: put the number of passes in place of the dots.')"


def test_a_wrong_number_says_which_way_to_go_and_shows_a_picture():
    verdict = number(20)
    assert verdict.says == "the number of passes is smaller than 20."
    assert "11" not in verdict._repr_html_().split("<img")[0]
    assert "data:image/png;base64," in verdict._repr_html_()


def test_a_right_number_says_why():
    assert number(11).says == "the number of passes is 11: 8 and 3."


def test_a_choice_that_is_none_of_the_options_is_said():
    verdict = check_choice("<z>", truth="a", options=["a", "b"], what="the name", why="so")
    assert verdict.right is False
    assert "&lt;z&gt; is none of them; there are a, b." in verdict._repr_html_()


def test_half_a_unit_of_the_last_digit_is_right_and_more_is_close_but_never_a_false_inequality():
    asked = Asked(unit="GB/s", to=1)
    says = {
        answer: check_number(answer, truth=81.22, what="it", why="so", asked=asked) for answer in (81, 81.7, 81.73, 84)
    }
    assert [verdict.right for verdict in says.values()] == [True, True, False, False]
    assert says[81].says == "it is 81: so."
    assert says[81.73].says == "it is not 81.73: close: compute with all digits and round once, at the end."
    assert says[84].says == "it is smaller than 84."


def test_parts_that_the_text_rounds_are_right_and_the_praise_says_so():
    verdict = check_number(204, truth=203.27, what="it", why="so", asked=Asked(to=1, rounded=(204,)))
    assert verdict.says == "it is 203: so. 204 is right as well: its parts were rounded first."


def test_a_right_answer_forgets_the_wrong_ones():
    wrong = [number(answer).says for answer in (20, 30, 40)]
    assert [each.endswith("Read section 4 again: it says how this comes about.") for each in wrong] == [
        False,
        False,
        True,
    ]
    assert number(11).right
    assert number(40).says == "the number of passes is smaller than 40."


def test_an_answer_in_another_unit_is_named():
    verdict = check_number(109.5, truth=101.97, what="it", why="so", asked=Asked(unit="GiB", to=1))
    assert verdict.says == "it is not 109.5: that is the answer in GB, and GiB is asked for."
