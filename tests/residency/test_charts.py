"""The charts of what a run computes, what offloading costs and what moves: each says in its caption what it shows."""

import polars as pl
import pytest

from reslab import ltx2, residency

GIB = 2**30
CARDS = [residency.device(name) for name in ("RTX 4090", "H100")]


@pytest.fixture(scope="module")
def runs():
    sizes = ((768, 512), (1536, 1024))
    return [ltx2.rehearsal("LTX-2.3", width=width, height=height, num_frames=121) for width, height in sizes]


@pytest.fixture(scope="module")
def streaming(runs):
    return residency.break_even(runs, CARDS)


def marks(figure):
    """What the figure draws, a list of rows a layer."""
    return [layer["data"]["values"] for layer in figure.spec["layer"] if "data" in layer]


def test_a_line_ends_where_streaming_becomes_free(streaming):
    figure = residency.offloading_chart(streaming)
    lines, ends = marks(figure)
    for name, reading in (("ratio", "one by one"), ("fused_ratio", "fused")):
        free = residency.break_even_tokens(streaming, ratio=name)["tokens"].to_list()
        assert [row["tokens"] for row in ends if row["reading"] == reading] == free
    assert min(row["ratio"] for row in lines) == 1
    assert "not predictions" in figure.caption


def test_more_cards_than_hues_are_refused(runs):
    cards = [residency.device(name) for name in residency.devices()[:8]]
    with pytest.raises(ValueError, match="8 devices cannot be told apart by colour; draw 7 at most"):
        residency.offloading_chart(residency.break_even(runs[:1], cards))


def test_kept_blocks_are_those_of_the_frame_and_of_one_size(streaming):
    rows = streaming.filter(tokens=6144)
    figure = residency.kept_chart(rows)
    drawn = {row["device"]: (row["least"], row["most"]) for row in figure.spec["data"]["values"]}
    assert drawn == {row["device"]: (row["keep"], row["fused_keep"]) for row in rows.rows(named=True)}
    with pytest.raises(ValueError, match="a bar is about one size"):
        residency.kept_chart(streaming)


def test_moved_bytes_tell_the_lora_apart_and_count_both_directions(runs):
    work = residency.workload(runs[1])
    ways = {name: (residency.preset(name, work), work) for name in ("swap", "diffusers model offload")}
    moved = residency.moved_bytes(runs[1], ways)
    gib = {key: part["bytes"].sum() / GIB for key, part in moved.group_by("recipe", "direction")}
    lora = moved.filter(component="distilled LoRA", recipe="swap", direction="in")["bytes"].item()
    assert lora == runs[1].components["lora_bytes"].sum()
    assert gib["swap", "in"] - lora / GIB == pytest.approx(66.60, abs=0.005)
    assert gib["swap", "out"] == 0 < gib["diffusers model offload", "out"]
    assert "swap: 66.6 GiB in, 0.0 out" in residency.moved_chart(moved).caption


def test_a_survey_is_drawn_cell_by_cell_also_where_nothing_fits(runs):
    tiny = residency.device("tiny", like="RTX 4090", memory="4 GiB")
    rows = residency.survey(runs, [*CARDS, tiny]).frame
    figure = residency.survey_chart(rows)
    cells = figure.spec["data"]["values"]
    assert [cell["plan"] == "does not fit" for cell in cells] == [not fits for fits in rows["fits"]]
    assert not rows.filter(device="tiny")["fits"].any()
    assert figure.caption.startswith(f"{rows['fits'].sum()} of {rows.height} combinations")


def test_work_and_bounds_are_drawn_stage_by_stage(runs):
    work = residency.work_chart(runs[0].table())
    assert sum(row["tflop"] for row in work.spec["data"]["values"]) == pytest.approx(
        runs[0].table()["tflop"].sum(), 1e-4
    )
    limits = residency.bounds(runs[0], residency.preset("swap", runs[0]), CARDS[0])
    bars = residency.bounds_chart(limits.stages()).spec["data"]["values"]
    assert sum(bar["floor"] for bar in bars) == pytest.approx(limits.floor_ns / 1e9, rel=0.01)
    assert all(bar["floor"] <= bar["ceiling"] for bar in bars)


def test_every_chart_is_a_picture(runs, streaming):
    figures = [residency.offloading_chart(streaming), residency.kept_chart(streaming.filter(pl.col("tokens") == 6144))]
    figures.append(residency.survey_chart(residency.survey(runs[:1], CARDS)))
    for figure in figures:
        assert len(figure._repr_mimebundle_()[0]["image/png"]) > 1000
