"""Device modes carried out: each gives the right video, moves the plan's bytes, and leaves nothing behind."""

import pytest
import torch

from reslab import ltx2, residency
from reslab.profiler import Profiler
from reslab.residency import Lora, Plan, disk, layerwise, schedule, swap, workload

SECOND = "transformer" + residency.MERGED
REFINE = "LTX2RefinementStage"
REQUEST = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9, "max_sequence_length": 128, "seed": 7}
SHORT = REQUEST | {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def checkpoint():
    return ltx2.load("tiny", variant="LTX-2.3")


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return ltx2.two_stage(checkpoint)


@pytest.fixture(scope="module")
def rehearsal(pipe):
    return residency.rehearse(pipe, **SHORT)


@pytest.fixture(scope="module")
def on_the_fly(pipe):
    return pipe.run(**SHORT)


@pytest.fixture(scope="module")
def merged(pipe):
    """The video of PEFT's own merging: fused before refining, unfused by hand after it."""
    return fused_for_refining(pipe)


def fused_for_refining(pipe):
    transformer, stage = pipe.components["transformer"], pipe.stages[REFINE]
    before = {name: weight.detach().clone() for name, weight in transformer.named_parameters()}

    class Fusing:
        execution_device, may_retry = None, False

        def stage(self, own, call):
            if own is stage:
                transformer.fuse_lora(safe_fusing=True)
            call()

        def component_call(self, component, method, call):
            return call()

    with pipe.conduct(Fusing()):
        video = pipe.run(**SHORT)
    transformer.unfuse_lora()
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            weight.copy_(before[name])  # unfusing subtracts, which rounds
    return video


def same(found, want):
    return (found.frames == want.frames).all() and (found.audio == want.audio).all()


def weights(pipe):
    return {
        (name, path): (id(weight), weight.detach().clone())
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for path, weight in part.named_parameters()
    }


def unchanged(before, after):
    return before.keys() == after.keys() and all(
        before[key][0] == after[key][0] and torch.equal(before[key][1], after[key][1]) for key in before
    )


@pytest.mark.parametrize("mode", ltx2.DeviceMode)
def test_a_notebook_applies_a_mode_and_profiles_it(checkpoint, rehearsal, on_the_fly, merged, mode):
    pipe = ltx2.two_stage(checkpoint)
    plan = ltx2.device_mode(mode, checkpoint, SHORT)
    want = on_the_fly if plan.lora is Lora.DYNAMIC else merged
    with residency.apply(pipe, plan) as managed:
        assert same(pipe.run(**SHORT), want)
        with Profiler(pipe, counters=managed) as prof:
            assert same(pipe.run(**SHORT), want)
        assert managed.notes == ()
        moved = schedule(plan, managed.workload)
        assert sum(managed.fetched_bytes.values()) == moved.moved_bytes()
    # the rehearsal's rule finds no blocks in so small a model, but what moves whole is the same
    assert schedule(plan, workload(rehearsal, plan)).moved_bytes() == moved.moved_bytes()
    transfers = prof.profile.transfers()
    assert transfers["moved_bytes"].sum() == moved.moved_bytes()
    names = set(transfers["component"].to_list())
    assert names == ({"transformer", SECOND} if mode == "snapshot" else set())
    counted = set(prof.profile.memory["component"].to_list())
    assert (SECOND in counted) == (plan.lora is Lora.MERGED)


PLACES = {
    "layerwise": (layerwise(resident=1), layerwise(prefetch=2)),
    "from disk": (disk(), disk(resident=1)),
}


@pytest.mark.parametrize("places", PLACES)
def test_merged_is_the_same_video_as_resident_and_snapshot_wherever_both_transformers_are(pipe, merged, places):
    own, second = PLACES[places]
    plan, before = Plan.of({"transformer": own, SECOND: second, "vae": "layerwise", "lora": "merged"}), weights(pipe)
    with residency.apply(pipe, plan) as managed:
        assert same(pipe.run(**SHORT), merged)
        assert same(pipe.run(**SHORT), merged)
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()
    assert unchanged(before, weights(pipe))


def test_modes_follow_each_other_on_one_pipeline(pipe, rehearsal, on_the_fly, merged):
    before = weights(pipe)
    for mode, want in (("snapshot", merged), ("resident", merged), ("original", on_the_fly)):
        with residency.apply(pipe, ltx2.device_mode(mode, rehearsal)) as managed:
            assert same(pipe.run(**SHORT), want)
        assert managed.device_bytes == 0
        assert managed.table().is_empty()  # the merged copy is dropped
        assert unchanged(before, weights(pipe))
    assert same(pipe.run(**SHORT), on_the_fly)


def test_what_is_kept_twice_is_what_the_lora_reaches(pipe, rehearsal, checkpoint):
    reached = {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in checkpoint.distilled_lora}
    transformer = pipe.components["transformer"]
    nbytes = sum(transformer.get_submodule(name).get_base_layer().weight.nbytes for name in reached)
    plan = ltx2.device_mode("snapshot", rehearsal)
    with residency.apply(pipe, plan) as managed:
        pipe.run(**SHORT)
        rows = {row["component"]: row for row in managed.table().rows(named=True)}
        sizes = managed.workload.components
    # between weights lie at most 63 bytes, so that each starts at a multiple of 64
    assert nbytes <= rows[SECOND]["host_bytes"] < nbytes + 64 * len(reached)
    assert sizes[SECOND] == sizes["transformer"]
    of_plan = workload(rehearsal, plan).components
    assert sizes["transformer"].weight_bytes == of_plan["transformer"].weight_bytes == of_plan[SECOND].weight_bytes


def test_calls_that_a_rehearsal_foresees_are_followed_from_the_first_run(pipe, rehearsal, merged):
    plan = Plan.of({"transformer": swap(), SECOND: swap(), "lora": "merged"})
    with residency.apply(pipe, plan, known=workload(rehearsal, plan)) as managed:
        assert same(pipe.run(**SHORT), merged)
        assert [(call.stage, call.component, call.method) for call in managed.workload.calls] == [
            (call.stage, call.component, call.method) for call in workload(rehearsal, plan).calls
        ]
        assert sum(managed.fetched_bytes.values()) == schedule(plan, managed.workload).moved_bytes()


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3 distilled"])
def test_other_variants_run_in_every_mode(name):
    pipe = ltx2.two_stage(ltx2.load("tiny", variant=name))
    request = REQUEST if "distilled" in name else SHORT
    rehearsal, before = residency.rehearse(pipe, **request), weights(pipe)
    videos = [pipe.run(**request)]
    for mode in ("snapshot", "resident"):
        plan = ltx2.device_mode(mode, rehearsal)
        assert (plan.lora is Lora.MERGED) == ("distilled" not in name)
        with residency.apply(pipe, plan) as managed:
            videos.append(pipe.run(**request))
            assert (SECOND in managed.workload.components) == (plan.lora is Lora.MERGED)
    assert same(videos[1], videos[2])
    assert same(videos[0], videos[1]) == ("distilled" in name)
    assert unchanged(before, weights(pipe))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_difference_between_merged_and_on_the_fly_is_measured(dtype):
    pipe = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3", dtype=getattr(torch, dtype)))
    before = weights(pipe)
    rows = {row["what"]: row for row in residency.lora_difference(pipe, SHORT).rows(named=True)}
    own = rows["transformer: merged weights"]
    assert own["dtype"] == dtype
    # a sum is rounded to half a step of its type, and before it the update that it is a sum with; noise by design has
    # latents of the size of 1, which three steps carry further
    step = torch.finfo(getattr(torch, dtype)).eps
    assert 0 < own["relative"] < step
    assert own["relative"] < rows["transformer: LoRA's update of them"]["relative"] < 10 * step
    assert 0 < rows["refine_latents"]["relative"] < 10 * step
    assert "latents" not in rows  # of the first stage, which the LoRA is not on in
    assert {"refine_audio_latents", "video.audio"} <= rows.keys()
    assert unchanged(before, weights(pipe))
