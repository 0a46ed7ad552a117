"""Host memory is one truth: what `bounds` says, `apply` does, and what stays on the device has no second copy."""

import os
import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from reslab import ltx2
from reslab.residency import (
    Budget,
    OutOfMemory,
    Plan,
    PlanError,
    apply,
    bounds,
    detect,
    disk,
    footprint,
    layerwise,
    preset,
    rehearse,
    swap,
)
from reslab.residency._engine import _accelerator
from reslab.residency._engine._checks import check_fits
from reslab.residency._engine._config import EngineConfig
from reslab.residency._predict._memory import memory
from reslab.stages import Pipeline, stage

WIDTH = 32
BLOCK = (WIDTH + 1) * WIDTH * 4  # bytes of one weight and its bias: nothing is padded
X = torch.linspace(-1, 1, WIDTH)


class Model(torch.nn.Module):
    def __init__(self, blocks):
        super().__init__()
        torch.manual_seed(blocks)
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(blocks))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


@stage(writes="y")
def encode(encoder, x):
    return encoder(x)


@stage(writes="z")
def denoise(transformer, y):
    return transformer(transformer(y))


@stage(writes="video")
def decode(vae, encoder, z):
    return encoder(vae(z))


SIZES = {"encoder": 2, "transformer": 5, "vae": 3, "unused": 2}


def make():
    pipeline = Pipeline({name: Model(blocks) for name, blocks in SIZES.items()}, result="video")
    for each in (encode, denoise, decode):
        pipeline.add(each())
    return pipeline


def run(pipeline):
    with torch.no_grad():
        return pipeline.run(x=X)


with apply(make(), Plan.of()) as _managed:
    WANT = run(_managed._pipeline)
    KNOWN = replace(_managed.workload, activations={"encode": 100, "denoise": 999, "decode": 7})
#: This machine, if its device were another memory than the host's.
CARD = detect("cpu", link="10 GB/s", host_memory="1 GiB")

PLACES = (
    "resident",
    swap(),
    swap(until="each stage"),
    swap(prefetch_stages=1),
    layerwise(),
    layerwise(resident=1, prefetch=0, until="run"),
    layerwise(resident=2, until="each stage"),
    disk(resident=1),
    disk(prefetch=2),
)
SCOPES = ("encoder", "transformer", "vae", "unused", "encoder@decode", "transformer@denoise", "vae@encode")
PLANS = st.dictionaries(st.sampled_from(SCOPES), st.sampled_from(PLACES)).map(Plan.of)


def bounded(plan, card=CARD):
    """The part of `bounds` that is about memory, over the blocks that the engine finds in a model as small as this."""
    return memory(footprint(plan, KNOWN), KNOWN, card, allocator_slack_bytes=None)


def host(limits):
    return limits.pinned_bytes + limits.pageable_bytes


def is_taken(plan, **budget):
    """Whether `apply` takes a plan: what does not fit is refused before anything moves."""
    managed = apply(make(), plan, budget=Budget(**budget), known=KNOWN)
    try:
        with managed:
            return True
    except PlanError:
        return False


@settings(max_examples=400)
@given(PLANS, st.integers(0, 2**30))
def test_what_bounds_says_fits_apply_takes_and_the_other_way_round(plan, seed):
    chance = random.Random(seed)
    needs = bounded(plan).peak_bytes, host(bounded(plan))
    free, left = (max(size + chance.choice((-1, 0, 1, 999, -999)), 0) for size in needs)
    fits = bounded(plan, replace(CARD, free_bytes=free, host_memory_bytes=left)).fits
    assert is_taken(plan, device_bytes=free, host_bytes=left) == fits


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_a_plan_is_taken_with_the_bytes_that_bounds_says_and_refused_with_one_less(place):
    limits = bounded(Plan.of(dict.fromkeys(SIZES, place)))
    budget = {"device_bytes": limits.peak_bytes, "host_bytes": host(limits)}
    plan = Plan.of(dict.fromkeys(SIZES, place))
    assert is_taken(plan, **budget)
    assert not any(is_taken(plan, **budget | {which: size - 1}) for which, size in budget.items() if size)


@settings(max_examples=400)
@given(PLANS, st.none() | st.integers(0, 10**6), st.integers(-1, 1))
def test_the_allocators_slack_is_one_too(plan, slack, beside):
    limits = memory(footprint(plan, KNOWN), KNOWN, replace(CARD, kind="cuda"), allocator_slack_bytes=slack)
    budget = Budget(device_bytes=limits.peak_bytes + limits.slack_bytes + beside, slack_bytes=slack)
    try:
        check_fits(plan, KNOWN, budget, kind="cuda")
    except PlanError:
        assert beside < 0
    else:
        assert beside >= 0


def on_host(managed):
    return managed.table()["host_bytes"].sum() + managed._conductor.sources.disk.window.bytes.nbytes


def check_host(plan):
    """Run twice, and compare what the engine holds on the host with what `bounds` says."""
    with apply(make(), plan, known=KNOWN) as managed:
        for _ in range(2):
            assert torch.equal(run(managed._pipeline), WANT)
        tries = 300
        while on_host(managed) != host(bounded(plan)) and (tries := tries - 1):
            time.sleep(0.01)  # no call waits for what is unused, so it may still be on its way to the device
        assert on_host(managed) == host(bounded(plan))


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_what_bounds_says_of_the_host_is_what_the_engine_holds(place):
    check_host(Plan.of(dict.fromkeys(SIZES, place)))


@given(PLANS)
def test_what_bounds_says_of_the_host_is_what_the_engine_holds_in_any_plan(plan):
    check_host(plan)


@pytest.mark.parametrize(("until", "blocks"), [("last stage", 0), ("each stage", 3)])
def test_what_is_resident_at_first_needs_a_copy_if_it_leaves_before_the_run_ends(until, blocks):
    plan = Plan.of({"encoder": swap(until=until), "encoder@encode": "resident"})
    assert host(bounded(plan)) == blocks * BLOCK
    check_host(plan)


#: In a process of its own, whose allocator gives each freed tensor back: one that has worked before keeps some.
IN_MEMORY_ONCE = """
import torch
from reslab.residency import Plan, apply
from reslab.stages import Pipeline, stage

torch.set_num_threads(1)


def resident_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


class Large(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(1024, 1024, bias=False) for _ in range(16))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


pipeline = Pipeline({"transformer": Large()}, result="z")
pipeline.add(stage(lambda transformer, y: {"z": transformer(y)}), name="denoise")
want, before = pipeline.run(y=torch.ones(1024)).detach(), resident_bytes()
weights = 16 * 4 * 2**20
with apply(pipeline, Plan.of()) as managed:
    with torch.no_grad():
        assert torch.equal(pipeline.run(y=torch.ones(1024)), want)
    assert managed.table()["host_bytes"].sum() == 0
    assert managed.device_bytes == weights
    assert resident_bytes() - before < weights / 4
assert resident_bytes() - before < weights / 4
with torch.no_grad():
    assert torch.equal(pipeline.run(y=torch.ones(1024)), want)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how much memory is a process's own")
def test_what_is_resident_is_in_memory_once_while_it_runs_and_after():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run([sys.executable, "-c", IN_MEMORY_ONCE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_resident_tiny_ltx_needs_nothing_of_the_host():
    checkpoint = ltx2.load("tiny", variant="LTX-2.3 distilled")
    pipe = ltx2.two_stage(checkpoint)
    pipe.progress = False
    request = {"prompt": "a", "width": 64, "height": 64, "num_frames": 9, "seed": 1}
    rehearsal = rehearse(pipe, **request)
    plan = preset("all resident", rehearsal)
    assert bounds(rehearsal, plan, CARD).memory.pinned_bytes == 0
    with apply(pipe, plan, budget=Budget(host_bytes=0)) as managed:
        pipe.run(**request)
        assert managed.table()["host_bytes"].sum() == 0


def test_stepping_down_brings_back_from_the_device_what_has_to_leave():
    pipeline, sizes = make(), {name: (blocks + 1) * BLOCK for name, blocks in SIZES.items()}
    calls = []

    def fail_once(module, arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")

    pipeline.components["transformer"].blocks[3].register_forward_pre_hook(fail_once)
    with apply(pipeline, Plan.of(), on_oom="step-down") as managed:
        assert torch.equal(run(pipeline), WANT)
        held = dict(managed.table().select("component", "host_bytes").iter_rows())
        moving = [name for name in sizes if managed.plan.placement(name).kind != "resident"]
        assert len(moving) == 1
        assert held == {name: sizes[name] if name in moving else 0 for name in sizes}
        assert torch.equal(run(pipeline), WANT)
    assert torch.equal(run(pipeline), WANT)


# Pinning


def pinning(monkeypatch, limit):
    """Have memory pinned as on an accelerator, up to a limit, and return what is pinned now, by address."""
    pinned = {}

    def pin(memory):
        if sum(pinned.values()) + memory.nbytes > limit:
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
        pinned[memory.data_ptr()] = memory.nbytes
        return lambda: pinned.pop(memory.data_ptr())

    monkeypatch.setattr(EngineConfig, "pins", True)
    monkeypatch.setattr(_accelerator, "pinner", lambda device: pin)
    return pinned


MOVING = {"encoder": swap(), "transformer": layerwise(), "vae": swap()}


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_where_pinning_is_refused_the_rest_is_pageable_and_a_note_says_so(monkeypatch, limit):
    pinned = pinning(monkeypatch, limit * BLOCK)
    with apply(make(), Plan.of(MOVING)) as managed:
        assert all(torch.equal(run(managed._pipeline), WANT) for _ in range(2))
        assert sum(pinned.values()) <= limit * BLOCK
        assert managed.table()["pinned_bytes"].sum() == sum(pinned.values())
        (note,) = managed.notes
        assert "refused to pin" in note
        assert "(CUDA error: out of memory), so the other weights are copied from pageable memory" in note
    assert pinned == {}


@pytest.mark.parametrize("budget", [0, BLOCK, 5 * BLOCK + 100, 8 * BLOCK])
def test_a_budget_of_pinned_memory_is_shared_out_as_bounds_plans_it(monkeypatch, budget):
    pinned, plan = pinning(monkeypatch, 2**40), Plan.of(MOVING)
    limits = bounded(plan, replace(CARD, pinnable_bytes=budget))
    with apply(make(), plan, budget=Budget(pinned_bytes=budget), known=KNOWN) as managed:
        assert all(torch.equal(run(managed._pipeline), WANT) for _ in range(2))
        assert sum(pinned.values()) == limits.pinned_bytes == budget
        by_name = dict(managed.table().select("component", "pinned_bytes").iter_rows())
        assert by_name["transformer"] == min(budget, 6 * BLOCK)  # its blocks move most often
        (note,) = managed.notes
        assert (
            "the weights that move most often first; the others are copied from pageable memory, which is slower"
            in note
        )
    assert pinned == {}


def test_the_window_of_what_streams_from_disk_is_pinned(monkeypatch):
    pinned, plan = pinning(monkeypatch, 2**40), Plan.of({"transformer": "disk", "vae": "swap"})
    with apply(make(), plan, known=KNOWN) as managed:
        assert all(torch.equal(run(managed._pipeline), WANT) for _ in range(2))
        assert sum(pinned.values()) == bounded(plan).pinned_bytes == 5 * BLOCK
        assert managed.notes == ()
    assert pinned == {}


# After a leaner plan


def failing(component, count=1):
    """A pipeline in which a component runs out of memory in its last block, at the count-th time."""
    pipeline, left = make(), [count]

    def fail(*_arguments):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")

    pipeline.components[component].blocks[-1].register_forward_pre_hook(fail)
    return pipeline


def held(managed, what):
    """What of the host each component holds, where it holds any."""
    return {name: nbytes for name, nbytes in managed.table().select("component", what).iter_rows() if nbytes}


def planned(managed, pinnable=None):
    """What the account says of the plan in force: bytes on the host, and pinned."""
    host = footprint(managed.plan, managed.workload).host(pinnable_bytes=pinnable)
    return {name: size for name, size in host.copies.items() if size}, {
        n: size for n, size in host.pinned.items() if size
    }


#: What stays resident, so that the transformer is what a leaner plan moves.
OTHERS = dict.fromkeys(("encoder", "vae", "unused"), "resident")


def test_what_was_resident_is_pinned_after_a_leaner_plan(monkeypatch):
    pinned, pipeline = pinning(monkeypatch, 2**40), failing("transformer")
    with apply(pipeline, Plan.of(OTHERS), on_oom="step-down") as managed:
        assert all(torch.equal(run(pipeline), WANT) for _ in range(2))
        assert held(managed, "pinned_bytes") == held(managed, "host_bytes") == {"transformer": 6 * BLOCK}
        assert sum(pinned.values()) == 6 * BLOCK
    assert pinned == {}


def test_what_was_resident_without_values_waits_in_pinned_memory_after_a_leaner_plan(monkeypatch, tmp_path):
    pinned, pipeline = pinning(monkeypatch, 2**40), failing("transformer")
    save_file(pipeline.components["transformer"].state_dict(), tmp_path / "model.safetensors")
    pipeline.components["transformer"].to("meta")
    files = {"transformer": tmp_path / "model.safetensors"}
    with apply(pipeline, Plan.of(OTHERS), on_oom="step-down", files=files) as managed:
        assert all(torch.equal(run(pipeline), WANT) for _ in range(2))
        assert held(managed, "pinned_bytes") == held(managed, "host_bytes") == {"transformer": 6 * BLOCK}
    assert pinned == {}


#: What a rule may change, since the user did not set it.
STEPS = [place for place in PLACES if place not in (disk(resident=1), disk(prefetch=2))]


@settings(max_examples=60)
@given(
    places=st.dictionaries(st.sampled_from(SCOPES), st.sampled_from(STEPS)),
    component=st.sampled_from(("encoder", "transformer", "vae")),
    count=st.integers(1, 4),
    pinnable=st.none() | st.integers(0, 20 * BLOCK),
    known=st.booleans(),
)
def test_after_a_leaner_plan_the_host_holds_what_the_account_says_of_it(places, component, count, pinnable, known):
    plan = Plan.of().decide(places, why="to begin with") if places else Plan.of()
    with pytest.MonkeyPatch.context() as patch:
        pinned, pipeline = pinning(patch, 2**40), failing(component, count)
        budget = Budget(pinned_bytes=pinnable)
        with apply(pipeline, plan, on_oom="step-down", budget=budget, known=KNOWN if known else None) as managed:
            try:
                for _ in range(count + 2):  # a run fails as late as the `count`-th, and the next ones settle everything
                    assert torch.equal(run(pipeline), WANT)
            except OutOfMemory:
                reject()  # there is no leaner plan
            copies, pins = planned(managed, pinnable)
            waiting = held(managed, "host_bytes")
            waiting.pop("unused", None)  # no run needs it any more, and it has to be somewhere
            assert (waiting, held(managed, "pinned_bytes")) == (copies, pins)
            assert sum(pinned.values()) == sum(held(managed, "pinned_bytes").values())
        assert pinned == {}
        assert torch.equal(run(pipeline), WANT)
