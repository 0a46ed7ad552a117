"""Settings with a few named choices: each has a sentence, is given as a string, and a mistyped one is named."""

import pytest

from reslab import ltx2
from reslab.ltx2._choices import choose
from reslab.stages import PipelineError

CHOICES = (ltx2.DecodeAudio, ltx2.DecodeTiling, ltx2.DeviceMode, ltx2.SigmaSchedule, ltx2.StageCount)


@pytest.mark.parametrize("kind", CHOICES)
def test_every_choice_is_a_string_with_a_sentence(kind):
    for member in kind:
        assert choose(kind, "setting", str(member)) is member
        assert member.doc.endswith(".")


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (ltx2.DeviceMode, "residant", "did you mean 'resident'?"),
        (ltx2.DeviceMode, "RESIDENT", "did you mean 'resident'?"),
        (ltx2.StageCount, 2, "known: one, two"),
        (ltx2.DecodeTiling, None, "known: auto, off, on"),
    ],
)
def test_an_unknown_choice_is_named_with_the_nearest_or_all(kind, value, hint):
    with pytest.raises(PipelineError) as error:
        choose(kind, "setting", value)
    assert str(error.value) == f"there is no setting {value!r}; {hint}"


def test_a_member_is_taken_where_its_string_is():
    size = {"width": 768, "height": 512, "num_frames": 25}
    plain, member = (ltx2.rehearsal("LTX-2.3", stages=stages, **size) for stages in ("two", ltx2.StageCount.TWO))
    assert plain.meta == member.meta


def test_a_pipeline_records_the_number_of_its_stages():
    pipe = ltx2.one_stage(ltx2.load("tiny"))
    assert pipe.settings["stages"] is ltx2.StageCount.ONE
