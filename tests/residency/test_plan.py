"""Plans: what is decided stays decided, whoever asks; and it reads, saves and compares as what it does."""

import json
import random
from collections import Counter
from itertools import product

import pytest

from reslab.residency import Plan, PlanError, layerwise, swap, user_settings

COMPONENTS = ("transformer", "text_encoder", "vae")
STAGES = (None, "denoise", "decode")
VALUES = {
    "placement": ("resident", "swap", "layerwise", "disk"),
    "resident": (0, 1, 7),
    "layout": ("strided", "leading"),
    "prefetch": (0, 1, 2),
    "until": ("last stage", "each stage", "run"),
}
STREAMING = {"resident", "layout", "prefetch"}


def name_of(component, stage, field):
    scope = component if stage is None else f"{component}@{stage}"
    return scope if field == "placement" else f"{scope}.{field}"


def random_settings(rng):
    """Some settings, each given through one to three doors with one or two values."""
    drawn = []
    for component, stage, field in rng.sample([*product(COMPONENTS, STAGES, VALUES)], rng.randint(0, 4)):
        value = rng.choice(VALUES[field])
        doors = rng.sample(["keyword", "mapping", "json"], rng.randint(1, 2))
        for door in doors:
            value = rng.choice(VALUES[field]) if rng.random() < 0.1 else value
            drawn.append((name_of(component, stage, field), value, door))
    return drawn


def through_the_doors(drawn):
    doors = {door: {name: value for name, value, through in drawn if through == door} for door in ("mapping", "json")}
    keywords = {name: value for name, value, through in drawn if through == "keyword"}
    return user_settings(doors["mapping"], json=json.dumps(doors["json"]), **keywords)


def contradicts_itself(drawn):
    """The rules by hand: one name with two values, or a setting beside a place that does not have it."""
    values = {}
    for name, value, _ in drawn:
        if values.setdefault(name, value) != value:
            return True
    for name, value in values.items():
        scope, _, field = name.partition(".")
        place = values.get(scope)
        beside_swap = place == "swap" and (field in STREAMING or value == "run")
        if field and (place == "resident" or beside_swap):
            return True
    return False


def random_rule(rng):
    settings = {}
    for component, stage in rng.sample([*product(COMPONENTS, STAGES)], 3):
        kind = rng.choice(VALUES["placement"])
        settings[name_of(component, stage, "placement")] = kind
        if kind in ("layerwise", "disk"):
            settings |= {name_of(component, stage, field): rng.choice(VALUES[field]) for field in STREAMING}
    return settings


def test_what_a_user_sets_through_any_door_survives_every_rule_and_contradictions_name_both_sides():
    rng, seen = random.Random(4), Counter()
    for _ in range(10_000):
        drawn = random_settings(rng)
        if contradicts_itself(drawn):
            with pytest.raises(PlanError, match=r"contradicts .* from .*leave one of them out"):
                through_the_doors(drawn)
            seen["contradiction"] += 1
            continue
        plan = Plan.of(through_the_doors(drawn))
        before = {name: (each.value, each.by) for name, each in plan.decisions.items()}
        for by in ("rule", "device mode", "tuner"):
            plan = plan.decide(random_rule(rng), by=by, why="a rule of this test")
        assert before.items() <= {name: (each.value, each.by) for name, each in plan.decisions.items()}.items()
        for name, value, _ in drawn:
            scope, _, field = name.partition(".")
            component, _, stage = scope.partition("@")
            placed = plan.placement(component, stage or None).fields()
            assert placed[field or "placement"] == value
            assert plan.is_users(name)
        seen["kept"] += 1
    assert seen["contradiction"] > 500
    assert seen["kept"] > 5_000


def test_a_default_value_that_is_written_down_is_the_users():
    plan = Plan.of({"transformer": "resident"}).decide({"transformer": "swap"}, why="it does not fit")
    assert plan.placement("transformer").fields() == {"placement": "resident"}
    assert not plan.is_users("vae")


def test_what_a_user_set_for_all_stages_is_not_changed_for_one():
    plan = Plan.of({"vae": "resident"}).decide({"vae@decode": "swap", "vae@encode.prefetch": 3}, why="a rule")
    assert plan.placement("vae", "decode").fields() == {"placement": "resident"}
    assert [str(key) for key in plan.decisions] == ["vae"]


def test_a_setting_that_only_streaming_has_implies_it():
    plan = Plan.of({"transformer.prefetch": 2}).decide({"transformer": "resident"}, why="it fits")
    assert plan.placement("transformer") == layerwise(prefetch=2)
    assert plan.table().rows()[1][2:] == ("user", "transformer.prefetch was set, which applies nowhere else")


def test_a_rule_that_changes_the_place_drops_what_an_earlier_rule_said_of_the_old_one():
    plan = Plan.of().decide({"vae": layerwise(resident=3)}, why="to stream").decide({"vae": "swap"}, why="it is small")
    assert plan.placement("vae") == swap()
    assert {str(key) for key in plan.decisions} == {"vae", "vae.until"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"transformer": "swop"}, "transformer is one of 'resident', 'swap', 'layerwise', 'disk'; got 'swop'"),
        ({"transformer.prefetsch": 2}, "transformer has no setting 'prefetsch'; did you mean 'prefetch' or"),
        ({"transformer.prefetch": -1}, "transformer.prefetch counts blocks, from 0 up; got -1"),
        ({"transformer.prefetch": True}, "transformer.prefetch is a whole number; got True"),
        ({"transformer.copy_back": 1}, "transformer.copy_back is true or false; got 1"),
        ({"lora": "fused"}, "lora is one of 'dynamic', 'merged'; got 'fused'"),
        ({"lora@refine": "merged"}, "'lora@refine' names no setting"),
        ({"numerics": {"tiling": "on"}}, "numerics has no setting 'tiling'; did you mean 'vae_tiling'?"),
        ({"": "swap"}, "'' names no setting"),
    ],
)
def test_a_setting_that_does_not_exist_is_one_clear_error(chosen, message):
    with pytest.raises(PlanError) as error:
        user_settings(chosen)
    assert message in str(error.value)


def test_both_doors_are_named_where_they_contradict():
    with pytest.raises(PlanError) as error:
        user_settings({"vae": "swap"}, json='{"vae": "disk"}')
    assert str(error.value) == "vae='swap' from a mapping contradicts vae='disk' from JSON; leave one of them out"
    with pytest.raises(PlanError, match=r"vae.prefetch=2 from a keyword contradicts vae='resident' from JSON"):
        user_settings(json='{"vae": "resident"}', vae={"prefetch": 2})


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"schema_version": 2, "name": "x", "decisions": []}'])
def test_json_that_is_no_plan_is_refused(text):
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_plan_comes_back_from_json_as_it_was():
    plan = Plan.of({"vae": "swap", "transformer": layerwise(resident=3)}, name="mine")
    plan = plan.decide({"lora": "merged", "numerics.vae_tiling": "on"}, by="device mode", why="as snapshot does")
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.table().equals(plan.table())


def test_plans_that_do_the_same_have_one_fingerprint_whoever_decided():
    by_user = Plan.of({"vae": layerwise(resident=3), "text_encoder": "resident"})
    by_rule = Plan.of().decide({"vae": "layerwise", "vae.resident": 3}, why="a rule")
    assert by_user.fingerprint == by_rule.fingerprint
    assert by_user.fingerprint != by_rule.decide({"vae.prefetch": 2}, why="deeper").fingerprint
    assert by_rule.decide({"vae@decode.resident": 3}, why="the same").fingerprint == by_rule.fingerprint


def test_a_plan_under_another_name_does_the_same_and_keeps_who_decided():
    plan = Plan.of({"vae": "swap"}, name="mine")
    other = plan.named("VAE on demand")
    assert (other.name, other.fingerprint, other.decisions) == ("VAE on demand", plan.fingerprint, plan.decisions)
    assert plan.name == "mine"


def test_html_escapes_what_a_person_named():
    plan = Plan.of(name="<b>").decide({"vae": "swap"}, why="<script>")
    assert "<script>" not in plan._repr_html_()
    assert "&lt;b&gt;" in plan._repr_html_()
