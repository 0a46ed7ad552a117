"""Comparing: medians and noise bands by hand, both directions, worst first, and unequal work refused."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.profiler import Change, Profile, Profiler, UnequalWorkError, compare
from reslab.profiler._compare._shift import shift_interval
from reslab.profiler.testing import FakeClock
from reslab.profiler.toy import Toy
from reslab.stages import Pipeline, Stage


def record(*runs, name="lab", outside_ns=0):
    """A profile of these runs, each a mapping from stage to nanoseconds or to a list of them, one a call."""
    clock = FakeClock()
    with Profiler(clock=clock, memory=None) as prof:
        for stages in runs:
            prof.begin("run", name)
            clock.advance(outside_ns)
            for stage, times in stages.items():
                for ns in times if isinstance(times, list) else [times]:
                    prof.begin("stage", stage)
                    clock.advance(ns)
                    prof.end()
            prof.end()
    return prof.profile


def rows(comparison, *columns):
    return comparison.stages.select("stage", *columns).rows()


FOUR = [100_000, 101_000, 102_000, 103_000]


def test_medians_difference_and_band_are_those_worked_out_by_hand():
    before = record(*({"encode": 1_000_000, "decode": ns} for ns in (100_000, 110_000, 120_000, 150_000)))
    after = record(*({"encode": 1_000_000, "decode": ns} for ns in (200_000, 210_000, 220_000, 230_000)))
    worst = compare(before, after).stages.row(0, named=True)
    assert worst["stage"] == "decode"
    assert (worst["a_ms"], worst["b_ms"]) == (0.115, 0.215)
    assert worst["difference_ms"] == pytest.approx(0.1)
    assert worst["relative"] == pytest.approx(100 / 115)
    assert (worst["low_ms"], worst["high_ms"]) == (0.05, 0.13)  # 200 - 150 and 230 - 100: all 16 differences
    assert worst["coverage"] == pytest.approx(1 - 2 / 70)  # all of one side above the other: 2 of the 70 orders
    assert (worst["a_runs"], worst["b_runs"], worst["change"]) == (4, 4, "slower")


def test_both_directions_are_found_and_the_largest_difference_comes_first():
    before = record(*({"encode": ns, "denoise": 10 * ns, "decode": ns} for ns in FOUR))
    after = record(*({"encode": 2 * ns, "denoise": 5 * ns, "decode": ns} for ns in FOUR))
    comparison = compare(before, after)
    changes = [("denoise", "faster"), ("encode", "slower"), ("decode", "same"), ("unattributed", "same")]
    assert rows(comparison, "change") == changes
    assert comparison.runs["change"].to_list() == ["faster"]
    assert not comparison.agrees


def test_a_difference_within_noise_is_no_difference():
    before = record(*({"decode": ns} for ns in (100, 120, 140, 160, 180)))
    after = record(*({"decode": ns} for ns in (110, 130, 150, 170, 190)))
    comparison = compare(before, after)
    assert rows(comparison, "change") == [("decode", "same"), ("unattributed", "same")]
    assert comparison.agrees


def test_a_sure_difference_within_the_tolerance_is_no_difference():
    before, after = record(*[{"decode": 100}] * 4), record(*[{"decode": 104}] * 4)
    assert rows(compare(before, after), "change")[0] == ("decode", "same")
    assert rows(compare(before, after, tolerance=0.03), "change")[0] == ("decode", "slower")


def test_a_stage_that_is_a_thousandth_of_the_run_may_double():
    before = record(*[{"decode": 1_000_000, "tidy": 500}] * 4)
    after = record(*[{"decode": 1_000_000, "tidy": 1_000}] * 4)
    assert ("tidy", "same") in rows(compare(before, after), "change")


def test_too_few_repeats_are_said_to_be_too_few():
    comparison = compare(record({"decode": 100}), record({"decode": 200}))
    worst = comparison.stages.row(0, named=True)
    assert (worst["change"], worst["coverage"], worst["relative"]) == ("unsure", 0, 1.0)
    assert "too few repeats" in comparison.bars().caption
    three = [{"decode": ns} for ns in (100, 101, 102)]
    assert compare(record(*three), record(*three)).stages["coverage"].to_list() == pytest.approx([0.9, 0.9])


def test_a_stage_that_runs_twice_in_a_run_is_compared_by_its_sum():
    comparison = compare(record(*[{"decode": [40, 60]}] * 4), record(*[{"decode": [60, 90]}] * 4))
    assert rows(comparison, "a_ms", "b_ms", "change")[0] == ("decode", 0.0001, 0.00015, "slower")


def test_profiles_of_one_run_each_are_a_set_of_repeats():
    several = compare([record({"decode": ns}) for ns in FOUR], [record({"decode": 2 * ns}) for ns in FOUR])
    one = compare(record(*({"decode": ns} for ns in FOUR)), record(*({"decode": 2 * ns} for ns in FOUR)))
    assert several == one


def test_what_no_stage_accounts_for_is_compared_too():
    comparison = compare(record(*[{"decode": 100}] * 4), record(*[{"decode": 100}] * 4, outside_ns=50))
    assert rows(comparison, "b_ms", "change")[0] == ("unattributed", 0.00005, "slower")


def test_a_saved_set_of_repeats_is_a_baseline(tmp_path):
    record(*({"decode": ns} for ns in FOUR)).save(tmp_path / "baseline.parquet")
    baseline = Profile.load(tmp_path / "baseline.parquet")
    assert compare(baseline, record(*({"decode": ns} for ns in FOUR))).agrees
    assert not compare(baseline, record(*({"decode": 2 * ns} for ns in FOUR))).agrees
    assert not compare(baseline, record(*({"decode": ns // 2} for ns in FOUR))).agrees


def test_a_baseline_that_does_not_add_up_is_said_so():
    def steps(ns):
        clock = FakeClock()
        with Profiler(clock=clock, memory=None) as prof:
            prof.begin("run", "lab"), prof.begin("stage", "denoise"), prof.begin("step", "step", 0)
            clock.advance(100)
            prof.end(), prof.end(), prof.end()
        return prof.profile, prof.profile.spans.with_columns(
            host_ns=pl.when(pl.col("kind") == "step").then(pl.lit(ns, pl.Int64)).otherwise("host_ns")
        )

    profile, edited = steps(ns=120)
    sound = compare(profile, profile)
    assert sound.remarks == ()
    broken = Profile.__new__(Profile)  # the fixture `invariants` would refuse to make it
    for name, value in (("spans", edited), ("memory", profile.memory), ("meta", profile.meta)):
        object.__setattr__(broken, name, value)
    remark = "baseline does not add up: the steps of 'denoise' sum to 120 ns, more than its 100 ns"
    assert compare(broken, profile, labels=("baseline", "today")).remarks == (remark,)


def test_a_stage_on_one_side_only_is_said_and_needs_leave():
    before, after = record(*[{"encode": 100, "tidy": 30}] * 4), record(*[{"encode": 100, "upsample": 50}] * 4)
    with pytest.raises(UnequalWorkError, match=r"only a runs tidy; only b runs upsample.*unequal_work=True"):
        compare(before, after)
    comparison = compare(before, after, unequal_work=True)
    assert rows(comparison, "change", "relative")[:2] == [("upsample", "new", None), ("tidy", "gone", None)]
    assert comparison.remarks == ("not the same work: only a runs tidy; only b runs upsample",)


def test_unequal_requests_are_refused_with_what_differs():
    class Read(Stage):
        def run(self, width, seed):
            pass

    def at(width):
        pipeline = Pipeline(name="lab").add(Read(), name="read")
        with Profiler(pipeline, clock=FakeClock(), memory=None) as prof:
            pipeline.run(width=width, seed=width)
        return prof.profile

    compare(at(64), at(64))
    with pytest.raises(UnequalWorkError, match="width is 64 in yesterday and 128 in today"):
        compare(at(64), at(128), labels=("yesterday", "today"))


def test_other_numbers_of_steps_are_unequal_work():
    def made(steps):
        with Profiler(clock=FakeClock(), memory=None) as prof:
            prof.begin("run", "lab"), prof.begin("stage", "denoise")
            for step in range(steps):
                prof.begin("step", "step", step), prof.end()
            prof.end(), prof.end()
        return prof.profile

    with pytest.raises(UnequalWorkError, match="denoise makes 8 steps in a and 30 in b"):
        compare(made(8), made(30))


def test_work_that_is_not_known_is_not_taken_for_equal():
    profile = record({"decode": 1})
    unknown = Profile(spans=profile.spans)
    with pytest.raises(UnequalWorkError, match="no work is known for b"):
        compare(profile, unknown)


def test_a_run_that_failed_is_left_out_and_that_is_said():
    clock = FakeClock()
    prof = Profiler(clock=clock, memory=None).start()
    for ns, error in ((100, None), (7, RuntimeError())):
        prof.begin("run", "lab"), prof.begin("stage", "decode"), clock.advance(ns), prof.end(error), prof.end(error)
    comparison = compare(prof.stop(), record({"decode": 100}))
    assert comparison.stages["a_runs"].to_list() == [1, 1]
    assert comparison.remarks == ("1 of the runs of a raised an error and are left out",)


def test_sides_without_a_run_or_without_such_times_are_refused():
    profile = record({"decode": 1})
    with pytest.raises(ValueError, match="b has no finished run"):
        compare(profile, Profile(spans=profile.spans.clear(), meta=profile.meta))
    with pytest.raises(ValueError, match="a has no stage with a device_ns"):
        compare(profile, profile, time="device_ns")
    with pytest.raises(ValueError, match="time is one of 'host_ns', 'device_ns'; got 'gpu_ns'"):
        compare(profile, profile, time="gpu_ns")


def test_device_times_are_compared_when_asked():
    def on_device(ns):
        profile = record(*[{"decode": 10}] * 4)
        is_stage = pl.col("kind") == "stage"
        return Profile(
            spans=profile.spans.with_columns(device_ns=pl.when(is_stage).then(pl.lit(ns, pl.Int64))), meta=profile.meta
        )

    comparison = compare(on_device(1_000), on_device(3_000), time="device_ns")
    assert rows(comparison, "a_ms", "b_ms", "change") == [("decode", 0.001, 0.003, "slower")]


def test_pipelines_of_two_names_are_compared_by_their_stages():
    assert rows(
        compare(record({"decode": 10}, name="lab"), record({"decode": 10}, name="copy")), "a_runs", "b_runs"
    ) == [
        ("decode", 1, 1),
        ("unattributed", 1, 1),
    ]


def test_the_chart_has_a_bar_a_stage_and_a_caption_that_says_the_worst():
    before = record(*({"encode": ns, "decode": 10 * ns} for ns in FOUR))
    after = record(*({"encode": ns, "decode": 20 * ns} for ns in FOUR))
    figure = compare(before, after, labels=("yesterday", "today")).bars()
    assert figure.caption == "A run took 1.12 ms in yesterday, 2.13 ms in today; most of it in decode (+1.01 ms)."
    bars = figure.spec["layer"][1]["data"]["values"]
    assert [bar["label"] for bar in bars] == ["decode", "encode", "unattributed", "whole run"]
    assert bars[0]["text"] == "1.01 ms → 2.03 ms · +100 % · slower"
    assert figure._repr_mimebundle_()[0]["image/png"]


def test_the_table_is_escaped_and_ends_with_the_whole_run_and_the_remarks():
    before, after = record({"<b>": 10}), record({"<b>": 10, "new": 20})
    html = compare(before, after, labels=("<i>", "b"), unequal_work=True)._repr_html_()
    assert "<b><b>" not in html
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;" in html
    assert html.index("unattributed") < html.index("whole run") < html.index("not the same work")


VALUES = st.lists(st.integers(0, 10**12), min_size=1, max_size=7)


@given(VALUES, VALUES, st.integers(-(10**9), 10**9))
def test_the_interval_follows_a_shift_and_turns_round_with_its_sides(a, b, shift):
    low, high, coverage = shift_interval(a, b, confidence=0.9)
    assert low <= high
    assert shift_interval(b, a, confidence=0.9) == (-high, -low, coverage)
    assert shift_interval(a, [value + shift for value in b], confidence=0.9) == (low + shift, high + shift, coverage)


@pytest.mark.parametrize(("n", "cut"), [(4, 1), (5, 3), (6, 6), (8, 14), (10, 24), (20, 128)])
def test_the_interval_is_the_one_in_the_tables_of_mann_and_whitney(n, cut):
    """Critical values of U at two-sided 5 %: 0, 2, 5, 13, 23, 127; the interval's ends are one rank further in."""
    differences = sorted(10_000 * y - x for x in range(n) for y in range(n))
    interval = shift_interval(range(n), [10_000 * y for y in range(n)], confidence=0.95)
    assert interval[:2] == (differences[cut - 1], differences[-cut])
    assert interval.coverage >= 0.95


def test_every_change_has_its_sentence():
    assert all(change.doc.endswith(".") for change in Change)


def test_device_times_are_compared_by_default_where_there_are_any():
    """A pass that is twice as long changes decode on the host, which waits there, and denoise on the device."""
    quick, slow = Toy(warm_up_ms=0).profile(runs=4), Toy(warm_up_ms=0, pass_ms=20).profile(runs=4)
    assert rows(compare(quick, slow), "change", "difference_ms")[0] == ("denoise", "slower", 80.0)
    assert rows(compare(quick, slow, time="host_ns"), "change", "difference_ms")[0] == ("decode", "slower", 80.0)
    assert compare(quick, slow).bars().caption.startswith("A run took 130 ms in a, 210 ms in b on the device;")
