"""From a card's name to an answer that can be acted on: its plan, its code, and what would help where nothing fits."""

import copy
import subprocess
import sys

import pytest

from reslab import ltx2, residency
from reslab.residency import DeviceError, PlanError, RehearsalError, Survey

LAPTOP = {"like": "RTX 4060 Ti 16GB", "memory": "8 GiB", "host_memory": "32 GiB"}


@pytest.fixture(scope="module")
def distilled():
    return ltx2.rehearsal("LTX-2.3 distilled", width=768, height=512, num_frames=121)


@pytest.fixture(scope="module")
def guided():
    return ltx2.rehearsal("LTX-2.3", width=1280, height=832, num_frames=121)


def test_one_run_and_one_card_by_name_are_one_answer_that_holds_its_plan(guided):
    answer = residency.survey(guided, "RTX 4090")
    assert (len(answer), answer.fits, answer.hint) == (1, True, "")
    assert answer.plan == answer[0].plan == answer.bounds.plan
    assert answer.plan.name == "streaming, others from disk"
    assert repr(answer.plan.placement("transformer")) == "layerwise(resident=16)"
    assert answer.frame.row(0, named=True)["plan"] == answer.plan.name
    assert answer.why == answer.bounds.why
    assert repr(answer).startswith("Answer(1280×832×121 on RTX 4090: fits, 'streaming, others from disk', ")
    assert "<pre>" in answer._repr_html_()


def test_what_is_given_one_by_one_or_in_lists_or_by_name_is_the_same(distilled):
    card = residency.device("RTX 4090")
    ways = [(distilled, card), ([distilled], [card]), (distilled, ["RTX 4090"]), ((distilled,), "rtx 4090")]
    assert len({residency.survey(*way).frame.write_json() for way in ways}) == 1
    table = residency.survey({"a": distilled, "b": distilled}, ["RTX 4090", residency.device("H200")])
    assert [(answer.device.name, answer.label) for answer in table] == [
        ("RTX 4090", "a"),
        ("RTX 4090", "b"),
        ("H200", "a"),
        ("H200", "b"),
    ]
    assert list(table.frame.columns) == list(residency.SURVEY)
    assert isinstance(table[1:], Survey)
    assert len(table[1:]) == 3
    assert residency.charts.survey(table).caption == residency.charts.survey(table.frame).caption


def test_two_runs_of_one_size_both_have_a_row(distilled):
    base = ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=121)
    labels = [answer.label for answer in residency.survey([base, distilled, base], "H200")]
    assert labels == [
        "LTX-2.3, two stages, 768×512×121 (1)",
        "LTX-2.3 distilled, two stages, 768×512×121",
        "LTX-2.3, two stages, 768×512×121 (2)",
    ]
    assert len(set(residency.break_even([base, distilled], "H100")["size"])) == 2


def test_of_many_answers_none_is_the_one_and_columns_are_in_the_frame(distilled):
    table = residency.survey(distilled, ["RTX 4090", "H200"])
    with pytest.raises(ValueError, match=r"this survey has 2 answers, each with its own; take one, as in survey\[0\]"):
        _ = table.plan
    with pytest.raises(TypeError, match=r"its columns are in its frame: survey.frame\['fits'\]"):
        table["fits"]


@pytest.mark.parametrize("name", ["H200", "A100", "RTX 5090", "RTX 4090", "RTX 3060 12GB"])
def test_each_plan_that_a_survey_names_is_a_preset(guided, name):
    answer = residency.survey(guided, name)
    assert residency.preset(answer.plan.name, guided, device=name) == answer.plan
    assert residency.bounds(guided, answer.plan.name, name).peak_bytes == answer.bounds.peak_bytes


def test_a_preset_without_a_card_keeps_no_block(guided):
    plan = residency.preset("streaming, others from disk", guided)
    assert repr(plan.placement("transformer")) == "layerwise()"
    assert repr(plan.placement("text_encoder")) == "disk()"
    work = residency.workload(guided)
    assert residency.preset("streaming from disk", work).placement("transformer").kind == "disk"
    with pytest.raises(PlanError, match="device= needs a rehearsal"):
        residency.preset("streaming", work, device="RTX 4090")
    with pytest.raises(PlanError, match=r"no component 'transfromer' with blocks .* did you mean 'transformer'"):
        residency.survey(guided, "RTX 4090", component="transfromer")


def test_what_the_user_set_stays(guided):
    plan = residency.preset("streaming", guided, settings={"transformer.resident": 5}, device="RTX 4090")
    assert plan.placement("transformer").resident == 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda run, plan, card: residency.survey("LTX-2.3", card), RehearsalError, "takes one rehearsal or several"),
        (lambda run, plan, card: residency.survey([run, 7], card), RehearsalError, "got 7 among them"),
        (lambda run, plan, card: residency.survey(run, 24), DeviceError, "takes one device or several, .*got 24"),
        (lambda run, plan, card: residency.survey(run, [card, 24]), DeviceError, "got 24 among them"),
        (lambda run, plan, card: residency.survey(run, "RTX 490"), DeviceError, "no device 'RTX 490'; did you mean"),
        (lambda run, plan, card: residency.bounds(run, plan, [card, card]), DeviceError, "take one device, got 2"),
        (lambda run, plan, card: residency.bounds(run, plan, [card]), DeviceError, "bounds take device.* got a list"),
        (lambda run, plan, card: residency.bounds(run, plan, None), DeviceError, "got None"),
        (lambda run, plan, card: residency.bounds([run, run], plan, card), RehearsalError, "one rehearsal, got 2"),
        (lambda run, plan, card: residency.bounds(card, plan, run), RehearsalError, "got a DeviceSpec"),
        (lambda run, plan, card: residency.bounds(run, "streeming", card), PlanError, "did you mean 'streaming'"),
        (lambda run, plan, card: residency.bounds(run, {"vae": "swap"}, card), PlanError, "a Plan, or .*got a dict"),
        (
            lambda run, plan, card: residency.bounds(run, plan, card, allocator_slack_bytes="1 GiB"),
            ValueError,
            "2\\*\\*30",
        ),
        (lambda run, plan, card: residency.preset("swap", card), RehearsalError, "got a DeviceSpec"),
        (lambda run, plan, card: residency.break_even(run, 3), DeviceError, "got 3"),
        (lambda run, plan, card: residency.break_even(3, card), RehearsalError, "got 3"),
        (lambda run, plan, card: residency.link_ratio([card, card], run), DeviceError, "take one device, got 2"),
    ],
)
def test_what_is_neither_is_named_in_one_sentence(distilled, call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(distilled, residency.Plan.of(), residency.device("RTX 4090"))
    assert "\n" not in str(caught.value)


def test_a_card_of_8_gib_has_a_plan_that_decodes_in_tiles(distilled):
    answer = residency.survey([distilled], [residency.device("8 GB", **LAPTOP)])
    assert answer.fits
    assert answer.plan.name == "streaming from disk, decoding in tiles"
    assert answer.plan.numerics.vae_tiling == "on"
    assert "decodes in tiles" in answer.why
    assert residency.preset(answer.plan.name, distilled, device=residency.device("8 GB", **LAPTOP)) == answer.plan


def test_where_nothing_fits_what_the_hint_says_suffices(distilled):
    small = residency.device("6 GB", like="RTX 4060 Ti 16GB", free="6 GiB", host_memory="4 GiB")
    answer = residency.survey(distilled, small)
    assert not answer.fits
    lacking = answer.bounds.memory
    assert f"{lacking.missing_device_bytes / 2**30:.1f}" in answer.hint
    free, host = (answer.hint.split(" with ")[1].split()[place] for place in (0, 10))
    enough = residency.device("6 GB", like="RTX 4060 Ti 16GB", free=f"{free} GiB", host_memory=f"{host} GiB")
    assert residency.survey(distilled, enough).fits
    with pytest.raises(PlanError, match="no plan fits, so there is no code to run"):
        answer.code()


def test_the_code_has_the_plan_and_the_four_lines_that_carry_it_out(guided):
    answer = residency.survey(guided, "RTX 4090")
    code = answer.code()
    compile(code, "code", "exec")
    names = {"residency": residency}
    text = code[code.index("residency.Plan.of(") : code.index("checkpoint =")]
    assert eval(text, names).fingerprint == answer.plan.fingerprint
    assert code.splitlines()[-5:] == [
        "checkpoint = ltx2.load('diffusers/LTX-2.3-Diffusers', plan=plan)",
        "pipe = ltx2.two_stage(checkpoint)",
        "known = residency.workload(ltx2.rehearsal('LTX-2.3', width=1280, height=832, num_frames=121), plan)",
        "with residency.apply(pipe, plan, files=checkpoint.files, known=known):",
        "    pipe.run(prompt='a heron over a weir', width=1280, height=832, num_frames=121).save(\"video.mp4\")",
    ]
    assert "enable" in answer.as_code("diffusers").code or "offload" in answer.as_code("diffusers").code
    assert "--offload" in answer.as_code("ltx-pipelines").code


def test_code_and_workload_know_that_the_vae_decodes_in_tiles(distilled):
    answer = residency.survey(distilled, residency.device("8 GB", **LAPTOP))
    assert "'numerics.vae_tiling': 'on'" in answer.code()
    assert answer.workload == residency.workload(distilled, answer.plan)


def test_answers_can_be_copied_and_compared(distilled):
    answer = residency.survey(distilled, "RTX 4090")
    assert answer == residency.survey(distilled, "rtx 4090")
    assert answer != residency.survey(distilled, "H200")
    assert copy.copy(answer) == answer
    assert len({answer[0], residency.survey(distilled, "rtx 4090")[0]}) == 1


def test_answers_need_no_torch():
    program = """
import sys; sys.modules["torch"] = None
from reslab import ltx2, residency
answer = residency.survey(ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=121), "RTX 4090")
answer.code(), answer.as_code("diffusers"), answer._repr_html_()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
