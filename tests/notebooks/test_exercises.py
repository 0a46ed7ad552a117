"""All exercises of the course take right answers however they are written, and say why a wrong one is wrong.

Exact values are what the packages compute, to five digits and more; `parts` is what the notebooks' rounded numbers
come to.
"""

import inspect
import math
import re
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from reslab import ltx2, residency
from reslab.ltx2 import _trial
from reslab.ltx2 import exercises as of_ltx2
from reslab.ltx2._checkpoint import _blank
from reslab.ltx2._checkpoint._small_configs import small_config
from reslab.profiler import exercises as of_profiler
from reslab.profiler import teaching
from reslab.residency import exercises as of_residency

MODULES = (of_profiler, of_residency, of_ltx2)
HELPERS = {"activation_slope", "video_tokens"}  # of rehearsals, public beside the checks

# name: (exact value, unit, one unit of the last digit asked for, what the rounded parts come to, traps)
NUMBERS = {
    "decode_by_the_host": (116.0, "ms", 1, 116, [30, 156, 130]),
    "first_step_times_thirty": (1160.0, "ms", 1, 1160, [1800, 640, 40]),
    "fewest_repeats": (4, "runs", 0, 4, [8, 3, 5]),
    "link_for_free": (81.2729, "GB/s", 1, 37.1 / 0.457, [55.4, 139.8]),
    "blocks_for_free": (43, "blocks", 0, 43, [42, 5, 48]),
    "recipe_gib_encoding_once": (101.9662, "GiB", 1, 130.6 - 22.7 - 5.9, [66.6, 130.6, 107.9]),
    "rule_misses_tflop": (203.2712, "TFLOP", 1, 1137 - 933, [-203, 1137, 933]),
    "activation_gib_at": (4.49980, "GiB", 0.1, 3.39 + 0.1373 * (32.64 - 24.576), [3.4, 7.9]),
    "traced_blocks": (6, "pieces", 0, 6, [3, 10, 50]),
    "copies_made": (120, "copies", 0, 120, [12, 21, 110, 108]),
    "blocks_that_stay": (16, "blocks", 0, 16, [15, 8, 24]),
    "prefetch_of_leading": (4, "blocks", 0, 4, [5, 1, 6, 3]),
    "gib_with_kept": (1.09443, "GiB", 0.01, 1.09, [3.13]),
    "gib_more_each_stage": (0.29911, "GiB", 0.01, 0.71 - 0.42, [0.71]),
    "gib_of_prefetch": (0.11801, "GiB", 0.01, 0.12, [0.07]),
    "forward_passes": (123, "passes", 0, 30 * 4 + 3, [120, 33, 132, 122]),
    "refine_tokens": (14080, "tokens", 0, 16 * 22 * 40, [3520, 13200, 106480]),
    "snapshot_moves_more": (70.7389, "GiB", 0.1, 70.7, [35.4]),
    "free_for_resident": (86.7141, "GiB", 0.1, 86.7, [70.7]),
}
CHOICES = {
    "shared_row": ("Preview", ["Decode", "p1"]),
    "fullest_stage": ("LTX2TextConnectorStage", ["LTX2AVDenoisingStage", "LTX2RefinementStage"]),
}


@cache
def rehearsals():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blank, "config", lambda name, component: small_config(name, component, "mid"))
        mid = ltx2.two_stage(ltx2.blank("LTX-2.3 distilled", dtype=torch.float32))
    small = ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=121)
    large = ltx2.rehearsal("LTX-2.3", width=1536, height=1024, num_frames=121)
    return small, large, residency.rehearse(mid, **_trial._REQUEST, **_trial._MID)


@cache
def check(name):
    """Return the check as its notebook calls it: a function of the answer."""
    function = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    small, large, mid = rehearsals()
    h100 = residency.device("H100")
    given = {
        "link_for_free": [large, h100],
        "blocks_for_free": [small, residency.device("L40S")],
        "recipe_gib_encoding_once": [large],
        "rule_misses_tflop": [large],
        "activation_gib_at": [large, 32640],
        "traced_blocks": [large],
        "copies_made": {"blocks": 12, "slots": 11, "passes": 10},
        "blocks_that_stay": {"blocks": 24, "copy": 2.5},
        "prefetch_of_leading": {"blocks": 12, "resident": 6, "copy": 2},
        "gib_more_each_stage": [mid],
        "snapshot_moves_more": [large, h100],
        "fullest_stage": [large, h100],
        "free_for_resident": [large, h100],
    }.get(name, [])
    if name in ("gib_with_kept", "gib_of_prefetch"):
        more = {"kept": 9} if name == "gib_with_kept" else {"prefetch": 3}
        return lambda answer: function(answer, mid, **more)
    return lambda answer: function(answer, **given) if isinstance(given, dict) else function(answer, *given)


@pytest.fixture(autouse=True)
def fresh():
    """No wrong answers so far."""
    teaching._wrong.clear()


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw nothing: some hundred pictures take a minute."""
    monkeypatch.setattr(teaching, "_bars", lambda rows, hue, caption: None)


@pytest.fixture
def truth(monkeypatch):
    """Return the exact value that a check holds answers to."""
    seen = []

    def spy(answer, **how):
        seen.append(how["truth"])
        return teaching.check_number(answer, **how)

    for module in (*MODULES, of_residency_parts("_slot_exercises"), of_residency_parts("_trial_exercises")):
        monkeypatch.setattr(module, "check_number", spy)

    def exact(name):
        check(name)(...)
        return seen[-1]

    return exact


def of_residency_parts(name):
    return inspect.getmodule(getattr(of_residency, {"_slot_exercises": "copies_made"}.get(name, "gib_with_kept")))


def test_there_are_twenty_one_and_all_are_tried_here():
    public = {name for module in MODULES for name in module.__all__} - HELPERS
    assert public == {*NUMBERS, *CHOICES}
    assert len(public) == 21


@pytest.mark.parametrize("name", NUMBERS)
def test_the_exact_value_is_right_and_so_are_its_rounded_parts(name, truth):
    exact, _, to, parts, _ = NUMBERS[name]
    assert truth(name) == pytest.approx(exact, abs=max(to / 20, 1e-4))
    answers = [truth(name), float(truth(name)), parts, round(truth(name), max(0, -math.floor(math.log10(to or 1))))]
    assert [check(name)(answer).right for answer in answers] == [True] * 4


@pytest.mark.parametrize("name", NUMBERS)
def test_a_right_answer_is_right_however_it_is_held(name, truth):
    value, unit = truth(name), NUMBERS[name][1]
    held = [
        np.float64(value),
        np.array([value]),
        torch.tensor(value, dtype=torch.float64),
        pl.Series([value]),
        pl.DataFrame({"answer": [value]}),
        f"{value:,.4f}",
        f" {value:.4f} {unit}",
        f"{value:.4f}{unit}",
    ]
    assert [check(name)(answer).right for answer in held] == [True] * len(held)


def test_units_that_are_given_are_converted():
    assert check("recipe_gib_encoding_once")("109.5 GB").right
    assert check("link_for_free")("0.0812 TB/s").right
    assert check("decode_by_the_host")("0.116 s").right
    assert check("rule_misses_tflop")("0.2033 PFLOPs").right
    assert not check("recipe_gib_encoding_once")("102 GB").right


MISTAKES = [
    lambda x: None,
    lambda x: [x],
    lambda x: (x, x),
    lambda x: pl.Series([x, x]),
    lambda x: f"{x} bananas and {x}",
    lambda x: True,
    lambda x: math.nan,
    lambda x: f"{x} GB/h",
    lambda x: 2 * x,
    lambda x: x / 2,
    lambda x: 4 * x,
    lambda x: 48 * x,
    lambda x: 1.0737 * x,
    lambda x: x / 1000,
    lambda x: math.ceil(x) + 1,
    lambda x: -x,
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_typical_mistake_is_wrong_in_one_sentence_that_is_true(name, truth, no_pictures):
    exact = truth(name)
    for mistake in MISTAKES:
        teaching._wrong.clear()
        verdict = check(name)(mistake(exact))
        assert verdict.right is False
        assert_true(verdict.says, exact)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_likely_wrong_number_is_met_with_its_reason(name):
    for trap in NUMBERS[name][4]:
        says = check(name)(trap).says
        assert re.search(r" is not \S+: \w", says), (trap, says)


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_said_of_a_wrong_number_is_true_however_near_it_is(name, truth, no_pictures):
    exact, to = truth(name), NUMBERS[name][2]
    for step in (0.51, 1.49, 3):
        for sign in (-1, 1):
            teaching._wrong.clear()
            assert_true(check(name)(exact + sign * step * (to or 2)).says, exact)


def assert_true(says, exact):
    claim = re.search(r"is (larger|smaller) than (-?[\d,.]*\d)", says)
    if claim:
        value = float(claim[2].replace(",", ""))
        assert exact > value if claim[1] == "larger" else exact < value


@pytest.mark.parametrize("name", NUMBERS)
def test_the_third_wrong_answer_points_to_a_section_and_no_longer_says_the_direction(name, truth):
    far = [1e6 * (truth(name) + 1) + n for n in (0.5, 1.5, 2.5)]
    says = [check(name)(answer).says for answer in (far[0], far[0], far[1], far[2])]
    assert [bool(re.search(r"Read sections? \d", each)) for each in says] == [False, False, False, True]
    assert not re.search("larger|smaller", says[-1])
    assert check(name)(truth(name)).right
    assert not re.search(r"Read section", check(name)(far[2]).says)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_picture_of_a_wrong_number_is_not_green_and_does_not_show_the_right_one(name, truth):
    figure = check(name)(7 * truth(name) + 3).figure
    bars = (
        figure.spec["layer"][0]["data"]["values"]
        if "data" in figure.spec["layer"][0]
        else figure.spec["data"]["values"]
    )
    assert bars[0]["hue"] == teaching.PALETTE["vermilion"]
    assert {bar["hue"] for bar in bars[1:]} == {teaching.PALETTE["grey"]}
    to = NUMBERS[name][2]
    assert all(abs(bar["value"] - truth(name)) > to / 2 for bar in bars)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_right_as_a_column_too_and_a_wrong_one_has_its_reason(name):
    right, wrong = CHOICES[name]
    for answer in (right, f" {right} ", right.lower(), pl.Series([right]), pl.Series([right], dtype=pl.Categorical)):
        assert check(name)(answer).right
    for answer in wrong:
        assert re.match(rf"{answer} is not it: \w", check(name)(answer).says)
    for answer in (None, [right], 3, ("a", "b"), pl.Series([right, right]), "nothing of the kind"):
        assert check(name)(answer).right is False


@pytest.mark.parametrize("name", NUMBERS)
def test_neither_help_nor_signature_holds_the_answer(name, truth):
    function = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    text = f"{inspect.signature(function)}\n{inspect.getdoc(function)}\n{inspect.getdoc(inspect.getmodule(function))}"
    numbers = {
        float(each.replace(",", "")) for each in re.findall(r"\d[\d,]*(?:\.\d+)?(?!\d)", text.replace("LTX-2.3", ""))
    }
    asked = numbers - {float(match) for match in re.findall(r"notebooks? (?:\d\d, )*(?:\d\d and )?(\d\d)", text)}
    to = NUMBERS[name][2]
    assert not [number for number in asked if abs(number - truth(name)) <= to / 2]


@pytest.mark.parametrize("module", [*MODULES, teaching], ids=lambda module: module.__name__)
def test_a_module_of_exercises_shows_its_checks_and_nothing_else(module):
    assert dir(module) == sorted(module.__all__)
