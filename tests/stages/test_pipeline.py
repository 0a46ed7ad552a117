"""Composition: adding, renaming, giving, inserting, running."""

import gc
import weakref

import pytest

from reslab.stages import Pipeline, PipelineError, Stage, stage


class Add(Stage):
    writes = ("sum",)

    def run(self, a, b=1):
        return {"sum": a + b}


@stage(writes="out")
def decode(vae, latents):
    return f"{vae}({latents})"


def test_stages_run_in_the_order_of_adding():
    order = []
    pipeline = Pipeline()
    for name in "bac":
        pipeline.add(stage(lambda name=name: order.append(name)), name=name)
    pipeline.run()
    assert order == ["b", "a", "c"]


def test_before_inserts_a_stage():
    pipeline = Pipeline().add(Add, name="last").add(Add, name="first", before="last")
    assert [each.registered_name for each in pipeline.stages] == ["first", "last"]


def test_before_a_stage_that_is_not_there_says_what_is():
    with pytest.raises(PipelineError, match="no stage is registered as 'lats'; did you mean 'last'"):
        Pipeline().add(Add, name="last").add(Add, before="lats")


def test_components_rename_what_the_stage_asks_for():
    pipeline = Pipeline({"vae": "V", "tiny_vae": "T"}, result="out")
    pipeline.add(decode, name="preview", components={"vae": "tiny_vae"}, values={"out": "small"}).add(decode)
    values = Pipeline({"vae": "V", "tiny_vae": "T"}).add(decode, components={"vae": "tiny_vae"}).run(latents="z")
    assert pipeline.run(latents="z") == "V(z)"
    assert values.out == "T(z)"


def test_values_rename_what_is_read_and_written():
    pipeline = Pipeline().add(Add, values={"a": "x", "sum": "y"})
    assert dict(pipeline.run(x=2)) == {"x": 2, "y": 3}


def test_two_stages_may_swap_names():
    pipeline = Pipeline().add(stage(lambda a, b: {"a": a, "b": b}), name="swap", values={"a": "b", "b": "a"})
    assert dict(pipeline.run(a=1, b=2)) == {"a": 1, "b": 2}
    swapped = stage(lambda a: {"b": a})
    assert dict(Pipeline().add(swapped, name="swap", values={"a": "b", "b": "a"}).run(b=2)) == {"b": 2, "a": 2}


def test_given_fixes_a_value_for_one_stage_alone():
    pipeline = Pipeline().add(Add, name="one", given={"a": 10}).add(Add, name="two", values={"sum": "other"})
    values = pipeline.run(a=1)
    assert (values.sum, values.other, values.a) == (11, 2, 1)


def test_given_may_stand_for_a_component():
    pipeline = Pipeline({"vae": "V"}, result="out").add(decode, given={"vae": "mine"})
    assert pipeline.run(latents="z") == "mine(z)"


def test_renamings_are_kept_as_they_were_when_the_stage_was_added():
    names = {"a": "x"}
    pipeline = Pipeline().add(Add, values=names)
    names["a"] = "changed"
    assert pipeline.run(x=2).sum == 3


@pytest.mark.parametrize("what", ["values", "given", "components"])
def test_renaming_something_that_the_stage_does_not_have_suggests_the_nearest(what):
    pipeline = Pipeline({"vae": 1})
    with pytest.raises(PipelineError, match=rf"{what} of the stage 'show' names 'latent', .* did you mean 'latents'"):
        pipeline.add(decode, name="show", **{what: {"latent": "vae"}})
    assert len(pipeline.stages) == 0


def test_stage_whose_writes_are_open_may_rename_what_it_will_write():
    opened = stage(lambda: {"late": 3})
    assert Pipeline().add(opened, name="opened", values={"late": "early"}).run().early == 3


def test_stage_that_outlives_its_pipeline_keeps_its_name_and_no_component_alive():
    class Weights:
        """What a weak reference can be made to."""

    pipeline = Pipeline({"vae": Weights()}).add(Add, name="kept")
    kept, weights = pipeline.stages.kept, weakref.ref(pipeline.components["vae"])
    del pipeline
    gc.collect()
    assert (kept.profile_name, weights()) == ("kept", None)


def test_stage_belongs_to_one_pipeline():
    one = Add()
    pipeline = Pipeline().add(one)
    for other in (pipeline, Pipeline()):
        with pytest.raises(PipelineError, match=r"<Add 'Add'> is in a pipeline already; add another instance"):
            other.add(one, name="again")


def test_refused_stage_can_be_added_elsewhere():
    one = Add()
    with pytest.raises(PipelineError):
        Pipeline().add(Add).add(one)
    assert Pipeline(result="sum").add(one).run(a=1) == 2


def test_what_is_no_stage_is_refused():
    with pytest.raises(PipelineError, match=r"wanted a stage, got function; .* functions in @stage"):
        Pipeline().add(lambda: None)


def test_stages_are_not_added_during_a_run():
    pipeline = Pipeline(name="running")
    pipeline.add(stage(lambda: pipeline.add(Add)), name="adds")
    with pytest.raises(PipelineError, match="'running' is running; add stages before or after"):
        pipeline.run()
    assert len(pipeline.add(Add).stages) == 2


def test_run_returns_all_values_without_a_result():
    assert dict(Pipeline().add(Add).run(a=1)) == {"a": 1, "sum": 2}


def test_run_returns_the_value_named_as_result():
    assert Pipeline(result="sum").add(Add).run(a=1) == 2


def test_run_of_no_stages_returns_its_inputs_unread():
    assert dict(Pipeline().run()) == {}


def test_runs_do_not_see_each_others_values():
    pipeline = Pipeline().add(stage(lambda a=None: {"seen": a, "a": 5}), name="look")
    pipeline.run()
    assert pipeline.run().seen is None


def test_replaced_component_is_used_in_the_next_run():
    pipeline = Pipeline({"vae": "V"}, result="out").add(decode)
    pipeline.run(latents="z")
    pipeline.components["vae"] = "W"
    assert pipeline.run(latents="z") == "W(z)"


def test_component_that_was_taken_away_is_not_kept_alive():
    pipeline = Pipeline({"vae": type("Vae", (), {})()}).add(stage(lambda vae: None), name="use")
    pipeline.run()
    gone = weakref.ref(pipeline.components.pop("vae"))
    assert gone() is None


def test_stage_added_between_runs_is_run():
    pipeline = Pipeline().add(Add)
    pipeline.run(a=1)
    assert pipeline.add(Add, name="more", values={"a": "sum", "sum": "total"}).run(a=1).total == 3


def test_run_inside_a_run_is_refused():
    pipeline = Pipeline(name="outer").add(stage(lambda: pipeline.run()), name="again")
    with pytest.raises(PipelineError, match="'outer' is running already"):
        pipeline.run()


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt()])
def test_error_of_a_stage_is_its_own_with_the_stage_as_a_note(error):
    def fails():
        raise error

    pipeline = Pipeline(name="video").add(Add).add(stage(fails), name="refine")
    with pytest.raises(type(error)) as caught:
        pipeline.run(a=1)
    assert caught.value is error
    assert caught.value.__notes__ == ["in the stage 'refine' (2 of 2) of 'video'"]
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_pipeline_runs_again_after_an_error():
    pipeline = Pipeline(result="sum").add(Add)
    with pytest.raises(TypeError):
        pipeline.run(a="one")
    assert pipeline.current_stage is None
    assert pipeline.run(a=1) == 2


def test_request_is_told_while_running_only():
    pipeline = Pipeline()
    pipeline.add(stage(lambda a: seen.append(dict(pipeline.request))), name="look")
    seen = []
    pipeline.run(a=1)
    assert (seen, pipeline.request) == ([{"a": 1}], {})


def test_repr_is_one_line_without_an_address():
    assert repr(Pipeline({"vae": 1}, name="video").add(Add)) == "<Pipeline 'video': 1 stages, 1 components>"
