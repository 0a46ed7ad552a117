"""Device modes: decided by bytes for the selected device and size; the user's settings survive; the reference."""

import subprocess
import sys
from dataclasses import replace

import pytest

from reslab import residency
from reslab.ltx2 import (
    DeviceMode,
    device_mode,
    documented_recipe,
    fits_resident,
    load,
    reference_decision,
    rehearsal,
    two_stage,
)
from reslab.residency import MERGED, PlanError, bounds, device, footprint, preset, workload

GIB = 2**30
SECOND = "transformer" + MERGED
AUXILIARIES = ("text_encoder", "connectors", "vae", "audio_vae", "vocoder", "latent_upsampler")
UNTILED = {"width": 768, "height": 512, "num_frames": 121}  # the largest that is not decoded in tiles
LARGE = {"width": 1536, "height": 1024, "num_frames": 121}
#: facts/ltx2.md, "Components at full size", in GiB: both transformers, and everything else.
SIZES = {"LTX-2.3": (2 * 35.37, 31.23), "LTX-2": (2 * 35.16, 28.78)}


@pytest.fixture(scope="module", params=["LTX-2.3", "LTX-2"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def run(variant):
    return rehearsal(variant, **LARGE)


def slice_of_h200():
    """It calls itself H200 and has 71 GiB."""
    return device("H200", memory="71 GiB")


def laptop():
    """No GPU, 32 GiB of memory."""
    cpu = residency.detect("cpu", machine=replace(residency.this_machine(), torch=None))
    return replace(cpu, memory_bytes=32 * GIB, free_bytes=28 * GIB, host_memory_bytes=32 * GIB)


def places(plan):
    return {name: plan.placement(name).fields()["placement"] for name in ("transformer", *AUXILIARIES)}


# The reference's three rule tests, and ours.


def test_resident_keeps_auxiliaries_that_the_user_did_not_place_and_names_its_changes(run):
    plan = device_mode("resident", run, device=device("H200"))
    assert set(places(plan).values()) == {"resident"}
    assert plan.placement(SECOND) == residency.resident()
    why = dict(plan.table().select("setting", "why").rows())
    assert why["text_encoder"] == "resident keeps it on the device, where others have it layerwise"
    assert why["connectors"] == "resident keeps it on the device, where others have it swap"


def test_original_keeps_the_layerwise_defaults(run):
    plan = device_mode("original", run, device=device("H200"))
    assert {name for name, place in places(plan).items() if place == "layerwise"} == {"text_encoder", "vae"}
    assert plan.lora == "dynamic"
    assert places(plan)["transformer"] == "resident"


def test_an_explicit_layerwise_survives_resident(run):
    settings = {"text_encoder": "layerwise", "vae": "layerwise"}
    plan = device_mode("resident", run, device=device("H200"), settings=settings)
    assert places(plan) == {**dict.fromkeys(("transformer", *AUXILIARIES), "resident"), **settings}
    assert plan.is_users("text_encoder")


def test_an_explicit_default_survives_every_mode(run):
    for mode in ("original", "snapshot", "resident", "auto"):
        plan = device_mode(mode, run, device=device("H100"), settings={"text_encoder": "resident", "vae": "resident"})
        assert places(plan)["text_encoder"] == places(plan)["vae"] == "resident"


# Machines: what auto decides, and what the reference would.


MACHINES = {
    "full H200": (device("H200"), "resident", True),
    "slice that calls itself H200": (slice_of_h200(), "snapshot", False),
    "B200": (device("B200"), "resident", True),
    "H100 80 GB": (device("H100"), "snapshot", False),
    "24 GiB": (device("RTX 4090"), "original", False),
    "no GPU": (laptop(), "original", False),
    "memory held by a neighbour": (replace(device("H200"), free_bytes=90 * GIB), "snapshot", False),
}


@pytest.mark.parametrize(("card", "mode", "fits"), MACHINES.values(), ids=MACHINES)
def test_auto_decides_by_the_bytes_that_are_free(run, card, mode, fits):
    plan = device_mode("auto", run, device=card)
    assert plan.name == f"auto: {mode}"
    assert bool(fits_resident(run, card)) is fits
    assert bounds(run, plan, card).fits


#: What the reference decides: mode, transformer, everything else. Then whether that fits LTX-2.3, and LTX-2, for which
#: everything else streams even in resident mode.
REFERENCE = {
    "full H200": ("resident", "resident", "resident", True, True),
    "slice that calls itself H200": ("resident", "resident", "layerwise", False, False),
    "B200": ("resident", "resident", "resident", True, True),
    "H100 80 GB": ("original", "resident", "layerwise", True, True),
    "24 GiB": ("original", "swap", "swap", False, False),
    "no GPU": ("original", "swap", "layerwise", False, False),
    "memory held by a neighbour": ("resident", "resident", "resident", False, True),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_reference_decides_by_names_and_round_numbers(variant, run, machine):
    card = MACHINES[machine][0]
    mode, transformer, others, fits, fits_ltx_2 = REFERENCE[machine]
    if variant == "LTX-2":
        others, fits = others.replace("resident", "layerwise"), fits_ltx_2
    decision = reference_decision(variant, card)
    assert (decision.mode, decision.transformer, decision.auxiliaries) == (mode, transformer, others)
    assert bounds(run, decision.plan(run), card).memory.fits_device is fits


def test_the_references_two_predicates_disagree_about_an_h200_of_71_gib():
    decision = reference_decision("LTX-2.3", slice_of_h200())
    assert "H200 in the name" in decision.why[0]
    assert (decision.mode, decision.auxiliaries) == ("resident", "layerwise")
    assert reference_decision("LTX-2.3", replace(slice_of_h200(), name="a slice")).mode == "original"


def test_an_80_gib_card_is_not_resident_even_with_the_text_encoder_elsewhere(run):
    """Two transformers are 70.7 GiB; what is left holds neither the rest nor the activations of the connectors."""
    card = device("H100")
    for placed in ({}, {"text_encoder": "layerwise"}, dict.fromkeys(("text_encoder", "connectors"), "disk")):
        fit = fits_resident(run, card, settings=placed)
        assert not fit
        assert "It does not fit" in fit.why
    assert device_mode("auto", run, device=card, settings={"text_encoder": "disk"}).name == "auto: snapshot"


def test_a_96_gib_card_is_resident_where_the_user_placed_the_text_encoder_elsewhere(run):
    card = device("RTX PRO 6000")
    assert not fits_resident(run, card)
    assert not fits_resident(run, card, settings={"text_encoder": "swap"})  # it comes back for its stage
    assert fits_resident(run, card, settings={"text_encoder": "layerwise"})
    assert device_mode("auto", run, device=card, settings={"text_encoder": "layerwise"}).name == "auto: resident"


def test_what_resident_needs_is_the_sum_of_what_it_keeps(variant, run):
    transformers, others = SIZES[variant]
    fit = fits_resident(run, device("H200"))
    activations = max(workload(run, device_mode("resident", run, device=device("H200"))).activations.values())
    assert fit.needed_bytes == pytest.approx((transformers + others + 2) * GIB + activations, rel=1e-3)
    assert fit.free_bytes == device("H200").free_bytes


def test_the_size_that_is_asked_for_decides_too(variant):
    small, large = rehearsal(variant, width=768, height=512, num_frames=25), rehearsal(variant, **UNTILED)
    needed = [fits_resident(run, device("H200")).needed_bytes for run in (small, large)]
    assert fits_resident(small, device("H200"), free_bytes=sum(needed) // 2)
    assert not fits_resident(large, device("H200"), free_bytes=sum(needed) // 2)


def test_another_device_than_the_first_decides_for_itself(run, variant):
    first, selected = device("RTX 4090"), device("B200")
    assert device_mode("auto", run, device=selected).name == "auto: resident"
    assert reference_decision(variant, first, free_bytes=selected.free_bytes).mode == "original"


def test_a_distilled_variant_needs_one_transformer(variant):
    run = rehearsal("LTX-2.3 distilled", **LARGE)
    assert device_mode("auto", run, device=device("H100")).name == "auto: resident"
    for mode in DeviceMode:
        assert SECOND not in {key.subject for key in device_mode(mode, run, device=device("H200")).decisions}


def test_a_transformer_that_does_not_fit_streams_with_as_many_blocks_as_do(run):
    card = device("RTX 4090")
    plan = device_mode("original", run, device=card)
    kept = plan.placement("transformer").resident
    assert 10 < kept < 40
    assert bounds(run, plan, card).fits
    assert not bounds(run, plan.decide({"transformer.resident": kept + 1}, why="one more"), card).memory.fits_device


def test_a_host_with_little_memory_reads_from_disk_what_runs_once(run):
    plan = device_mode("original", run, device=device("RTX 4090", host_memory="64 GiB"))
    assert places(plan)["text_encoder"] == "disk"
    assert places(plan)["transformer"] == "layerwise"
    roomy = device_mode("original", run, device=device("RTX 4090", host_memory="128 GiB"))
    assert places(roomy)["text_encoder"] == "layerwise"


def test_where_memory_is_shared_nothing_moves(run):
    shared = replace(laptop(), memory_bytes=256 * GIB, free_bytes=200 * GIB, host_memory_bytes=256 * GIB)
    limits = bounds(run, device_mode("original", run, device=shared), shared)
    assert limits.moved_bytes == 0
    assert limits.fits


# The user's settings.


@pytest.mark.parametrize(
    ("mode", "settings", "message"),
    [
        ("resident", {"transformer": "layerwise"}, "'resident' contradicts transformer='layerwise' from a mapping"),
        ("resident", {"transformer.resident": 47}, "'resident' contradicts transformer='layerwise' from a mapping"),
        ("original", {"lora": "merged"}, "'original' contradicts lora='merged' from a mapping: it needs 'dynamic'"),
        ("snapshot", {"lora": "dynamic"}, "'snapshot' contradicts lora='dynamic' from a mapping: it needs 'merged'"),
        ("fast", {}, "there is no device mode 'fast'; known: auto, original, resident, snapshot"),
        ("snapshoot", {}, "there is no device mode 'snapshoot'; did you mean 'snapshot'?"),
        ("auto", {"vea": "swap"}, "the plan places 'vea', which is not there; did you mean 'vae'?"),
    ],
)
def test_a_contradiction_or_a_name_that_is_not_there_is_one_clear_error(run, mode, settings, message):
    with pytest.raises(PlanError) as error:
        device_mode(mode, run, device=device("H200"), settings=settings)
    assert message in str(error.value)


def test_auto_with_a_transformer_placed_elsewhere_is_original(run):
    plan = device_mode("auto", run, device=device("H200"), settings={"transformer": "layerwise"})
    assert plan.name == "auto: original"
    assert places(plan)["transformer"] == "layerwise"
    assert not fits_resident(run, device("H200"), settings={"transformer": "layerwise"})


def test_auto_heeds_how_the_lora_is_to_be_added(run):
    assert device_mode("auto", run, device=device("H200"), settings={"lora": "dynamic"}).name == "auto: original"
    assert device_mode("auto", run, device=device("RTX 4090"), settings={"lora": "merged"}).name == "auto: snapshot"


def test_auto_says_why_in_every_decision(run):
    why = device_mode("auto", run, device=device("H100")).table()["why"].to_list()
    assert all(each.startswith("auto chose snapshot: ") and "It does not fit" in each for each in why)


def test_reference_errors_are_the_references():
    with pytest.raises(PlanError, match="'original' and 'resident'"):
        reference_decision("LTX-2.3", device("H200"), mode="snapshot")
    with pytest.raises(PlanError, match="an error"):
        reference_decision("LTX-2.3", device("H200"), mode="resident", explicit={"transformer"})
    assert reference_decision("LTX-2.3", device("H200"), explicit={"transformer"}).mode == "original"


# Bytes of one video.


def test_the_documented_recipe_moves_131_gib_in_and_out_where_ours_moves_each_component_once():
    run = rehearsal("LTX-2.3", **LARGE)
    recipe = documented_recipe(workload(run, residency.Plan.of({"lora": "merged"})))
    theirs = footprint(preset("diffusers model offload", recipe), recipe)
    assert sum(row.fetched_bytes for row in theirs) / GIB == pytest.approx(130.58, abs=0.01)
    assert sum(row.copied_back_bytes for row in theirs) / GIB == pytest.approx(130.58, abs=0.01)
    work = workload(run)
    ours = footprint(preset("swap", work), work)
    lora = int(run.components["lora_bytes"].sum())
    assert (sum(row.fetched_bytes for row in ours) - lora) / GIB == pytest.approx(66.60, abs=0.005)
    assert sum(row.copied_back_bytes for row in ours) == 0
    assert lora / GIB == pytest.approx(7.67, abs=0.01)


def test_a_checkpoint_or_a_pipeline_is_rehearsed_with_the_request():
    checkpoint = load("tiny", variant="LTX-2.3")
    request = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    for subject in (checkpoint, two_stage(checkpoint)):
        plan = device_mode("snapshot", subject, request, device=device("H200"))
        assert {key.subject for key in plan.decisions} == {"lora", "transformer", SECOND, *AUXILIARIES}


def test_modes_need_no_torch():
    blocked = ("torch", "diffusers", "transformers")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from reslab import ltx2, residency
run = ltx2.rehearsal("LTX-2.3", width=1536, height=1024, num_frames=121)
card = residency.device("H200")
plan = ltx2.device_mode("auto", run, device=card)
limits = residency.bounds(run, plan, card)
residency.schedule(plan, residency.workload(run, plan)).frame()
residency.break_even([run], [card]), residency.survey([run], [card]), limits.stages(), limits._repr_html_()
print(plan.name, limits.fits)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "auto: resident True", done.stderr
