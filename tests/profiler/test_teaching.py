"""Checks of exercises: what they say, and that a wrong answer does not give the right one away."""

from reslab.profiler.teaching import check_choice, check_number


def number(answer):
    return check_number(answer, truth=11, what="the number of passes", why="8 and 3")


def test_an_answer_not_given_is_asked_for():
    assert repr(number(...)) == "Verdict('your turn: put the number of passes in place of the dots.')"


def test_a_wrong_number_says_which_way_to_go_and_shows_a_picture():
    verdict = number(12)
    assert verdict.says == "the number of passes is smaller than 12."
    assert "11" not in verdict._repr_html_().split("<img")[0]
    assert "data:image/png;base64," in verdict._repr_html_()


def test_a_right_number_says_why():
    assert number(11).says == "the number of passes is 11: 8 and 3."


def test_a_choice_that_is_none_of_the_options_is_said():
    verdict = check_choice("<z>", truth="a", options=["a", "b"], what="the name", why="so")
    assert verdict.right is False
    assert "&lt;z&gt; is none of them; there are a, b." in verdict._repr_html_()
