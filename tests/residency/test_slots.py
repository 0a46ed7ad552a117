"""Slots as a picture: the order of moves on two lanes, and what more memory buys by the way it is spent."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab import residency
from reslab.residency import Plan, layerwise


def streams(**how):
    return Plan.of({"transformer": layerwise(until="run", **how)})


def ends(plan, *, passes, copy, blocks=12):
    work = residency.uniform_workload(blocks, passes=passes)
    return residency.slot_times({"": plan}, work, copy=copy)["end"].max()


@pytest.mark.parametrize(
    ("how", "copy", "end"),
    [
        ({"prefetch": 0}, 2, 3 * 3),  # copy, compute, copy, compute …
        ({"prefetch": 1}, 2, 2 * 3 + 1),  # the copies one after the other, then the last compute
        ({"prefetch": 2}, 2, 2 * 3 + 1),
        ({"prefetch": 1}, 0.5, 0.5 + 3),  # the first copy, then computing
        ({"resident": 3}, 9, 3),
    ],
)
def test_one_pass_over_three_blocks_takes_what_is_worked_out_by_hand(how, copy, end):
    assert ends(streams(**how), passes=1, copy=copy, blocks=3) == end


def test_what_stays_is_copied_first_unless_it_is_there_before_the_run():
    late = Plan.of({"transformer": layerwise(resident=2)})
    assert ends(late, passes=1, copy=2, blocks=2) == 2 * 2 + 2
    assert ends(streams(resident=2), passes=1, copy=2, blocks=2) == 2


def test_a_swapped_component_comes_whole_before_it_computes():
    times = residency.slot_times({"": Plan.of({"transformer": "swap"})}, residency.uniform_workload(3), copy=2)
    assert times["end"].max() == 3 * 2 + 3
    assert times["place"].unique(maintain_order=True).to_list()[2:] == ["block 0", "block 1", "block 2"]


def test_other_components_and_what_lies_outside_the_blocks_have_no_place():
    size = residency.ComponentSize(outside_bytes=20, block_bytes=(10, 10))
    calls = [residency.Call(stage="s", component=name, blocks=(0, 1)) for name in ("vae", "transformer")]
    work = residency.Workload(components={"transformer": size, "vae": size}, stages=("s",), calls=tuple(calls))
    times = residency.slot_times({"": Plan.of({"transformer": "layerwise", "vae": "swap"})}, work, copy=1)
    assert times["place"].unique(maintain_order=True).to_list() == ["computing", "copying", "slot 0", "slot 1"]
    assert times.filter(place="copying", block=-1)["end"].item() == 2  # twice a block's bytes, once its time each


PLANS = st.builds(
    streams,
    resident=st.integers(0, 6),
    prefetch=st.integers(0, 7),
    layout=st.sampled_from(["strided", "leading"]),
)


@given(plan=PLANS, copy=st.sampled_from([0.5, 1, 2, 3.5]), passes=st.integers(1, 3))
def test_no_lane_does_two_things_at_once_and_times_keep_the_bounds(plan, copy, passes):
    work = residency.uniform_workload(6, passes=passes)
    times = residency.slot_times({"": plan}, work, copy=copy)
    for _place, rows in times.filter(pl.col("state") != "is there").group_by("place"):
        assert (rows["start"].sort()[1:] >= rows["end"].sort()[:-1]).all()
    copied = residency.schedule(plan, work).moved_bytes() * copy  # a byte a block
    end = times["end"].max()
    assert max(6 * passes, copied) <= end <= 6 * passes + copied
    stalls = times.filter(state="stalls").select(pl.col("end") - pl.col("start")).sum().item()
    assert end == pytest.approx(6 * passes + stalls)


@given(resident=st.integers(0, 10), copy=st.sampled_from([1.5, 2, 3]))
def test_with_equal_memory_resident_blocks_are_never_slower_than_a_deeper_prefetch(resident, copy):
    deep, kept = streams(prefetch=resident + 1), streams(resident=resident)
    work = residency.uniform_workload(12)
    assert residency.footprint(deep, work).device_bytes == residency.footprint(kept, work).device_bytes
    times = [residency.pass_time(plan, blocks=12, copy=copy) for plan in (kept, deep)]
    assert times[0] <= times[1] or resident == 10  # all twelve fit: then either way keeps all


def test_a_component_without_blocks_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'vae' has no blocks in this workload; choose one of \['transformer'\]"):
        residency.slot_times({"": Plan.of()}, residency.uniform_workload(2), copy=1, component="vae")


def test_panels_say_memory_and_end_and_bars_are_those_of_the_frame():
    plans = {"deep": streams(prefetch=7), "kept": streams(resident=6)}
    times = residency.slot_times(plans, residency.uniform_workload(12, passes=2), copy=2)
    figure = residency.charts.slots(times)
    panels = figure.spec["vconcat"]
    assert [panel["title"]["text"] for panel in panels] == [
        "deep: memory for 8 blocks, done at 49",
        "kept: memory for 8 blocks, done at 26",
    ]
    assert sum(len(panel["data"]["values"]) for panel in panels) == times.height
    assert figure.caption.startswith("Computing alone takes 24. deep: 24 copies, done at 49; kept: 12 copies")
    with pytest.raises(ValueError, match="there are no times to draw"):
        residency.charts.slots(times.clear())


def ways(*rows):
    schema = {"way": pl.String, "device_bytes": pl.Int64, "expected": pl.Float64, "measured": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_ways_are_lines_of_what_is_expected_and_points_of_what_was_measured():
    rows = ways(("deep", 2**30, 3, 3.1), ("deep", 2**29, 3, None), ("kept", 2**30, 1, 1.2))
    figure = residency.charts.memory_time(rows)
    assert "With the same 1024 MiB: deep ×3.10, kept ×1.20." in figure.caption
    drawn = figure.spec["layer"][1]["data"]["values"]
    assert [(row["way"], row["size"], row["measured"]) for row in drawn] == [
        ("deep", 512, None),
        ("deep", 1024, 3.1),
        ("kept", 1024, 1.2),
    ]


def test_more_ways_than_hues_are_refused_and_without_measurements_none_are_compared():
    with pytest.raises(ValueError, match="5 ways cannot be told apart by colour; draw 4 at most"):
        residency.charts.memory_time(ways(*((str(n), 1, 1, None) for n in range(5))))
    assert "same" not in residency.charts.memory_time(ways(("deep", 2**30, 3, None))).caption


def test_charts_of_slots_are_pictures():
    times = residency.slot_times({"one pass": streams()}, residency.uniform_workload(3), copy=1)
    figures = [
        residency.charts.slots(times),
        residency.charts.memory_time(ways(("deep", 2**30, 3, 2.9), ("kept", 2**30, 1, 1))),
    ]
    assert all(len(figure._repr_mimebundle_()[0]["image/png"]) > 1000 for figure in figures)
