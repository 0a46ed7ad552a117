"""What a stage is: parameters are what it reads, the result is what it writes."""

import pytest

from reslab.stages import REQUIRED, Choice, Pipeline, PipelineError, Signature, Stage, stage


class Halve(Stage):
    writes = ("half",)

    def run(self, width):
        return {"half": width // 2}


def test_subclass_needs_nothing_but_run():
    class Doubles(Stage):
        def run(self, width):
            return {"width": 2 * width}

    assert Pipeline(result="width").add(Doubles).run(width=3) == 6


def test_stage_without_run_says_so():
    class Idle(Stage):
        pass

    with pytest.raises(PipelineError, match=r"Idle.run takes 'args', which names nothing to read"):
        Pipeline().add(Idle)


def test_signature_tells_components_reads_with_defaults_and_writes():
    class Decode(Stage):
        components = ("vae",)
        writes = ("frames",)

        def run(self, vae, latents, tiled=True):
            return None

    reads = {"latents": REQUIRED, "tiled": True}
    assert Decode().signature() == Signature(components=("vae",), reads=reads, writes=("frames",))


def test_declared_component_that_run_does_not_take_is_an_error():
    class Decode(Stage):
        components = ("vae",)

        def run(self, latents):
            return None

    with pytest.raises(PipelineError, match=r"Decode declares the component 'vae', but its run does not take it"):
        Pipeline().add(Decode)


def test_declared_text_setting_that_run_does_not_take_is_an_error():
    draw = stage(lambda latents: None, text_settings="style")
    with pytest.raises(PipelineError, match="declares the text setting 'style', but its run does not take it"):
        Pipeline().add(draw, name="draw")


def test_one_name_needs_no_tuple():
    class Decode(Stage):
        components = "vae"
        writes = "frames"

        def run(self, vae):
            return [vae]

    assert Decode().signature().components == ("vae",)
    assert Pipeline({"vae": 1}, result="frames").add(Decode).run() == [1]


def test_parameter_with_a_default_may_be_absent():
    class Scale(Stage):
        def run(self, width, by=10):
            return {"width": by * width}

    pipeline = Pipeline(result="width").add(Scale)
    assert pipeline.run(width=2) == 20
    assert pipeline.run(width=2, by=3) == 6


def test_parameter_named_as_a_component_gets_the_component():
    class Decode(Stage):
        def run(self, vae, latents):
            return {"frames": vae + latents}

    assert Pipeline({"vae": "vae:"}, result="frames").add(Decode).run(latents="z") == "vae:z"


def test_parameter_with_a_default_gets_the_component_where_there_is_one():
    class Encode(Stage):
        def run(self, encoder=None):
            return {"encoder_was": encoder}

    assert Pipeline({"encoder": 1}, result="encoder_was").add(Encode).run() == 1
    assert Pipeline(result="encoder_was").add(Encode).run() is None


def test_result_of_a_single_write_may_be_the_value_itself():
    @stage(writes="half")
    def halve(width):
        return width // 2

    assert Pipeline(result="half").add(halve).run(width=8) == 4


def test_stage_from_a_function_has_its_name_docstring_and_module():
    @stage
    def halve(width):
        """Halve it."""
        return {"half": width // 2}

    assert (halve().stage_class, halve.__doc__, halve.__module__) == ("halve", "Halve it.", __name__)
    assert halve.run(8) == {"half": 4}


def test_stage_that_returns_nothing_writes_nothing():
    @stage
    def look(width):
        return None

    assert dict(Pipeline().add(look).run(width=8)) == {"width": 8}


@pytest.mark.parametrize(("result", "got"), [(3, "int"), (["half"], "list"), (("a", "b"), "tuple")])
def test_result_that_is_no_mapping_is_an_error(result, got):
    look = stage(lambda: result)()
    with pytest.raises(TypeError, match=f"returned {got}; wanted a mapping"):
        Pipeline().add(look, name="look").run()


def test_result_that_writes_does_not_name_is_an_error():
    wrong = stage(writes=("half",))(lambda: {"hafl": 3})
    with pytest.raises(TypeError, match="the stage 'halve' returned 'hafl', which its writes do not name"):
        Pipeline().add(wrong, name="halve").run()


def test_repr_is_one_line_without_an_address():
    assert repr(Halve()) == "<Halve 'Halve'>"


@pytest.fixture
def choice():
    present = stage(writes="kind")(lambda image: f"from {image}")()
    absent = stage(writes="kind")(lambda prompt: f"from {prompt}")()
    return Choice("image", present=present, absent=absent, stage_class="Encoding")


def test_choice_runs_the_stage_for_which_the_value_is_there(choice):
    pipeline = Pipeline(result="kind").add(choice)
    assert pipeline.run(image="a photo", prompt="a heron") == "from a photo"
    assert pipeline.run(prompt="a heron") == "from a heron"


def test_choice_takes_none_for_absent(choice):
    assert Pipeline(result="kind").add(choice).run(image=None, prompt="a heron") == "from a heron"


def test_choice_asks_only_for_what_the_chosen_stage_reads(choice):
    pipeline = Pipeline().add(choice)
    pipeline.check(image="a photo")
    with pytest.raises(PipelineError, match="the stage 'Encoding' reads 'prompt'"):
        pipeline.check()


def test_choice_follows_a_value_that_an_earlier_stage_writes(choice):
    photograph = stage(writes="image")(lambda: "a photo")
    assert Pipeline(result="kind").add(photograph, name="photograph").add(choice).run() == "from a photo"


def test_choice_may_be_nothing():
    pipeline = Pipeline().add(Choice("image", present=Halve()))
    assert dict(pipeline.run()) == {}
    assert pipeline.run(image=1, width=8).half == 4


@pytest.mark.parametrize(("image", "kind"), [("a photo", "from a photo"), (None, "from a heron")])
def test_choice_is_made_by_what_is_given_to_it(choice, image, kind):
    pipeline = Pipeline(result="kind").add(choice, given={"image": image})
    assert pipeline.run(prompt="a heron") == kind


def test_choice_made_by_what_is_given_asks_for_no_more(choice):
    Pipeline().add(choice, given={"image": "a photo"}).check()


def test_choice_is_made_by_the_renamed_value_alone(choice):
    show = stage(lambda image: None)
    pipeline = Pipeline(result="kind").add(show, name="show").add(choice, values={"image": "first_frame"})
    assert pipeline.run(image="other", prompt="a heron") == "from a heron"
    assert pipeline.run(image="other", first_frame="a photo") == "from a photo"


def test_stage_class_of_a_choice_is_its_own_or_that_of_its_stage(choice):
    assert choice.stage_class == "Encoding"
    assert Choice("image", present=Halve()).stage_class == "Halve"
    assert Choice("image").stage_class == "Choice"


def test_errors_of_a_chosen_stage_name_the_choice():
    wrong = Choice("image", present=stage(lambda: 3)(), stage_class="Encoding")
    with pytest.raises(TypeError, match="the stage 'encode' returned int"):
        Pipeline().add(wrong, name="encode").run(image=1)


def test_a_choice_has_the_text_settings_of_both_its_stages():
    near, far = stage(lambda how: None, text_settings="how"), stage(lambda where: None, text_settings="where")
    pipeline = Pipeline().add(Choice("image", present=near(), absent=far()), name="draw", values={"where": "place"})
    assert pipeline.text_settings == {"how", "place"}
