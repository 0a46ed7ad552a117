"""Time on an asynchronous device: exact on a simulated one, resolved once, never the clock of the host in disguise."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.profiler import Profiler
from reslab.profiler.testing import FakeClock, SimulatedDevice

DEVICE = ("name", "start_ns", "host_ns", "device_start_ns", "device_ns")


@pytest.fixture
def device(clock):
    return SimulatedDevice(clock)


@pytest.fixture
def prof(clock, device):
    return Profiler(clock=clock, memory=None, device=device).start()


def rows(prof, *columns, **where):
    return prof.profile.spans.filter(**where).select(columns).rows()


def test_a_device_goes_on_while_the_host_does(clock, device):
    device.launch(500)
    assert (clock(), device.record().at_ns) == (0, 500)
    clock.advance(800)
    device.launch(100)
    assert device.record().at_ns == 900


def test_a_point_that_the_device_has_not_reached_is_refused(clock, device):
    start = device.record()
    device.launch(500)
    end = device.record()
    with pytest.raises(ValueError, match=r"gets there in 500 ns; call synchronize\(\)"):
        device.elapsed_ns(start, end)
    device.synchronize()
    assert (device.elapsed_ns(start, end), clock(), device.synchronizations) == (500, 500, 1)


def test_a_launch_can_cost_the_host_something(clock):
    device = SimulatedDevice(clock, launch_ns=10)
    for _ in range(3):
        device.launch(4)
    assert (clock(), device.record().at_ns) == (30, 34)


def test_the_host_returns_at_once_and_the_device_is_timed_where_it_worked(event, prof, device):
    """The host takes 3 ns for two stages in which the device works for 70 and 30."""
    with event("run", "lab", ns=1):
        with event("stage", "denoise", ns=1):
            device.launch(70)
        with event("stage", "decode", ns=1):
            device.launch(30)
    assert rows(prof, *DEVICE) == [
        ("lab", 0, 3, 0, 102),
        ("denoise", 1, 1, 1, 71),
        ("decode", 2, 1, 72, 30),
    ]
    assert prof.profile.stages()["device_ms"].to_list() == [pytest.approx(71e-6), pytest.approx(30e-6), None]


def test_steps_passes_and_calls_have_device_time_and_spans_of_the_user_have_none(event, prof, device):
    with event("run", "lab"), event("stage", "denoise"), event("step", "step", 0), event("guidance pass", "pred_cond"):
        with event("component call", "transformer.forward"):
            device.launch(40)
        with prof.span("mine"):
            device.launch(2)
    assert [(kind, ns) for kind, ns in rows(prof, "kind", "device_ns")] == [
        ("run", 42),
        ("stage", 42),
        ("step", 42),
        ("guidance pass", 42),
        ("component call", 40),
        ("span", None),
    ]


def test_a_stall_is_the_time_that_compute_stood_still_until_the_copy_arrived(event, prof, device):
    """A copy of 100 ns beside 60 ns of compute: 40 ns of it are seen, though the host saw none of it."""
    with event("run", "lab"), event("stage", "denoise"):
        with device.lane("copy"), event("transfer", "transformer/1", nbytes=4096):
            device.launch(100)
            copied = device.record()
        with event("component call", "transformer.forward"):
            device.launch(60)
        with event("wait", "transformer/1"):
            device.wait(copied)
        with event("component call", "transformer.forward"):
            device.launch(60)
    columns = ("kind", "lane", "host_ns", "device_start_ns", "device_ns", "moved_bytes", "stall_ns")
    assert rows(prof, *columns, parent=1) == [
        ("component call", "host", 0, 0, 60, None, None),
        ("wait", "host", 0, 60, 40, None, 40),
        ("component call", "host", 0, 100, 60, None, None),
    ]
    assert rows(prof, *columns, lane="copy") == [("transfer", "copy", 0, 0, 100, 4096, None)]
    assert rows(prof, "parent", "stage", "component", "block", lane="copy") == [(0, "denoise", "transformer", "1")]
    assert prof.profile.transfers().rows() == [
        ("lab", "denoise", "transformer", 1, 4096, 100e-6, 40.96, 40e-6, 60e-6),
    ]


def test_a_prefetch_carries_the_stage_that_it_serves(event, prof, device):
    with event("run", "lab"), event("stage", "denoise"), event("step", "step", 7):
        with device.lane("copy"), event("transfer", "refiner/0@refine", nbytes=64):
            device.launch(9)
        with event("wait", "transformer"):
            pass
    place = ("kind", "parent", "stage", "registered_name", "component", "block", "step")
    assert rows(prof, *place)[3:] == [
        ("transfer", 0, "refine", "refine", "refiner", "0", None),
        ("wait", 2, "denoise", "denoise", "transformer", None, 7),
    ]


def test_nothing_waits_for_the_device_but_the_start_and_the_end(event, prof, device, clock):
    with event("run", "lab"):
        for step in range(50):
            with event("stage", "denoise"), event("step", "step", step):
                device.launch(10)
    assert (device.synchronizations, clock()) == (1, 0)
    prof.stop()
    assert (device.synchronizations, clock()) == (2, 500)
    assert prof.profile.steps()["device_ms"].sum() == pytest.approx(500e-6)
    assert prof.profile.mean_step_s() == pytest.approx(10e-9)  # the host's clock stood still
    assert device.synchronizations == 2


def test_recording_starts_when_the_device_is_idle_so_that_both_clocks_agree(clock, device):
    device.launch(1_000)
    with Profiler(clock=clock, memory=None, device=device) as prof:
        prof.begin("run", "lab")
        device.launch(5)
        prof.end()
    assert rows(prof, *DEVICE) == [("lab", 0, 0, 0, 5)]


def test_recording_again_goes_on_with_the_device(clock, device, event, prof):
    with event("run", "lab"):
        device.launch(5)
    prof.stop()
    clock.advance(100)
    with prof, event("run", "lab", ns=1):
        device.launch(7)
    assert rows(prof, *DEVICE) == [("lab", 0, 0, 0, 5), ("lab", 105, 1, 105, 8)]


def test_a_span_without_an_end_has_no_device_time(prof, device):
    prof.begin("run", "lab")
    device.launch(5)
    prof.stop()
    assert rows(prof, "device_start_ns", "device_ns", "error") == [(0, None, "unfinished")]


def test_a_thread_that_copies_on_a_queue_of_its_own_is_the_copy_lane(event, prof, device):
    def copy():
        with device.lane("copy"), event("transfer", "vae@decode", nbytes=8):
            device.launch(30)

    with event("run", "lab"), event("stage", "denoise"):
        device.launch(10)
        thread = threading.Thread(target=copy)
        thread.start()
        thread.join()
    assert rows(prof, "lane", "parent", "stage", "device_start_ns", "device_ns", kind="transfer") == [
        ("copy", 0, "decode", 0, 30)
    ]


def test_the_device_is_named_in_the_meta(prof):
    assert prof.stop().meta["device"] == {"kind": "simulated", "memory_bytes": None}


WORK = st.lists(
    st.tuples(
        st.sampled_from(["launch", "copy", "wait", "begin", "end", "host"]),
        st.integers(0, 10**9),
    ),
    max_size=60,
)


@given(WORK)
def test_any_nesting_with_copies_keeps_the_accounts_of_every_lane(work):
    """`conftest` checks the invariants of the profile; here, that each lane's time is what was launched on it."""
    clock = FakeClock()
    device = SimulatedDevice(clock)
    copied, stalled_ns, depth = device.record(), 0, 0
    with Profiler(clock=clock, memory=None, device=device) as prof:
        prof.begin("run", "lab")
        for what, ns in work:
            if what == "launch":
                device.launch(ns)
            elif what == "host":
                clock.advance(ns)
            elif what == "copy":
                with device.lane("copy"):
                    prof.begin("transfer", "vae", -1, ns)
                    device.launch(ns)
                    copied = device.record()
                    prof.end()
            elif what == "wait":
                stalled_ns += max(0, copied.at_ns - device.record().at_ns)
                prof.begin("wait", "vae")
                device.wait(copied)
                prof.end()
            elif what == "begin":
                prof.begin(("stage", "step", "guidance pass")[min(depth, 2)], f"s{depth}", 0)
                depth += 1
            elif depth:
                prof.end()
                depth -= 1
        for _ in range(depth + 1):
            prof.end()
    spans = prof.profile.spans
    assert spans.filter(kind="wait")["stall_ns"].sum() == stalled_ns
    copies = spans.filter(lane="copy")
    assert (
        copies["device_ns"].to_list() == [ns for what, ns in work if what == "copy"] == copies["moved_bytes"].to_list()
    )
    assert set(copies["parent"]) <= {0}
    assert prof.profile.transfers()["moved_bytes"].sum() == copies["moved_bytes"].sum()
