"""To take elsewhere: Chrome traces by another's reader, ranges in torch's profiler, a line for a log, Arrow."""

import json
from contextlib import suppress

import chrometrace
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.profiler import Profile, Profiler, memory_frame, spans_frame, torch_ranges
from reslab.profiler.testing import FakeClock
from reslab.profiler.toy import Toy
from reslab.stages import Pipeline, Stage


def read(profile, tmp_path):
    """The events of an exported trace, as a reader that is not ours understands them."""
    profile.export_chrome_trace(tmp_path / "run.json")
    trace = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    events = [chrometrace.TraceEvent.from_dict(event) for event in trace["traceEvents"]]  # refuses unknown fields
    assert all(chrometrace.TraceEventType(event.event_type) for event in events)
    return events


def tracks(events):
    """The slices by the name of their track."""
    metadata = [event for event in events if event.event_type == "M" and event.name == "thread_name"]
    names = {event.thread_id: event.args["name"] for event in metadata}
    slices = {name: [] for name in names.values()}
    for event in events:
        if event.event_type == "X":
            slices[names[event.thread_id]].append((event.name, event.timestamp_us, event.duration_us))
    return slices


def lay(*rows):
    """A profile of rows (lane, kind, name, start, host time, device start, device time), all in one run."""
    names = ("lane", "kind", "name", "start_ns", "host_ns", "device_start_ns", "device_ns")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return Profile(spans=spans_frame(span=range(len(rows)), run=[0] * len(rows), **columns))


def test_a_trace_has_a_track_a_lane_in_microseconds(tmp_path):
    profile = lay(
        ("host", "run", "lab", 0, 9_000, None, None),
        ("host", "component call", "vae.decode", 1_000, 500, 1_250, 4_000),
        ("copy", "transfer", "vae/3", 1_100, 200, 2_000, 3_001),
        ("host", "wait", "vae/3", 6_000, 750, None, None),
    )
    assert tracks(read(profile, tmp_path)) == {
        "host": [("lab", 0, 9), ("vae.decode", 1, 0.5)],
        "compute": [("vae.decode", 1.25, 4)],
        "copy": [("vae/3", 2, 3.001)],
        "stall": [("vae/3", 6, 0.75)],
    }


def test_spans_that_overlap_without_nesting_get_a_further_track(tmp_path):
    starts = (0, 5, 6, 12, 14)
    profile = lay(*(("copy", "transfer", f"vae/{n}", start, 8, None, None) for n, start in enumerate(starts)))
    assert {name: [slice_[0] for slice_ in slices] for name, slices in tracks(read(profile, tmp_path)).items()} == {
        "copy": ["vae/0", "vae/3"],
        "copy 2": ["vae/1", "vae/4"],
        "copy 3": ["vae/2"],
    }


def test_a_stage_goes_by_its_profile_name_and_carries_its_coordinates(event, prof, tmp_path):
    with suppress(RuntimeError), event("run", "lab", ns=3), event("stage", "denoise"), event("step", "step", 4, ns=7):
        raise RuntimeError
    slices = [event for event in read(prof.profile, tmp_path) if event.event_type == "X"]
    assert [(event.name, event.categories, event.args.get("step")) for event in slices] == [
        ("lab", "run", None),
        ("denoise", "stage", None),
        ("step", "step", 4),
    ]
    assert slices[1].args == {"stage": "denoise", "registered_name": "denoise", "error": "RuntimeError"}


def test_memory_is_counters_by_pool_and_by_component(tmp_path):
    memory = memory_frame(
        at_ns=[0, 1_000, 2_000, 3_000],
        pool=["device"] * 4,
        component=[None, "vae", "transformer", "vae"],
        allocated_bytes=[50, 10, 30, 0],
    )
    counters = [
        event for event in read(Profile(spans=spans_frame(), memory=memory), tmp_path) if event.event_type == "C"
    ]
    assert [(event.timestamp_us, event.args) for event in counters] == [
        (0, {"allocated": 50}),
        (1, {"vae": 10}),
        (2, {"vae": 10, "transformer": 30}),
        (3, {"vae": 0, "transformer": 30}),
    ]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=25))
def test_no_slice_of_a_track_overlaps_another_without_lying_inside_it(tmp_path_factory, times):
    rows = [("copy", "transfer", "vae", start, took, None, None) for start, took in times]
    events = tracks(read(lay(*rows) if rows else Profile(spans=spans_frame()), tmp_path_factory.mktemp("trace")))
    assert sum(map(len, events.values())) == len(times)
    for slices in events.values():
        spans = [(round(start * 1000), round((start + took) * 1000)) for _, start, took in slices]
        pairs = [(a, b) for n, a in enumerate(spans) for b in spans[n + 1 :]]
        assert all(a[1] <= b[0] or b[1] <= a[1] for a, b in pairs)


def test_torch_sees_ranges_under_the_profile_names():
    torch = pytest.importorskip("torch")

    class Add(Stage):
        def run(self):
            torch.ones(2) + torch.ones(2)

    pipeline = Pipeline(name="lab").add(Add(), name="decode").add(Add(), name="again")
    pipeline.stages["again"].set_profile_name("Decode again")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as operators, torch_ranges(pipeline):
        pipeline.run()
    counts = {event.key: event.count for event in operators.key_averages()}
    assert [counts.get(name) for name in ("lab", "decode", "Decode again", "again")] == [1, 1, 1, None]
    inside = [event for event in operators.events() if event.name == "aten::add"]
    assert [event.cpu_parent.name for event in inside] == ["decode", "Decode again"]


def test_ranges_are_closed_when_a_stage_raises_and_gone_afterwards():
    torch = pytest.importorskip("torch")

    class Fail(Stage):
        def run(self):
            raise RuntimeError

    pipeline = Pipeline(name="lab").add(Fail(), name="fail")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as operators:
        with torch_ranges(pipeline), suppress(RuntimeError):
            pipeline.run()
        with suppress(RuntimeError):
            pipeline.run()
        torch.ones(2)
    assert {event.key: event.count for event in operators.key_averages()}["fail"] == 1
    assert [event.cpu_parent for event in operators.events() if event.name == "aten::ones"] == [None]


def test_the_summary_is_one_line_with_the_longest_the_rest_and_the_peak(event, prof, memory):
    with suppress(RuntimeError), event("run", "lab", ns=10_000_000):
        for name, ns in (("a", 1), ("b", 40), ("c", 2), ("d", 30), ("e", 17)):
            with event("stage", name, ns=ns * 1_000_000):
                memory.allocate(ns * 2**20)
        raise RuntimeError
    assert prof.profile.summary() == (
        "lab: 100 ms; b 40 %, d 30 %, e 17 %, 2 more 3 %, unattributed 10 % | device memory peaked at 90 MiB"
    )


def test_the_summary_counts_runs_failures_and_named_spans(prof, event, clock):
    with prof.span("load"):
        clock.advance(5_000)
    for _ in range(2):
        with suppress(RuntimeError), event("run", "lab"), event("stage", "a", ns=1_000):
            raise RuntimeError
    profile = Profile(spans=prof.profile.spans)
    assert profile.summary() == "lab: 2 µs in 2 runs; a 100 %, unattributed 0 %; 2 failed | load 5 µs"
    assert Profile(spans=spans_frame()).summary() == "nothing was recorded"


def test_whoever_reads_arrow_reads_a_profile():
    with Profiler(clock=(clock := FakeClock()), memory=None) as prof, prof.span("load"):
        clock.advance(7)

    class Foreign:
        """Knows nothing of profiles but that they are Arrow."""

        def __arrow_c_stream__(self, requested_schema=None):
            return prof.profile.__arrow_c_stream__(requested_schema)

    assert pl.DataFrame(Foreign()).equals(prof.profile.spans)
    assert pl.DataFrame(prof.profile).select("name", "host_ns").rows() == [("load", 7)]


def test_the_summary_says_what_the_device_was_busy_with_where_it_was_timed():
    assert Toy().profile(steps=4).summary() == (
        "toy: 170 ms; on the device denoise 71 %, decode 18 %, encode 12 %, unattributed 0 % | "
        "device memory peaked at 17 GiB"
    )
