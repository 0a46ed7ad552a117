"""Values and stages as mappings with attribute access, and what they show."""

import copy
from types import SimpleNamespace

import pytest

from reslab.stages import Pipeline, Stage, Values


class A(Stage):
    def run(self):
        return None


def test_values_are_read_by_key_and_by_attribute():
    values = Values({"width": 128})
    assert values["width"] == values.width == 128
    assert "width" in values
    assert values.get("height", 3) == 3


def test_missing_value_names_the_nearest():
    values = Values({"width": 128})
    with pytest.raises(KeyError, match="no value named 'widht'; did you mean 'width'"):
        values["widht"]
    with pytest.raises(AttributeError, match=r"no value named 'widht'.*width"):
        values.widht  # noqa: B018


def test_values_complete_with_tab():
    values = Values({"width": 128, "not a name": 1})
    assert values._ipython_key_completions_() == ["width", "not a name"]
    assert "width" in dir(values)
    assert "not a name" not in dir(values)


def test_copied_values_share_nothing_but_what_they_hold():
    values = Values({"a": [1]})
    values.tag("a", "inputs")
    other = values.copy()
    other["b"] = 2
    other.tag("b", "inputs")
    assert (list(values), values.tagged("inputs")) == (["a"], {"a": [1]})
    assert other.a is values.a


def test_restored_values_are_what_was_kept():
    values = Values({"a": 1})
    kept = values.copy()
    values["a"], values["b"] = 2, 3
    values.tag("b", "inputs")
    values.restore(kept)
    assert (dict(values), values.tagged("inputs")) == ({"a": 1}, {})


def test_deleted_value_loses_its_tag():
    values = Values({"a": 1})
    values.tag("a", "inputs")
    assert values.pop("a") == 1
    assert values.tagged("inputs") == {}


def test_values_survive_the_copy_module():
    assert dict(copy.deepcopy(Values({"a": [1]}))) == dict(copy.copy(Values({"a": [1]}))) == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (24.0, "24.0"),
        ("x" * 50, "'" + "x" * 39 + "…'"),
        ((1, 2), "tuple of 2"),
        ({"a": 1}, "dict of 1"),
        (SimpleNamespace(shape=(1, 128, 3), dtype="torch.bfloat16"), "SimpleNamespace(1×128×3, bfloat16)"),
        (SimpleNamespace(shape=(), dtype="torch.float32"), "SimpleNamespace(float32)"),
        (object(), "object"),
    ],
    ids=["none", "bool", "float", "long text", "tuple", "dict", "tensor", "scalar", "object"],
)
def test_value_is_described_without_its_numbers(value, text):
    assert repr(Values({"value": value})) == f"Values(value={text})"


def test_values_show_names_and_descriptions():
    assert repr(Values({"width": 128, "image": object()})) == "Values(width=128, image=object)"


@pytest.fixture
def stages():
    return Pipeline().add(A, name="first").add(A, name="second").add(A, name="stage 3").stages


def test_stages_are_found_by_name_number_and_attribute(stages):
    assert stages["second"] is stages[1] is stages.second is stages[-2]
    assert stages["stage 3"] is stages[2]


def test_slice_of_stages_is_stages(stages):
    assert repr(stages[1:]) == "Stages(second, stage 3)"
    assert stages[1:].second is stages.second


def test_stages_know_what_is_in_them(stages):
    assert "first" in stages
    assert stages.first in stages
    assert "third" not in stages
    assert [stage.registered_name for stage in stages] == ["first", "second", "stage 3"]
    assert stages.index(stages.second) == 1


def test_stages_complete_with_tab(stages):
    assert stages._ipython_key_completions_() == ["first", "second", "stage 3"]
    assert {"first", "second"} < set(dir(stages))
    assert "stage 3" not in dir(stages)


def test_stage_that_is_not_there_names_the_nearest(stages):
    with pytest.raises(KeyError, match="no stage is registered as 'secnd'; did you mean 'second'"):
        stages["secnd"]
    with pytest.raises(AttributeError, match="did you mean 'second'"):
        stages.secnd  # noqa: B018
    with pytest.raises(IndexError):
        stages[3]
