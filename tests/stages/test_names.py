"""What a stage is called: registered names, profile names, and when they settle."""

import pytest

from reslab.stages import Names, Pipeline, PipelineError, Stage, profile_names
from reslab.stages.support import nearest


class A(Stage):
    def run(self):
        return None


class B(Stage):
    def run(self):
        return None


def filed(pipeline):
    return [stage.profile_name for stage in pipeline.stages]


def test_registered_name_is_the_class_name_by_default():
    pipeline = Pipeline().add(A)
    assert pipeline.stages[0].registered_name == "A"
    assert pipeline.stages[0].stage_class == "A"


def test_profile_name_is_the_registered_name_by_default():
    assert filed(Pipeline().add(A, name="first").add(A, name="second")) == ["first", "second"]


def test_taken_name_raises_and_suggests_a_free_one():
    pipeline = Pipeline().add(A).add(A, name="A_2")
    with pytest.raises(PipelineError, match=r"already registered as 'A'.*name='A_3'"):
        pipeline.add(A)
    assert len(pipeline.stages) == 2


def test_suggested_name_can_be_taken():
    assert filed(Pipeline().add(A).add(A, name="A_2")) == ["A", "A_2"]


@pytest.mark.parametrize("name", ["", " A", "A ", "\n", 3])
def test_blank_names_are_refused(name):
    with pytest.raises(PipelineError, match="registered name"):
        A().set_registered_name(name)
    with pytest.raises(PipelineError, match="profile name"):
        A().set_profile_name(name)


def test_first_keeps_class_files_two_stages_under_one_name():
    pipeline = Pipeline(profile_names="first-keeps-class").add(A).add(A, name="B").add(B, name="b1")
    assert filed(pipeline) == ["A", "B", "B"]


def test_first_of_a_class_keeps_the_class_name_though_registered_under_its_own():
    pipeline = Pipeline(profile_names="first-keeps-class").add(A, name="warm up").add(A, name="again")
    assert filed(pipeline) == ["A", "again"]


def test_first_keeps_class_renames_a_metric_when_a_stage_is_inserted_earlier():
    pipeline = Pipeline(profile_names="first-keeps-class").add(A, name="refine")
    assert pipeline.stages.refine.profile_name == "A"
    pipeline.add(A, name="denoise", before="refine")
    assert pipeline.stages.refine.profile_name == "refine"


def test_reference_two_stage_pipeline_files_its_second_switch_under_its_own_name():
    stages = [Names("LTX2LoRASwitchStage", "Switch"), Names("ltx2_lora_switch_stage2", "Switch")]
    assert profile_names(stages, "first-keeps-class") == ["Switch", "ltx2_lora_switch_stage2"]


def test_rule_given_as_text_is_the_rule():
    pipeline = Pipeline().add(A, name="own")
    pipeline.profile_names = "first-keeps-class"
    assert filed(pipeline) == ["A"]


def test_unknown_rule_names_the_two():
    with pytest.raises(PipelineError, match=r"'registered', 'first-keeps-class'; got 'first'"):
        Pipeline(profile_names="first")
    with pytest.raises(PipelineError, match="got 'first'"):
        profile_names([], "first")


def test_registered_name_alone_never_sets_the_profile_name_of_a_stage_outside_a_pipeline():
    stage = A()
    stage.set_registered_name("own")
    assert (stage.registered_name, stage.profile_name) == ("own", "A")


def test_registered_name_alone_never_sets_the_profile_name_of_the_first_of_its_class():
    pipeline = Pipeline(profile_names="first-keeps-class").add(A)
    pipeline.stages.A.set_registered_name("own")
    assert pipeline.stages.own.profile_name == "A"


def test_registered_name_given_before_adding_is_kept():
    stage = A()
    stage.set_registered_name("own")
    assert Pipeline().add(stage).stages["own"] is stage


@pytest.mark.parametrize("rule", ["registered", "first-keeps-class"])
def test_explicit_profile_name_wins_under_both_rules(rule):
    stage = A()
    stage.set_profile_name("explicit")
    assert filed(Pipeline(profile_names=rule).add(stage, name="own").add(A)) == ["explicit", "A"]


@pytest.mark.parametrize(
    ("name", "what"), [("taken", "profile"), ("registered", "registered"), ("B", "class")], ids=str
)
def test_explicit_profile_name_may_not_be_a_name_of_another_stage(name, what):
    pipeline = Pipeline().add(A).add(B, name="registered")
    pipeline.stages.registered.set_profile_name("taken")
    with pytest.raises(PipelineError, match=f"is the {what} name of the stage 'registered'"):
        pipeline.stages.A.set_profile_name(name)
    assert filed(pipeline) == ["A", "taken"]


def test_explicit_profile_name_is_checked_when_the_stage_is_added():
    stage = A()
    stage.set_profile_name("B")
    with pytest.raises(PipelineError, match="'B' is the registered name of the stage 'B'"):
        Pipeline().add(B).add(stage)


def test_registered_name_may_not_be_anothers_explicit_profile_name():
    pipeline = Pipeline().add(A).add(B)
    pipeline.stages.A.set_profile_name("reserved")
    with pytest.raises(PipelineError, match=r"'reserved' is reserved.*'A'.*'reserved_2'"):
        pipeline.stages.B.set_registered_name("reserved")
    with pytest.raises(PipelineError, match="reserved"):
        pipeline.add(A, name="reserved")


def test_class_name_may_not_be_anothers_explicit_profile_name():
    pipeline = Pipeline().add(A, name="own")
    pipeline.stages.own.set_profile_name("B")
    with pytest.raises(PipelineError, match=r"'own' has the explicit profile name 'B'.*class"):
        pipeline.add(B, name="other")


def test_stage_may_be_filed_under_its_own_class_or_registered_name():
    pipeline = Pipeline().add(A, name="own")
    pipeline.stages.own.set_profile_name("A")
    assert filed(pipeline) == ["A"]
    pipeline.stages.own.set_profile_name("own")
    assert filed(pipeline) == ["own"]


def test_renaming_to_its_own_name_is_no_conflict():
    pipeline = Pipeline().add(A)
    pipeline.stages.A.set_registered_name("A")
    assert filed(pipeline) == ["A"]


def test_names_settle_when_a_run_starts(log):
    class Renames(Stage):
        def run(self):
            pipeline.stages.A.set_registered_name("renamed")
            pipeline.stages.renamed.set_profile_name("explicit")
            seen.append(pipeline.stages.renamed.profile_name)

    seen = []
    pipeline = Pipeline().add(Renames).add(A)
    with pipeline.observe(log):
        pipeline.run()
    assert seen == ["A"]
    assert log.lines == ["run pipeline", "  stage Renames 0", "  stage A 1"]


def test_renaming_during_a_run_takes_effect_in_the_next(log):
    class Renames(Stage):
        def run(self):
            pipeline.stages[1].set_registered_name("renamed")

    pipeline = Pipeline().add(Renames).add(A)
    pipeline.run()
    with pipeline.observe(log):
        pipeline.run()
    assert log.lines[2] == "  stage renamed 1"
    assert filed(pipeline) == ["Renames", "renamed"]


def test_component_is_filed_under_the_stage_then_its_name_then_its_class():
    vae, other = object(), 3.5
    pipeline = Pipeline({"vae": vae}).add(A, name="own")
    assert pipeline.filed_under(vae) == "vae"
    assert pipeline.filed_under(other) == "float"
    assert pipeline.filed_under(vae, pipeline.stages.own) == "own"


def test_component_is_filed_under_the_stage_that_runs():
    class Asks(Stage):
        def run(self, vae):
            seen.append(pipeline.filed_under(vae))

    seen = []
    pipeline = Pipeline({"vae": object()}).add(Asks, name="ask").add(A)
    pipeline.run()
    assert seen == ["ask"]
    assert pipeline.filed_under(pipeline.components["vae"], pipeline.stages.A) == "A"
    assert pipeline.current_stage is None


def test_nearest_finds_a_name_whatever_its_capitals_and_lists_any_iterable_sorted():
    assert nearest("rtx 490", iter(["T4", "RTX 4090"])) == "did you mean 'RTX 4090'?"
    assert nearest("zzz", iter(["T4", "RTX 4090"])) == "known: RTX 4090, T4"
    assert nearest("zzz", ()) == "known: none"
