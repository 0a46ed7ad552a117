"""Bounds by hand: a run of two stages on a device whose rates make every number round."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.residency import (
    ALLOCATOR_SLACK_BYTES,
    DeviceError,
    Plan,
    PlanError,
    Rehearsal,
    bounds,
    break_even,
    break_even_tokens,
    device,
    layerwise,
    link_ratio,
    most_resident,
    preset,
    presets,
    schedule,
    survey,
    swap,
    workload,
)
from reslab.residency._rehearse._schema import SCHEMAS
from reslab.residency._schedule._footprint import allocator_slack

MB, GB = 10**6, 10**9
BLOCKS = 4


def frame(name, *rows):
    """A frame of a rehearsal from rows that name what matters; the rest is empty."""
    empty = {column: None if kind == pl.Categorical else 0 for column, kind in SCHEMAS[name].items()}
    return pl.DataFrame([empty | row for row in rows], schema=dict(SCHEMAS[name]))


def run(*, flops=10**12, passes=2, steps=3, dtype="bfloat16", kind="matmul", tokens=100):
    """`passes` forwards in each of `steps` steps through four blocks of 100 MB, then a decode of 50 MB."""
    calls = [
        {"call": n, "stage": "denoise", "registered_name": "denoise", "component": "transformer", "method": "forward"}
        | {
            "step": n // passes,
            "guidance_pass": "p",
            "trace": 0,
            "merged_trace": None,
            "tiled_trace": None,
            "live_bytes": 5 * MB,
        }
        | {"shapes": f"hidden_states 1×{tokens}×8, timestep 1"}
        for n in range(passes * steps)
    ]
    decode = {"call": len(calls), "stage": "decode", "registered_name": "decode", "component": "vae", "step": None}
    calls.append(
        decode | {"method": "decode", "trace": 1, "merged_trace": None, "tiled_trace": None, "shapes": "z 1×8"}
    )
    bodies = [
        {"body": 0, "position": 0, "op": "aten.mm", "kind": kind, "dtype": dtype, "flops": flops, "repeats": 1},
        {"body": 1, "position": 0, "op": "aten.add", "kind": "elementwise", "dtype": dtype, "repeats": 10}
        | {"read_bytes": 80 * MB, "written_bytes": 20 * MB},
    ]
    segments = [{"trace": 0, "position": n, "block": n, "body": 0} for n in range(BLOCKS)]
    segments.append({"trace": 1, "position": 0, "block": -1, "body": 1})
    traces = [
        {"trace": 0, "component": "transformer", "host_operations": BLOCKS, "activation_peak_bytes": 20 * MB},
        {"trace": 1, "component": "vae", "host_operations": 10, "activation_peak_bytes": 30 * MB}
        | {"workspace_bytes": 10 * MB},
    ]
    components = [
        {"component": "transformer", "dtype": "bfloat16", "weight_bytes": 460 * MB, "outside_bytes": 60 * MB}
        | {"blocks": BLOCKS},
        {"component": "vae", "dtype": "bfloat16", "weight_bytes": 50 * MB, "outside_bytes": 50 * MB},
    ]
    blocks = [{"component": "transformer", "block": n, "weight_bytes": 100 * MB} for n in range(BLOCKS)]
    glue = [{"stage": name, "registered_name": name, "peak_bytes": 7 * MB} for name in ("denoise", "between", "decode")]
    frames = {"components": components, "blocks": blocks, "calls": calls, "traces": traces, "segments": segments}
    frames |= {"operations": bodies, "glue": glue}
    meta = {"request": {"width": 64, "height": 32, "num_frames": tokens}}
    return Rehearsal(**{name: frame(name, *rows) for name, rows in frames.items()}, meta=meta)


@pytest.fixture
def card():
    """100 TFLOP/s, 1 TB/s of memory, links of 10 and 1 GB/s, 1 ms an operation, 1 GB free."""
    return replace(
        device("RTX 4090"),
        name="card",
        matrix_flops_per_s={"bfloat16": 100 * 10**12},
        attention_flops_per_s={"bfloat16": 50 * 10**12},
        memory_bytes_per_s=10**12,
        host_ns_per_operation=10**6,
        link_bytes_per_s=10 * GB,
        link_back_bytes_per_s=5 * GB,
        link_pageable_bytes_per_s=GB,
        disk_bytes_per_s=2 * GB,
        free_bytes=3 * GB,
        host_memory_bytes=8 * GB,
        pinnable_bytes=8 * GB,
    )


def stage(limits, name):
    return next(row for row in limits.rows if row.registered_name == name)


def test_without_copies_floor_and_ceiling_are_the_roofline(card):
    limits = bounds(run(), Plan.of(), card)
    denoise = stage(limits, "denoise")
    assert denoise.compute_ns == 6 * 4 * 10_000_000  # six forwards of four products of 10 ms
    assert (denoise.floor_ns, denoise.ceiling_ns) == (denoise.compute_ns, denoise.compute_ns)
    assert (denoise.host_ns, denoise.limited_by, denoise.calls) == (6 * 4 * 10**6, "compute", 6)
    assert limits.moved_bytes == 0


def test_what_is_bound_by_traffic_or_by_the_host_says_so(card):
    decode = stage(bounds(run(), Plan.of(), card), "decode")
    assert (decode.memory_ns, decode.host_ns) == (1_000_000, 10_000_000)  # ten times 100 MB, ten operations
    assert (decode.compute_ns, decode.limited_by) == (10_000_000, "host")
    quick = replace(card, host_ns_per_operation=0)
    assert stage(bounds(run(), Plan.of(), quick), "decode").limited_by == "memory"
    assert stage(bounds(run(), Plan.of(), quick), "between").limited_by == "nothing"


def test_streaming_costs_at_least_the_longer_and_at_most_the_sum(card):
    limits = bounds(run(), Plan.of({"transformer": layerwise(resident=1)}), card)
    denoise = stage(limits, "denoise")
    moved = 60 * MB + 100 * MB + 6 * 3 * 100 * MB
    assert denoise.moved_bytes == moved
    assert denoise.copy_ns == moved // 10
    assert (denoise.floor_ns, denoise.ceiling_ns) == (240_000_000, 240_000_000 + moved // 10)
    slow = bounds(run(), Plan.of({"transformer": layerwise(resident=1)}), replace(card, link_bytes_per_s=GB))
    assert (stage(slow, "denoise").floor_ns, stage(slow, "denoise").limited_by) == (moved, "copy")


def test_a_link_can_be_like_a_card_by_its_ratio_of_copying_to_computing(card):
    ratio = link_ratio(card, run())
    compute_s = 6 * 0.04 + 0.01  # products by throughput, decoding by memory traffic
    assert ratio.copy_s_per_compute_s == pytest.approx((6 * 0.46 + 0.05) / 10 / compute_s)
    with pytest.raises(ValueError, match="no bfloat16 throughput of card is known"):
        link_ratio(replace(card, matrix_flops_per_s={}), run())


def test_what_is_copied_back_is_counted(card):
    limits = bounds(run(), preset("diffusers model offload", run()), card)
    assert (limits.moved_bytes, limits.copied_back_bytes) == (510 * MB, 510 * MB)
    assert stage(limits, "between").back_ns == 460 * MB // 5  # it leaves when the next stage begins
    assert stage(limits, "decode").ceiling_ns == 10_000_000 + 50 * MB // 10 + 50 * MB // 5


def test_memory_is_weights_slots_and_activations_stage_by_stage(card):
    limits = bounds(run(), Plan.of({"transformer": layerwise(resident=1), "vae": swap()}), card)
    peaks = {row.registered_name: (row.weight_bytes, row.activation_bytes) for row in limits.rows}
    assert peaks == {
        "denoise": ((60 + 100 + 2 * 100) * MB, 25 * MB),
        "between": (0, 7 * MB),
        "decode": (50 * MB, 40 * MB),
    }
    assert (limits.tightest.registered_name, limits.peak_bytes) == ("denoise", 385 * MB)


def test_it_fits_with_the_allocators_slack_or_says_where_it_is_tightest(card):
    needed = 460 * MB + 50 * MB + 40 * MB
    for spare, fits in ((0, True), (-1, False)):
        limits = bounds(run(), Plan.of(), replace(card, free_bytes=needed + needed // 10 + spare))
        assert limits.fits is fits
    assert limits.why.startswith("It does not fit: decode is tightest: 0.51 GiB and 0.05 GiB of the allocator's slack")
    assert bounds(run(), Plan.of(), replace(card, free_bytes=needed), allocator_slack_bytes=0).fits


def test_a_host_without_the_memory_does_not_fit(card):
    limits = bounds(run(), Plan.of({"transformer": "swap"}), replace(card, host_memory_bytes=400 * MB))
    assert (limits.fits, limits.memory.fits_device, limits.memory.fits_host) == (False, True, False)
    assert limits.why == "It does not fit: it needs 0.43 GiB of host memory, of 0.37 GiB."


def test_what_cannot_be_pinned_is_pageable_and_slow_the_least_moved_first(card):
    plan = Plan.of({"transformer": layerwise(), "vae": swap()})
    limits = bounds(run(), plan, replace(card, pinnable_bytes=460 * MB))
    assert (limits.memory.pinned_bytes, limits.memory.pageable_bytes) == (460 * MB, 50 * MB)
    assert stage(limits, "decode").copy_ns == 50 * MB  # at 1 GB/s
    assert stage(limits, "denoise").copy_ns == (60 + 6 * 400) * MB // 10
    half = bounds(run(), Plan.of({"vae": swap()}), replace(card, pinnable_bytes=25 * MB))
    assert stage(half, "decode").copy_ns == 25 * MB // 10 + 25 * MB


def test_resident_needs_no_host_memory_and_disk_only_a_window(card):
    assert bounds(run(), Plan.of(), card).memory.pinned_bytes == 0
    limits = bounds(run(), Plan.of({"transformer": "disk"}), card)
    assert limits.memory.pinned_bytes == 100 * MB  # of its largest block, which is read whole
    assert stage(limits, "denoise").copy_ns == (60 + 6 * 400) * MB // 2  # at 2 GB/s


def test_where_memory_is_shared_nothing_moves_and_a_weight_is_there_once(card):
    limits = bounds(run(), Plan.of({"transformer": layerwise(), "vae": swap()}), replace(card, unified=True))
    assert (limits.moved_bytes, limits.memory.pinned_bytes) == (0, 0)
    assert stage(limits, "decode").weight_bytes == 510 * MB


def test_passes_in_one_batch_move_weights_once_for_all_of_them_and_add_activations(card):
    plan = Plan.of({"transformer": layerwise(), "numerics.pass_batching": "batched"})
    denoise = stage(bounds(run(passes=4), plan, card), "denoise")
    assert denoise.moved_bytes == (60 + 3 * 400) * MB
    assert denoise.activation_bytes == (5 + 4 * 20) * MB
    assert denoise.compute_ns == 12 * 40_000_000


def test_float8_halves_the_blocks_of_what_denoises():
    work = workload(run(), Plan.of({"numerics.weight_dtype": "float8"}))
    assert work.components["transformer"].block_bytes == (50 * MB,) * BLOCKS
    assert work.components["vae"].weight_bytes == 50 * MB


def test_the_bytes_are_those_of_the_moves(card):
    for name in presets():
        plan = preset(name, run())
        moves = schedule(plan, workload(run(), plan))
        assert bounds(run(), plan, card).moved_bytes == moves.moved_bytes()


def test_without_a_throughput_there_is_memory_and_no_time(card):
    limits = bounds(run(dtype="float8_e4m3fn"), Plan.of({"transformer": layerwise()}), card)
    known = bounds(run(), Plan.of({"transformer": layerwise()}), card)
    row = limits.uncosted.row(0, named=True)
    assert (row["op"], row["dtype"], row["operations"], row["share"]) == ("aten.mm", "float8_e4m3fn", 24, 1.0)
    assert limits.unknown.startswith("no float8_e4m3fn throughput of card is known; give compute={'float8")
    for time in ("floor_ns", "ceiling_ns", "compute_ns"):
        with pytest.raises(DeviceError, match="no float8_e4m3fn throughput of card is known"):
            getattr(limits, time)
    assert (limits.memory, limits.moved_bytes, known.unknown) == (known.memory, known.moved_bytes, "")
    assert "times not known" in repr(limits)
    assert "No times: no float8_e4m3fn throughput of card is known" in limits._repr_html_()
    assert limits.stages()["floor_ns"].null_count() == limits.stages().height
    assert bounds(run(), Plan.of(), card).uncosted.is_empty()


def test_without_a_bandwidth_there_is_no_time_either(card):
    slow = replace(card, memory_bytes_per_s=None)
    limits = bounds(run(), Plan.of(), slow)
    assert limits.unknown.startswith("no memory bandwidth of card is known; give bandwidth='288 GB/s'")
    with pytest.raises(DeviceError, match="no memory bandwidth of card is known"):
        link_ratio(slow, run())
    with pytest.raises(DeviceError, match="no memory bandwidth of card is known"):
        break_even([run()], [slow])
    row = survey(run(), slow).frame.row(0, named=True)
    assert (row["floor_s"], row["ceiling_s"], row["resident_s"]) == (None, None, None)
    assert row["fits"]
    assert "No times: no memory bandwidth of card is known" in row["why"]


def test_a_small_share_without_a_throughput_is_listed(card):
    rehearsal = run()
    bodies = rehearsal.operations.with_columns(flops=pl.lit(10**10), dtype=pl.lit("float64")).head(1)
    mixed = pl.concat([rehearsal.operations, bodies.cast(dict(rehearsal.operations.schema))])
    limits = bounds(replace(rehearsal, operations=mixed), Plan.of(), card)
    assert limits.uncosted["share"].item() < 0.01
    assert limits.floor_ns > 0
    assert "These times leave out the arithmetic of aten.mm in float64" in limits._repr_html_()


def test_attention_has_a_throughput_of_its_own(card):
    assert stage(bounds(run(kind="attention"), Plan.of(), card), "denoise").compute_ns == 6 * 4 * 20_000_000


def test_a_plan_for_what_is_not_there_is_one_clear_error(card):
    with pytest.raises(PlanError, match="'transfromer', which is not there; did you mean 'transformer'"):
        bounds(run(), Plan.of({"transfromer": "swap"}), card)
    with pytest.raises(PlanError, match="there is no preset 'model offload'; did you mean 'diffusers model offload'"):
        preset("model offload", run())


def test_stages_are_a_frame_with_what_follows(card):
    table = bounds(run(), Plan.of({"vae": swap()}), card).stages()
    assert table["stage"].cast(pl.String).to_list() == ["denoise", "between", "decode"]
    assert (table["floor_ns"] <= table["ceiling_ns"]).all()
    assert table["peak_bytes"].to_list() == [485 * MB, 467 * MB, 550 * MB]


def test_two_rehearsals_are_never_mistaken_for_each_other(card):
    first, second = run(), run(flops=2 * 10**12)
    assert bounds(second, Plan.of(), card).compute_ns > bounds(first, Plan.of(), card).compute_ns
    assert bounds(first, Plan.of(), replace(card, matrix_flops_per_s={"bfloat16": 10**12})).compute_ns > 2 * 10**10


# Break-even and the table card × size.


def test_streaming_costs_copy_over_compute_until_compute_is_longer(card):
    table = break_even([run(flops=5 * 10**11, tokens=100), run(flops=2 * 10**12, tokens=400)], [card])
    rows = {row["tokens"]: row for row in table.rows(named=True)}
    assert table["size"].to_list() == ["64×32×100", "64×32×400"]
    assert (rows[100]["compute_ns"], rows[100]["copy_ns"]) == (20_000_000, 40_000_000)
    assert (rows[100]["ratio"], rows[100]["keep"], rows[100]["keep_bytes"]) == (2.0, 2, 200 * MB)
    assert (rows[400]["ratio"], rows[400]["keep"]) == (1.0, 0)


def test_break_even_is_where_copy_and_compute_are_equal(card):
    table = break_even([run(flops=5 * 10**11, tokens=100), run(flops=2 * 10**12, tokens=400)], [card])
    assert break_even_tokens(table).rows() == [("card", 200)]
    slower = replace(card, name="slower", link_bytes_per_s=GB)
    faster = replace(card, name="faster", link_bytes_per_s=100 * GB)
    both = break_even([run(tokens=100), run(flops=2 * 10**12, tokens=400)], [slower, faster])
    assert break_even_tokens(both).rows() == [("slower", None), ("faster", 100)]


def test_blocks_that_are_kept_make_streaming_free(card):
    row = break_even([run(flops=5 * 10**11)], [card]).row(0, named=True)
    for kept, free in ((row["keep"], True), (row["keep"] - 1, False)):
        denoise = stage(
            bounds(run(flops=5 * 10**11), Plan.of({"transformer": layerwise(resident=kept)}), card), "denoise"
        )
        copied = denoise.copy_ns - (60 + 100 * kept) * MB // 10  # what is fetched once, before
        assert (copied <= denoise.compute_ns) is free


def test_a_component_without_blocks_cannot_stream(card):
    with pytest.raises(ValueError, match="'vae' has no blocks to stream; known: transformer"):
        break_even([run()], [card], component="vae")


def test_the_survey_names_the_plan_that_keeps_most_and_fits(card):
    def surveyed(**facts):
        return survey([run()], [replace(card, **facts)]).frame.row(0, named=True)

    assert surveyed()["plan"] == "all resident"
    assert surveyed(free_bytes=534 * MB)["plan"] == "swap"  # 460 of weights and 25 of activations, and a tenth of that
    streaming = surveyed(free_bytes=424 * MB)  # 60 outside, one block, two slots, 25, and a tenth
    assert (streaming["plan"], streaming["keep"], streaming["fits"]) == ("streaming", 1, True)
    on_disk = surveyed(free_bytes=424 * MB, host_memory_bytes=300 * MB)
    assert (on_disk["fits"], on_disk["host_gib"] * 2**30) == (True, 150 * MB)  # the vae, and a window of one block
    assert surveyed(free_bytes=0)["fits"] is False


def test_slack_is_a_tenth_of_what_is_alive_and_two_gibibytes_at_most(card):
    big = replace(card, free_bytes=100 * GB)
    alive = 550 * MB
    assert bounds(run(), Plan.of(), big).memory.slack_bytes == alive // 10
    assert allocator_slack(30 * 2**30, big.kind) == ALLOCATOR_SLACK_BYTES
    assert bounds(run(), Plan.of(), big, allocator_slack_bytes=7).memory.slack_bytes == 7
    assert bounds(run(), Plan.of(), replace(big, kind="mps")).memory.slack_bytes == 0


def tiling(**facts):
    """The same run, whose decoding needs 400 MB of activations, or 30 MB and twice the operations in tiles."""
    whole = run(**facts)
    tiled = whole.traces.filter(pl.col("trace") == 1).with_columns(
        trace=pl.lit(2, pl.Int64), host_operations=pl.lit(20, pl.Int64)
    )
    traces = pl.concat([whole.traces, tiled]).with_columns(
        activation_peak_bytes=pl.when(pl.col("trace") == 1).then(400 * MB).otherwise("activation_peak_bytes")
    )
    segments = pl.concat(
        [whole.segments, whole.segments.filter(pl.col("trace") == 1).with_columns(trace=pl.lit(2, pl.Int64))]
    )
    in_tiles = pl.when(pl.col("trace") == 1).then(2).otherwise(None)
    calls = whole.calls.with_columns(tiled_trace=in_tiles.cast(pl.Int64))
    return replace(whole, traces=traces, segments=segments, calls=calls)


def test_decoding_in_tiles_has_its_own_activations_and_operations(card):
    plain, tiled = (bounds(tiling(), plan, card) for plan in (Plan.of(), Plan.of({"numerics.vae_tiling": "on"})))
    assert stage(plain, "decode").activation_bytes == 400 * MB + 10 * MB
    assert stage(tiled, "decode").activation_bytes == 30 * MB + 10 * MB
    assert (stage(plain, "decode").host_ns, stage(tiled, "decode").host_ns) == (10_000_000, 20_000_000)
    assert stage(tiled, "denoise") == stage(plain, "denoise")


def test_the_survey_decodes_in_tiles_only_where_nothing_fits_without(card):
    roomy, small = (survey(tiling(), replace(card, free_bytes=room * MB)) for room in (510, 500))
    assert (roomy.plan.name, roomy.plan.numerics.vae_tiling) == ("streaming", "pipeline")  # 50 + 410, and a tenth
    assert (small.plan.name, small[0].keep, small.fits) == ("streaming, decoding in tiles", 1, True)
    assert "decodes in tiles" in small.why
    assert survey(run(), replace(card, free_bytes=300 * MB)).plan.numerics.vae_tiling == "pipeline"  # no such choice


def test_what_does_not_fit_says_by_how_much_where_and_what_would_help(card):
    short = survey(run(), replace(card, free_bytes=200 * MB, host_memory_bytes=100 * MB))  # 60 + 2 × 100 + 25, a tenth
    assert not short.fits
    need = 285 * MB + 285 * MB // 10
    assert short.bounds.memory.missing_device_bytes == need - 200 * MB
    assert short.bounds.memory.missing_host_bytes == 150 * MB - 100 * MB  # a window of one block of 100 MB, and the VAE
    for part in (
        "0.11 GiB on the device in denoise",
        "0.05 GiB of host memory",
        "0.30 GiB free",
        "0.14 GiB in the host",
    ):
        assert part in short.hint
    enough = replace(card, free_bytes=round(0.30 * 2**30), host_memory_bytes=round(0.14 * 2**30))
    assert (survey(run(), enough).fits, survey(run(), enough).hint) == (True, "")
    with pytest.raises(
        PlanError, match=r"no code to run. The nearest plan is 'streaming from disk', which lacks 0.11 GiB"
    ):
        short.code()


def test_where_only_slack_is_in_the_way_the_hint_says_so(card):
    tight = survey(run(), replace(card, free_bytes=290 * MB))
    assert "allocator_slack_bytes=5000000 plans for that" in tight.hint
    assert survey(run(), replace(card, free_bytes=290 * MB), allocator_slack_bytes=5 * MB).fits


@given(st.integers(0, 60), st.integers(0, 60))
def test_as_many_blocks_stay_as_fit_and_few_are_tried(blocks, room):
    tried = []

    def fits(kept):
        tried.append(kept)
        return kept <= room

    assert most_resident(blocks, fits) == min(blocks, room)
    assert len(tried) <= blocks.bit_length()
