"""The accounts: what moved, what is left over, and what recording cost."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.profiler import Profile, Profiler, spans_frame
from reslab.profiler.testing import FakeClock


def test_a_copy_that_the_host_makes_itself_hides_nothing(event, prof):
    with event("run", "lab"), event("stage", "decode"), event("transfer", "vae", nbytes=8_000_000, ns=2_000_000):
        pass
    assert prof.profile.transfers().rows() == [("lab", "decode", "vae", 1, 8_000_000, 2.0, 4.0, 2.0, 0.0)]


def test_blocks_and_repeats_are_summed_by_component_and_stage(event, prof):
    with event("run", "lab"), event("stage", "denoise"):
        for block in range(3):
            with event("transfer", f"transformer/{block}", nbytes=1_000, ns=1_000):
                pass
        with event("transfer", "refiner/0@refine", nbytes=500, ns=0):
            pass
    columns = ("stage", "component", "calls", "moved_bytes", "gb_per_s")
    assert prof.profile.transfers().select(columns).rows() == [
        ("denoise", "transformer", 3, 3_000, 1.0),
        ("refine", "refiner", 1, 500, None),
    ]


def test_what_is_left_over_is_said_at_every_level_that_has_something_inside(event, prof):
    with event("run", "lab", ns=1_000_000):
        with event("stage", "encode", ns=5_000_000):
            pass
        with event("stage", "denoise", ns=2_000_000):  # noqa: SIM117
            with event("step", "step", 0, ns=3_000_000), event("guidance pass", "pred_cond", ns=4_000_000):
                pass
    assert prof.profile.unattributed().rows() == [
        ("lab", None, "run", 1, 15.0, 1.0, pytest.approx(1 / 15)),
        ("lab", "denoise", "stage", 1, 9.0, 2.0, pytest.approx(2 / 9)),
        ("lab", "denoise", "step", 1, 7.0, 3.0, pytest.approx(3 / 7)),
    ]


def test_a_profile_reports_what_recording_it_cost(tmp_path):
    with Profiler() as prof:
        prof.begin("run", "lab")
        for _ in range(100):
            with prof.span("mine"):
                pass
        prof.end()
    costs = prof.profile.meta["overhead"]
    table = prof.profile.overhead()
    assert table.select("kind", "spans", "each_ns").rows() == [
        ("run", 1, costs["border_ns"]),
        ("span", 100, costs["span_ns"]),
    ]
    assert 0 < costs["span_ns"] < costs["border_ns"]
    assert table["overhead_ms"].to_list() == pytest.approx([costs["border_ns"] / 1e6, costs["span_ns"] / 1e4])
    prof.profile.save(tmp_path / "run.parquet")
    assert Profile.load(tmp_path / "run.parquet").overhead().equals(table)


def test_costs_are_null_where_they_were_not_measured(event, prof):
    with event("run", "lab", ns=5):
        pass
    assert prof.profile.overhead().rows() == [("run", 1, None, None, None)]


def test_costs_are_measured_once_and_not_while_recording(clock, monkeypatch):
    from reslab.profiler._record import _profiler

    asked = []
    monkeypatch.setattr(_profiler, "measure_costs", lambda **_: asked.append(0) or {"span_ns": 1.0})
    prof = Profiler(memory=None)
    for _ in range(3):
        with prof, prof.span("mine"):
            pass
    with Profiler(clock=clock):
        pass
    assert len(asked) == 1
    assert prof.profile.overhead()["spans"].to_list() == [3]


LEVELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**9)), max_size=30)


@given(LEVELS)
def test_what_is_left_over_and_what_has_nothing_inside_add_up_to_the_run(work):
    """Whatever the nesting: each nanosecond of a run is in one span's own time, and each span's own time is counted."""
    clock, depth = FakeClock(), 0
    with Profiler(clock=clock, memory=None) as prof:
        prof.begin("run", "lab")
        for level, ns in work:
            for _ in range(depth - level):
                prof.end()
            depth = min(depth, level)
            prof.begin(("stage", "step", "guidance pass", "component call")[depth], "x", 0)
            depth += 1
            clock.advance(ns)
        for _ in range(depth + 1):
            prof.end()
    spans = prof.profile.spans
    childless = spans.join(spans.select(span="parent"), on="span", how="anti").filter(pl.col("kind") != "run")
    left_ns = prof.profile.unattributed()["unattributed_ms"].sum() * 1e6
    assert left_ns + childless["host_ns"].sum() == pytest.approx(sum(ns for _, ns in work))


def test_an_empty_profile_has_empty_accounts():
    profile = Profile(spans=spans_frame())
    assert [view().height for view in (profile.transfers, profile.peaks, profile.unattributed, profile.overhead)] == [
        0
    ] * 4
