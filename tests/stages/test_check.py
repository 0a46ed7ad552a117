"""Checking a request: all that is wrong in one error, before anything runs."""

import pytest

from reslab.stages import Choice, Pipeline, PipelineError, Stage, stage


class Multiple(Stage):
    """Has a rule of a model."""

    writes = ("checked",)

    def run(self, width, vae=None):
        ran.append("Multiple")

    def check(self, values, components):
        if values.get("width", 0) % 64:
            raise PipelineError(
                f"width is a multiple of 64; got {values['width']}, nearest {values['width'] // 64 * 64}"
            )


@stage(writes="latents")
def denoise(transformer, prompt, steps=8):
    ran.append("denoise")


ran = []


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def test_all_that_is_wrong_is_said_in_one_error():
    class Encode(Stage):
        components, writes = ("encoder",), ()

        def run(self, encoder):
            return None

    pipeline = Pipeline({"vae": 1}, result="frames").add(Multiple).add(denoise).add(Encode)
    with pytest.raises(PipelineError) as caught:
        pipeline.run(width=100, promt="a heron", vae=3)
    assert str(caught.value).split("\n- ") == [
        "this cannot run:",
        "no stage reads 'promt'; did you mean 'prompt'?",
        "'vae' is a component of the pipeline, not a value: set it with pipeline.components['vae'] = …",
        "width is a multiple of 64; got 100, nearest 64",
        "the stage 'denoise' reads 'transformer': give it to run, or add a stage that writes it",
        "the stage 'denoise' reads 'prompt': give it to run, or add a stage that writes it",
        "the stage 'Encode' uses the component 'encoder'; known: vae",
        "no stage writes the result 'frames'; known: checked, latents, promt, vae, width",
    ]
    assert ran == []


def test_single_problem_is_said_on_one_line():
    with pytest.raises(PipelineError, match=r"^no stage reads 'hight'; did you mean 'height'\?$"):
        Pipeline().add(stage(lambda height: None), name="a").run(height=1, hight=2)


def test_check_alone_runs_nothing():
    pipeline = Pipeline({"transformer": 1}).add(denoise)
    pipeline.check(prompt="a heron")
    assert ran == []
    pipeline.run(prompt="a heron")
    assert ran == ["denoise"]


def test_value_written_by_an_earlier_stage_need_not_be_given():
    Pipeline({"transformer": 1}).add(stage(writes="prompt")(lambda: "p"), name="write").add(denoise).check()


def test_value_written_by_a_later_stage_must_be_given():
    pipeline = Pipeline({"transformer": 1}).add(denoise).add(stage(writes="prompt")(lambda: "p"), name="write")
    with pytest.raises(PipelineError, match="the stage 'denoise' reads 'prompt'"):
        pipeline.check()


def test_renamed_value_is_asked_for_under_both_names():
    pipeline = Pipeline({"transformer": 1}).add(denoise, name="refine", values={"prompt": "refine_prompt"})
    with pytest.raises(PipelineError, match=r"the stage 'refine' reads 'refine_prompt' \(as 'prompt'\)"):
        pipeline.check()


def test_required_value_given_as_none_is_missing():
    with pytest.raises(PipelineError, match="reads 'prompt'"):
        Pipeline({"transformer": 1}).add(denoise).check(prompt=None)


def test_unknown_keyword_is_found_though_it_is_none():
    pipeline = Pipeline({"transformer": 1}).add(denoise)
    pipeline.run(prompt="a heron")
    with pytest.raises(PipelineError, match="no stage reads 'promt'"):
        pipeline.run(prompt="a heron", promt=None)


def test_unknown_keyword_is_found_again_in_the_second_run():
    pipeline = Pipeline({"transformer": 1}).add(denoise)
    for _ in range(2):
        with pytest.raises(PipelineError, match="no stage reads 'stops'; did you mean 'steps'"):
            pipeline.run(prompt="a heron", stops=3)


def test_value_that_a_stage_overwrites_before_any_reads_it_is_refused():
    pipeline = Pipeline({"transformer": 1}).add(stage(writes="prompt")(lambda text: text), name="write").add(denoise)
    with pytest.raises(PipelineError) as caught:
        pipeline.check(text="a heron", prompt="a crane")
    assert str(caught.value) == (
        "'prompt' would be ignored: the stage 'write' writes it before any stage reads it; leave it out"
    )
    pipeline.check(text="a heron", prompt=None)


def test_value_that_is_read_before_it_is_overwritten_is_taken():
    again = stage(writes="prompt")(lambda prompt: prompt + "!")
    pipeline = Pipeline({"transformer": 1}).add(again, name="louder").add(denoise)
    pipeline.run(prompt="a heron")


def test_value_that_is_written_in_some_runs_alone_may_be_given():
    sometimes = Choice("text", present=stage(writes="prompt")(lambda text: text)())
    Pipeline({"transformer": 1}).add(sometimes).add(denoise).check(prompt="a heron")


def test_value_that_is_fixed_for_the_only_stage_that_reads_it_is_unknown():
    pipeline = Pipeline({"transformer": 1}).add(denoise, given={"steps": 4})
    with pytest.raises(PipelineError, match="no stage reads 'steps'"):
        pipeline.check(prompt="a heron", steps=8)


def test_name_of_a_renamed_component_is_unknown():
    pipeline = Pipeline({"refiner": 1}).add(denoise, components={"transformer": "refiner"})
    with pytest.raises(PipelineError, match="no stage reads 'transformer'"):
        pipeline.check(prompt="a heron", transformer=2)


def test_missing_component_is_found_under_its_new_name():
    class Decode(Stage):
        components = ("vae",)

        def run(self, vae):
            return None

    pipeline = Pipeline({"tiny_vae": 1}).add(Decode, components={"vae": "tiny_va"})
    with pytest.raises(
        PipelineError, match=r"the stage 'Decode' uses the component 'tiny_va'; did you mean 'tiny_vae'"
    ):
        pipeline.check()


def test_component_that_is_missing_is_found_again_when_it_is_taken_away():
    pipeline = Pipeline({"transformer": 1}).add(denoise)
    pipeline.check(prompt="a heron")
    del pipeline.components["transformer"]
    with pytest.raises(PipelineError, match="reads 'transformer'"):
        pipeline.check(prompt="a heron")


def test_result_that_no_stage_writes_is_found_before_the_run():
    pipeline = Pipeline({"transformer": 1}, result="latent").add(denoise)
    with pytest.raises(PipelineError, match="no stage writes the result 'latent'; did you mean 'latents'"):
        pipeline.run(prompt="a heron")
    assert ran == []


def test_stage_with_open_writes_leaves_what_follows_to_the_run():
    pipeline = Pipeline(result="late").add(stage(lambda: {"late": 3}), name="opened")
    pipeline.add(stage(lambda late, never: None), name="reads")
    pipeline.check()
    with pytest.raises(PipelineError, match="the stage 'reads' reads 'never', which nothing has written"):
        pipeline.run()


def test_result_that_open_writes_did_not_bring_names_what_is_there():
    with pytest.raises(KeyError, match="no value named 'lat'; did you mean 'late'"):
        Pipeline(result="lat").add(stage(lambda: {"late": 3}), name="opened").run()


def test_rule_of_a_stage_is_asked_in_every_run():
    pipeline = Pipeline().add(Multiple)
    pipeline.run(width=128)
    with pytest.raises(PipelineError, match="got 100, nearest 64"):
        pipeline.run(width=100)
    assert ran == ["Multiple"]


def test_rule_sees_values_and_components_under_the_stages_names():
    class Rule(Stage):
        def run(self, width, height=1, vae=None):
            return None

        def check(self, values, components):
            seen.update(values, vae=components["vae"])

    seen = {}
    pipeline = Pipeline({"vae": 1, "tiny": 2}).add(
        Rule, values={"width": "full"}, given={"height": 7}, components={"vae": "tiny"}
    )
    pipeline.check(full=64)
    assert seen == {"width": 64, "height": 7, "vae": 2}


def test_rules_of_several_stages_are_said_together():
    pipeline = Pipeline().add(Multiple, name="one").add(Multiple, name="two", values={"width": "other"})
    for _ in range(2):
        with pytest.raises(PipelineError, match=r"got 100(.|\n)*got 65"):
            pipeline.run(width=100, other=65)
        pipeline.check(width=64, other=128)


def test_error_is_a_value_error():
    with pytest.raises(ValueError, match="known: none"):
        Pipeline().check(width=3)


def test_an_input_that_is_set_elsewhere_is_refused_with_the_place():
    pipeline = Pipeline({"transformer": object()}).add(denoise)
    pipeline.set_elsewhere = {
        "guidance": "'guidance': it is set when the pipeline is made",
        "steps": "'steps' are fixed",
    }
    with pytest.raises(PipelineError) as error:
        pipeline.check(prompt="a heron", guidance=3.0, steps=4, step=4)
    assert str(error.value) == (
        "this cannot run:\n- 'guidance': it is set when the pipeline is made\n- 'steps' are fixed\n"
        "- no stage reads 'step'; known: prompt"
    )
    pipeline.run(prompt="a heron", guidance=None)
    assert ran == ["denoise"]
