"""The calls of a workload say which calls of the rehearsal they are, so that a move can be joined to times."""

import polars as pl
import pytest

from reslab import ltx2, residency
from reslab.residency import Plan, rehearse, schedule, uniform_workload, workload

DENOISE, REFINE = "LTX2AVDenoisingStage", "LTX2RefinementStage"
PASSES = ["pred_cond", "pred_uncond", "pred_cond_stg", "pred_cond_modality"]


@pytest.fixture(scope="module")
def guided():
    return ltx2.rehearsal("LTX-2.3", width=1536, height=1024, num_frames=121)


@pytest.fixture(scope="module")
def tiny(tiny_ltx23):
    pipe = ltx2.two_stage(tiny_ltx23)
    pipe.progress = False
    return rehearse(pipe, prompt="a heron", width=64, height=64, num_frames=9, num_inference_steps=2, seed=1)


def called(work, stage):
    return [call for call in work.calls if call.stage == stage]


def test_a_guided_run_of_the_full_size_has_thirty_steps_of_four_passes_and_three_of_one(guided):
    calls = workload(guided).calls
    assert [(call.step, call.guidance_pass) for call in called(workload(guided), DENOISE)] == [
        (step, name) for step in range(30) for name in PASSES
    ]
    assert [(call.step, call.guidance_pass) for call in called(workload(guided), REFINE)] == [
        (step, "pred_cond") for step in range(3)
    ]
    assert [(call.step, call.guidance_pass) for call in calls if call.component != "transformer"] == [(None, None)] * 7
    assert [call.traces for call in calls] == [(trace,) for trace in guided.calls["trace"]]


def test_with_the_lora_merged_a_call_runs_the_merged_trace(guided):
    calls = called(workload(guided, Plan.of({"lora": "merged"})), REFINE)
    merged = guided.calls.filter(pl.col("registered_name").cast(str) == REFINE)["merged_trace"]
    assert [call.traces for call in calls] == [(trace,) for trace in merged]
    assert {call.component for call in calls} == {"transformer+lora"}


def test_batched_passes_are_one_call_that_runs_the_traces_of_all(guided):
    batched = called(workload(guided, Plan.of({"numerics.pass_batching": "batched"})), DENOISE)
    own = [trace for call in called(workload(guided), DENOISE) for trace in call.traces]
    assert [call.traces for call in batched] == [tuple(own[at : at + 4]) for at in range(0, 120, 4)]
    assert [(call.step, call.guidance_pass) for call in batched] == [(step, None) for step in range(30)]


def test_a_tiny_run_says_the_same_of_its_own_steps(tiny):
    calls = called(workload(tiny), DENOISE)
    assert [(call.step, call.guidance_pass) for call in calls] == [(step, name) for step in range(2) for name in PASSES]
    assert [call.traces for call in workload(tiny).calls] == [(trace,) for trace in tiny.calls["trace"]]


def test_what_streams_for_a_call_is_joined_to_the_operations_that_it_runs(tiny):
    plan = Plan.of({"transformer": "layerwise"})
    work = workload(tiny, plan)
    flops = dict(tiny.traces.select("trace", "flops").iter_rows())
    computed = {move.call: move for move in schedule(plan, work).moves if move.act == residency.Act.COMPUTE}
    assert sum(flops[trace] for number in computed for trace in work.calls[number].traces) == (
        tiny.total_flops - tiny.glue["flops"].sum()
    )


def test_a_call_made_by_hand_is_of_no_rehearsal():
    call = residency.Call(stage="denoise", component="transformer", blocks=(0, 1))
    assert (call.traces, call.step, call.guidance_pass) == ((), None, None)
    assert [call.step for call in uniform_workload(2, passes=3).calls] == [0, 1, 2]
