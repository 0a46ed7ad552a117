"""What a rehearsal keeps of its request: sizes and settings, and nothing that a user wrote."""

import json

from reslab.residency import rehearse
from reslab.stages import Pipeline, stage


def test_a_rehearsal_holds_the_text_that_a_stage_declares_as_a_setting():
    draw = stage(lambda path_style, text: None, text_settings="path_style")
    rehearsal = rehearse(Pipeline().add(draw, name="draw"), path_style="soft / round", text="my secret")
    assert rehearsal.meta["request"] == {"path_style": "soft / round", "text": "str"}


def test_a_rehearsal_holds_no_text_of_a_user_under_any_name(tmp_path):
    @stage
    def draw(width, text, out, sampler): ...

    rehearsal = rehearse(Pipeline().add(draw), width=64, text="my secret", out="secret.mp4", sampler="euler")
    assert "secret" not in json.dumps(rehearsal.meta)
    assert (rehearsal.meta["request"]["width"], rehearsal.meta["request"]["sampler"]) == (64, "euler")
