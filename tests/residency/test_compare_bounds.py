"""Bounds beside measurement: the same stages, the plan's bytes, exact times by a clock that does as it is told."""

import polars as pl
import pytest
import torch

from reslab.profiler import Profiler
from reslab.profiler.testing import FakeClock, FakeMemory
from reslab.residency import Plan, apply, bounds, charts, compare_bounds, detect, record_row, rehearse
from reslab.stages import Pipeline, stage

CLOCK, MEMORY = FakeClock(), FakeMemory()
REQUEST = {"width": 64, "prompt": "nobody's business"}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@stage(writes="x")
def draw(width, prompt):
    return torch.ones(8, width)


@stage(writes="y")
def compute(model, x):
    CLOCK.advance(2_000_000_000)
    MEMORY.allocate(70_000)
    MEMORY.allocate(-70_000)
    return model(x)


def make():
    pipeline = Pipeline({"model": Model().eval()}, result="y", name="three layers")
    for each in (draw, compute):
        pipeline.add(each())
    return pipeline


@pytest.fixture(scope="module")
def made():
    """A pipeline that ran twice under a plan: its bounds, its profile, its rehearsal."""
    pipeline, plan = make(), Plan.of({"model": "swap"}, name="mine")
    rehearsal = rehearse(pipeline, **REQUEST)
    limits = bounds(rehearsal, plan, detect("cpu", link="1 GB/s"))
    with torch.no_grad(), apply(pipeline, plan, device="cpu") as managed:
        pipeline.run(**REQUEST)
        with Profiler(pipeline, clock=CLOCK, memory=MEMORY, counters=managed) as prof:
            for _ in range(2):
                pipeline.run(**REQUEST)
    return limits, prof.profile, rehearsal


def test_a_stage_has_its_bounds_its_time_and_the_plans_bytes(made):
    limits, profile, _rehearsal = made
    row = compare_bounds(limits, profile).row(by_predicate=pl.col("stage") == "compute", named=True)
    (own,) = (each for each in limits.rows if each.stage == "compute")
    assert (row["plan"], row["measured_s"]) == ("mine", 2.0)  # the mean of two runs
    assert (row["floor_s"], row["ceiling_s"]) == (own.floor_ns / 1e9, own.ceiling_ns / 1e9)
    assert row["over_floor"] == pytest.approx(2e9 / own.floor_ns)
    assert row["moved_bytes"] == row["planned_bytes"] == 3 * (64 * 64 + 64) * 4
    assert (row["peak_bytes"], row["measured_peak_bytes"]) == (own.peak_bytes, 70_000)


def test_without_an_allocators_books_the_peak_is_unknown(made):
    limits, _profile, _rehearsal = made
    pipeline = make()
    with torch.no_grad(), Profiler(pipeline, clock=FakeClock(), memory=FakeMemory(pool="host")) as prof:
        pipeline.run(**REQUEST)
    rows = compare_bounds(limits, prof.profile)
    assert rows["measured_peak_bytes"].null_count() == rows.height


def test_a_profile_of_something_else_is_refused(made):
    limits, _profile, _rehearsal = made
    with Profiler(clock=FakeClock(), memory=None) as prof:
        pass
    with pytest.raises(ValueError, match="the profile lacks 2 of the 2 stages that were bounded, such as 'draw'"):
        compare_bounds(limits, prof.profile)


def test_the_row_to_keep_says_what_ran_where_and_nothing_private(made, tmp_path):
    limits, profile, rehearsal = made
    record_row(limits, profile, rehearsal).write_csv(tmp_path / "mine.csv")
    row = pl.read_csv(tmp_path / "mine.csv").row(0, named=True)
    assert (row["pipeline"], row["device"], row["plan"]) == ("three layers", "CPU", "mine")
    assert (row["measured_s"], row["moved_bytes"], row["measured_peak_bytes"]) == (2.0, 3 * 4160 * 4, 70_000)
    assert row["request"] == "width=64"
    assert f"torch {torch.__version__}" in row["versions"].split(", ")
    assert row["plan_fingerprint"] == limits.plan.fingerprint


def test_the_chart_has_a_band_and_a_mark_for_what_takes_time(made):
    limits, profile, _rehearsal = made
    rows = compare_bounds(limits, profile)
    figure = charts.compared_bounds(
        pl.concat([rows, rows.with_columns(plan=pl.lit("again"), measured_s=pl.col("measured_s") * 2)])
    )
    drawn = figure.spec["data"]["values"]
    assert [(bar["plan"], bar["stage"], bar["seconds"]) for bar in drawn] == [
        ("mine", "compute", 2.0),
        ("again", "compute", 4.0),
    ]
    assert "mine: 2 s" in figure.caption
    assert "again: 4 s" in figure.caption
