"""Choices: enums whose members carry a sentence, given as texts."""

import pickle

import pytest

from reslab.stages.support import Described


class Tiling(Described):
    ON = "on", "Decode in tiles."
    OFF = "off", "Decode at once."


@pytest.mark.parametrize("given", ["on", Tiling.ON])
def test_a_text_or_a_member_is_a_choice(given):
    assert Tiling.of(given, "tiling") is Tiling.ON


@pytest.mark.parametrize("given", ["auto", "ON", "", None, 1, []])
def test_another_value_is_refused_with_the_values_that_there_are(given):
    with pytest.raises(ValueError, match=r"^tiling is one of 'on', 'off'; got ") as refused:
        Tiling.of(given, "tiling")
    assert str(refused.value).endswith(repr(given))


def test_a_refusal_is_of_the_class_that_a_package_wants():
    class PlanError(ValueError):
        pass

    with pytest.raises(PlanError):
        Tiling.of("auto", "tiling", error=PlanError)


def test_a_member_keeps_its_sentence_in_a_copy():
    assert pickle.loads(pickle.dumps(Tiling.OFF)).doc == "Decode at once."
