"""Names over thousands of random pipelines: few classes and few names, so that they meet often."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab.stages import Names, Pipeline, PipelineError, ProfileNames, Stage

CLASSES = {name: type(name, (Stage,), {"run": lambda self: None}) for name in "ABC"}
#: Registered names that are sometimes a class name, and explicit ones that are sometimes either.
CLASS, NAME = st.sampled_from("ABC"), st.sampled_from(["A", "B", "C", "b1", "b2", "x"])
EXPLICIT = st.none() | st.none() | st.sampled_from(["A", "B", "b1", "x", "y"])
STAGES = st.lists(st.tuples(NAME, CLASS), unique_by=lambda names: names[0], max_size=6)
NAMED = st.lists(st.builds(Names, NAME, CLASS, EXPLICIT), max_size=5)


def composed(stages, rule="registered"):
    """A pipeline of stages with these names; raises where it cannot be."""
    pipeline = Pipeline(profile_names=rule)
    for names in stages:
        registered, stage_class, explicit = (*names, None)[:3]
        stage = CLASSES[stage_class]()
        if explicit is not None:
            stage.set_profile_name(explicit)
        pipeline.add(stage, name=registered)
    return pipeline


def can_be(stages):
    try:
        return composed(stages)
    except PipelineError:
        return None


def filed(pipeline):
    return {stage.registered_name: stage.profile_name for stage in pipeline.stages}


@settings(max_examples=600)
@given(STAGES)
def test_registered_rule_never_files_two_stages_together(stages):
    names = [stage.profile_name for stage in composed(stages).stages]
    assert len(set(names)) == len(stages)


@settings(max_examples=500)
@given(STAGES, st.randoms(use_true_random=False))
def test_registered_rule_does_not_depend_on_the_order_of_adding(stages, random):
    shuffled = random.sample(stages, len(stages))
    assert filed(composed(shuffled)) == filed(composed(stages))


@settings(max_examples=500)
@given(STAGES.filter(len), st.data())
def test_adding_a_stage_anywhere_never_renames_another(stages, data):
    *others, new = data.draw(st.permutations(stages))
    pipeline = composed(others)
    before = filed(pipeline)
    place = data.draw(st.sampled_from([None, *before]))
    pipeline.add(CLASSES[new[1]](), name=new[0], before=place)
    assert {name: filed(pipeline)[name] for name in before} == before


@settings(max_examples=500)
@given(NAMED)
def test_explicit_names_keep_the_registered_rule_injective_or_raise(stages):
    pipeline = can_be(stages)
    assert pipeline is None or len(set(filed(pipeline).values())) == len(stages)


@settings(max_examples=400)
@given(NAMED, st.randoms(use_true_random=False))
def test_whether_stages_can_be_composed_does_not_depend_on_their_order(stages, random):
    one, other = can_be(stages), can_be(random.sample(stages, len(stages)))
    assert (one is None) == (other is None)
    assert one is None or filed(one) == filed(other)


@settings(max_examples=400)
@given(NAMED)
def test_explicit_name_is_shared_with_no_stage_under_first_keeps_class(stages):
    if can_be(stages) is None:
        return
    names = [stage.profile_name for stage in composed(stages, "first-keeps-class").stages]
    assert all(names.count(stage.explicit) == 1 for stage in stages if stage.explicit)


@settings(max_examples=500)
@given(STAGES)
def test_first_keeps_class_gives_exactly_the_references_names(stages):
    classes = [stage_class for _name, stage_class in stages]
    # The reference: the class name goes to whichever stage of a class comes first.
    wanted = [cls if classes.index(cls) == i else name for i, (name, cls) in enumerate(stages)]
    assert [stage.profile_name for stage in composed(stages, "first-keeps-class").stages] == wanted


@settings(max_examples=300)
@given(STAGES, st.lists(st.tuples(st.sampled_from(["register", "file"]), st.integers(0, 5), NAME), max_size=5))
def test_renaming_keeps_names_injective_or_raises(stages, renamings):
    pipeline = composed(stages)
    for what, place, name in renamings[: len(stages)]:
        stage = pipeline.stages[place % len(stages)]
        with suppress(PipelineError):
            (stage.set_registered_name if what == "register" else stage.set_profile_name)(name)
        for names in (filed(pipeline), filed(pipeline).values()):
            assert len(set(names)) == len(stages)


@pytest.mark.parametrize("rule", list(ProfileNames))
def test_rule_says_what_it_does(rule):
    assert rule.doc.endswith(".")
