"""What is recorded: every bracket a row, in its place, with exact times, whatever ends it."""

import threading

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.profiler import Profiler, Reading
from reslab.profiler.testing import FakeClock


def rows(prof, *columns):
    return prof.profile.spans.select(columns).rows()


def test_times_are_counted_from_the_start_of_the_record():
    clock = FakeClock(start_ns=5_000)
    prof = Profiler(clock=clock, memory=None)
    clock.advance(100)
    with prof:
        clock.advance(7)
        with prof.span("load"):
            clock.advance(30)
    assert rows(prof, "name", "start_ns", "host_ns") == [("load", 7, 30)]


def test_spans_nest_and_repeats_stay_rows_of_their_own(prof, clock):
    for _ in range(2):
        with prof.span("outer"):
            clock.advance(1)
            with prof.span("inner"):
                clock.advance(10)
    assert rows(prof, "span", "parent", "name", "start_ns", "host_ns") == [
        (0, None, "outer", 0, 11),
        (1, 0, "inner", 1, 10),
        (2, None, "outer", 11, 11),
        (3, 2, "inner", 12, 10),
    ]


def test_every_span_knows_its_stage_step_pass_and_component(event, prof):
    with (
        event("run", "lab"),
        event("stage", "denoise"),
        event("step", "step", 3),
        event("guidance pass", "pred_uncond", 1),
        event("component call", "transformer.forward"),
        event("transfer", "transformer/7", nbytes=4096, ns=5),
    ):
        pass
    last = prof.profile.spans.row(-1, named=True)
    given = {name: value for name, value in last.items() if value is not None}
    assert given == {
        "run": 0,
        "span": 5,
        "parent": 4,
        "kind": "transfer",
        "lane": "host",
        "name": "transformer/7",
        "stage": "denoise",
        "registered_name": "denoise",
        "component": "transformer",
        "block": "7",
        "step": 3,
        "guidance_pass": "pred_uncond",
        "start_ns": 0,
        "host_ns": 5,
        "moved_bytes": 4096,
    }


def test_a_wait_says_how_long_it_stalled(event, prof):
    with event("run", "lab"), event("wait", "transformer/7", ns=40):
        pass
    assert rows(prof, "kind", "stall_ns") == [("run", None), ("wait", 40)]


def test_a_stage_that_raises_is_a_row_with_its_error_and_keeps_no_frames(event, prof):
    with pytest.raises(KeyboardInterrupt), event("run", "lab"):  # noqa: SIM117  # which of the two is left first matters
        with event("stage", "denoise", ns=9):
            raise KeyboardInterrupt("secret prompt")
    with event("run", "lab"), event("stage", "denoise", ns=1):
        pass
    assert rows(prof, "name", "host_ns", "error") == [
        ("lab", 9, "KeyboardInterrupt"),
        ("denoise", 9, "KeyboardInterrupt"),
        ("lab", 1, None),
        ("denoise", 1, None),
    ]
    assert not [slot for log in prof._recorder.logs() for slot in log if isinstance(slot, BaseException)]


def test_what_is_open_when_recording_stops_is_closed_there_and_said_to_be_unfinished(prof, clock):
    prof.begin("run", "lab")
    clock.advance(8)
    prof.begin("stage", "denoise")
    clock.advance(2)
    prof.stop()
    assert rows(prof, "name", "host_ns", "error") == [("lab", 10, "unfinished"), ("denoise", 2, "unfinished")]


def test_an_end_without_a_beginning_is_passed_over(prof, event):
    prof.end()
    with event("run", "lab", ns=4):
        pass
    assert rows(prof, "name", "host_ns") == [("lab", 4)]


def test_the_profile_of_a_recording_under_way_is_a_picture_of_that_moment(prof, clock):
    with prof.span("load"):
        clock.advance(3)
        assert rows(prof, "host_ns", "error") == [(3, "unfinished")]
        clock.advance(4)
    assert rows(prof, "host_ns", "error") == [(7, None)]


def test_start_after_stop_goes_on_in_the_same_record(prof, clock):
    with prof.span("a"):
        clock.advance(1)
    first = prof.stop()
    clock.advance(100)
    with prof.span("not recorded"):
        clock.advance(1)
    with prof, prof.span("b"):
        clock.advance(2)
    assert first.spans.height == 1
    assert rows(prof, "name", "start_ns", "host_ns") == [("a", 0, 1), ("b", 102, 2)]


def test_starting_twice_is_an_error_that_says_what_to_do(prof):
    with pytest.raises(ValueError, match=r"call stop\(\) before start\(\)"):
        prof.start()


def test_a_stages_memory_is_its_own_and_a_parents_peak_is_the_highest_of_all(prof, event, memory):
    with event("run", "lab"):
        memory.allocate(100)
        with event("stage", "encode"):
            memory.allocate(50)
            memory.allocate(-50)
        memory.allocate(300)
        memory.allocate(-380)
        with event("stage", "decode"):
            memory.allocate(5)
    columns = [f"allocated_{when}_bytes" for when in ("before", "after", "peak")]
    assert rows(prof, "name", *columns) == [
        ("lab", 0, 25, 400),
        ("encode", 100, 100, 150),
        ("decode", 20, 25, 25),
    ]
    assert prof.profile.memory["allocated_bytes"].to_list() == [0, 100, 100, 20, 25, 25]
    assert prof.profile.memory["peak_bytes"].to_list() == [0, 100, 150, 400, 25, 25]


def test_reading_memory_is_not_part_of_a_stage():
    clock = FakeClock()

    class Slow:
        pool = "device"

        def read(self):
            clock.advance(1_000)
            return Reading(1, 1)

    prof = Profiler(clock=clock, memory=Slow()).start()
    prof.begin("run", "lab")
    prof.begin("stage", "decode")
    clock.advance(3)
    prof.end()
    prof.end()
    assert rows(prof, "name", "host_ns") == [("lab", 2_003), ("decode", 3)]


def test_copies_of_another_thread_are_the_copy_lane_of_the_running_stage(prof, event, clock):
    def copy():
        prof.begin("transfer", "transformer/8", -1, 64)
        clock.advance(20)
        prof.end()

    with event("run", "lab"), event("stage", "denoise", ns=5):
        thread = threading.Thread(target=copy)
        thread.start()
        thread.join()
    copied = prof.profile.spans.row(-1, named=True)
    assert (copied["lane"], copied["parent"], copied["run"], copied["stage"]) == ("copy", 0, 0, "denoise")
    assert (copied["component"], copied["block"], copied["moved_bytes"], copied["host_ns"]) == (
        "transformer",
        "8",
        64,
        20,
    )


def test_the_host_lane_is_the_thread_that_runs_whoever_was_first(prof, event):
    def within(thread_body):
        thread = threading.Thread(target=thread_body)
        thread.start()
        thread.join()

    def copy():
        with event("transfer", "vae", nbytes=8, ns=3):
            pass

    def run():
        with event("run", "lab"), event("stage", "decode", ns=1):
            within(copy)

    within(copy)
    within(run)
    assert rows(prof, "name", "lane", "parent", "stage", "start_ns") == [
        ("lab", "host", None, None, 3),
        ("decode", "host", 0, "decode", 3),
        ("vae", "copy", None, None, 0),
        ("vae", "copy", 0, "decode", 4),
    ]


def test_a_copy_outside_any_run_hangs_under_nothing(prof, event, clock):
    with event("run", "lab", ns=5):
        pass
    clock.advance(1)
    thread = threading.Thread(target=lambda: (prof.begin("transfer", "vae", -1, 64), prof.end()))
    thread.start()
    thread.join()
    assert rows(prof, "name", "lane", "parent", "run") == [("lab", "host", None, 0), ("vae", "copy", None, None)]


def test_each_thread_has_brackets_of_its_own(prof, clock):
    def other():
        with prof.span("there"):
            clock.advance(2)

    with prof.span("here"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert rows(prof, "name", "parent", "lane", "host_ns") == [("here", None, "host", 2), ("there", None, "host", 2)]


TREES = st.recursive(
    st.tuples(st.integers(0, 10**9), st.just([])),
    lambda children: st.tuples(st.integers(0, 10**9), st.lists(children, max_size=4)),
    max_leaves=30,
)


def play(prof, clock, tree, expected):
    """Record a tree of spans; return its time, and note down what each span must say."""
    own_ns, children = tree
    place, start_ns = len(expected), clock.now_ns
    expected.append(None)
    with prof.span(f"s{place}"):
        clock.advance(own_ns)
        host_ns = own_ns + sum(play(prof, clock, child, expected) for child in children)
    expected[place] = (f"s{place}", start_ns, host_ns)
    return host_ns


@given(st.lists(TREES, max_size=4))
def test_any_nesting_keeps_every_span_with_its_exact_time(trees):
    clock, expected = FakeClock(), []
    with Profiler(clock=clock, memory=None) as prof:
        for tree in trees:
            play(prof, clock, tree, expected)
    assert rows(prof, "name", "start_ns", "host_ns") == expected


@given(st.lists(st.sampled_from(["run", "stage", "step", "end"]), max_size=40))
def test_no_sequence_of_events_is_lost_or_refused(events):
    clock = FakeClock(tick_ns=1)
    with Profiler(clock=clock) as prof:
        for event in events:
            prof.end() if event == "end" else prof.begin(event, "x", 0)
    begun = [event for event in events if event != "end"]
    assert prof.profile.spans["kind"].cast(pl.String).to_list() == begun


def test_the_repr_says_what_the_profiler_is_doing(prof):
    assert repr(Profiler()) == "Profiler(not started)"
    assert repr(prof) == "Profiler(recording)"
    prof.stop()
    assert repr(prof) == "Profiler(stopped)"
