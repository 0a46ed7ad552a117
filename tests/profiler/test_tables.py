"""The views: named columns, pipeline order, sums by hand, and nothing unaccounted for."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.profiler import Profile, Profiler, spans_frame
from reslab.profiler._model import _resource_tables, _tables
from reslab.profiler._record import _overhead
from reslab.profiler.testing import FakeClock


@pytest.fixture
def two_runs(event, prof):
    """Two runs of decode after encode; the second encode and one decode are slower; 1 ms a run is in no stage."""
    for slower in (0, 1_000_000):
        with event("run", "lab", ns=1_000_000):
            with event("stage", "encode", ns=2_000_000 + slower):
                pass
            with event("stage", "decode", ns=4_000_000):
                for step in range(2):
                    with event("step", "step", step, ns=500_000 * step):
                        for name in ("pred_cond", "pred_uncond"):
                            with event("guidance pass", name), event("component call", "vae.decode", ns=1_000):
                                pass
    return prof.profile


def test_stages_come_in_the_order_of_running_and_end_with_what_no_stage_accounts_for(two_runs):
    table = two_runs.stages()
    assert table.select("pipeline", "stage", "calls", "host_ms", "mean_ms").rows() == [
        ("lab", "encode", 2, 5.0, 2.5),
        ("lab", "decode", 2, 9.008, 4.504),
        ("lab", "unattributed", 2, 2.0, 1.0),
    ]
    assert table["share"].to_list() == pytest.approx([5 / 16.008, 9.008 / 16.008, 2 / 16.008])


def test_sorting_a_view_sorts_it_as_the_pipeline_ran(two_runs):
    assert two_runs.stages().sort("stage", descending=True)["stage"].to_list() == ["unattributed", "decode", "encode"]


@pytest.mark.parametrize(
    ("module", "view"),
    [
        *((_tables, view) for view in ("stages", "steps", "passes", "components", "named")),
        *((_resource_tables, view) for view in ("transfers", "peaks", "unattributed")),
        (_overhead, "overhead"),
    ],
)
def test_each_view_has_its_declared_columns_also_when_empty(two_runs, module, view):
    schema = getattr(module, view.upper())
    for profile in (two_runs, Profile(spans=spans_frame())):
        table = getattr(profile, view)()
        assert table.columns == list(schema)
        assert all(table.schema[name] == dtype for name, dtype in schema.items())


def test_steps_passes_and_components_are_rows_with_calls_and_sums(two_runs):
    assert two_runs.steps().drop("device_ms").rows() == [
        ("lab", "decode", 0, 2, 0.004, 0.002),
        ("lab", "decode", 1, 2, 1.004, 0.502),
    ]
    assert two_runs.passes().drop("device_ms").rows() == [
        ("lab", "decode", "pred_cond", 4, 0.004, 0.001),
        ("lab", "decode", "pred_uncond", 4, 0.004, 0.001),
    ]
    assert two_runs.components().rows() == [("lab", "decode", "vae.decode", 8, 0.008, 0.001, None)]


def test_the_mean_step_is_over_all_steps_of_all_runs_in_seconds(two_runs):
    assert two_runs.mean_step_s() == pytest.approx((0.004 + 1.004) / 4 / 1e3)


def test_the_mean_step_of_a_profile_without_steps_is_an_error():
    with pytest.raises(ValueError, match="no denoising step was recorded"):
        Profile(spans=spans_frame()).mean_step_s()


def test_named_spans_have_a_view_of_their_own(prof, clock):
    for ns in (1_000_000, 3_000_000):
        with prof.span("load"):
            clock.advance(ns)
    assert prof.profile.named().rows() == [("load", 2, 4.0, 2.0, 0)]


def test_a_pipeline_inside_anothers_stage_has_rows_and_unattributed_time_of_its_own(event, prof):
    with event("run", "outer", ns=1_000_000), event("stage", "both", ns=2_000_000), event("run", "inner", ns=3_000_000):  # noqa: SIM117
        with event("stage", "both", ns=4_000_000):
            pass
    assert prof.profile.stages().select("pipeline", "stage", "calls", "host_ms").rows() == [
        ("outer", "both", 1, 9.0),
        ("outer", "unattributed", 1, 1.0),
        ("inner", "both", 1, 4.0),
        ("inner", "unattributed", 1, 3.0),
    ]


def test_a_failed_stage_is_counted_as_an_error(event, prof):
    with pytest.raises(RuntimeError), event("run", "lab"), event("stage", "denoise", ns=1):
        raise RuntimeError
    assert prof.profile.stages().select("stage", "errors").rows() == [("denoise", 1), ("unattributed", 0)]


STAGES = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=12)


@given(st.lists(STAGES, min_size=1, max_size=3))
def test_stages_and_unattributed_always_sum_to_the_runs(runs):
    clock = FakeClock()
    with Profiler(clock=clock, memory=None) as prof:
        for stages in runs:
            prof.begin("run", "lab")
            for name, inside_ns, after_ns in stages:
                prof.begin("stage", name)
                clock.advance(inside_ns)
                prof.end()
                clock.advance(after_ns)
            prof.end()
    table = prof.profile.stages()
    by_hand = sum(inside_ns + after_ns for stages in runs for _, inside_ns, after_ns in stages)
    assert (table["host_ms"] * 1e6).round().sum() == by_hand
    assert table.filter(pl.col("stage") != "unattributed")["calls"].sum() == sum(map(len, runs))
