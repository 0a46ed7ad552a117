"""The charts of what a run computes, what offloading costs and what moves: each says in its caption what it shows."""

import polars as pl
import pytest

from reslab import ltx2, residency
from reslab.residency._plan import _presets
from reslab.residency._report import _run_charts

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
    figure = residency.charts.offloading(streaming)
    lines, ends = marks(figure)
    for name, reading in (("ratio", "one by one"), ("fused_ratio", "fused")):
        free = residency.break_even_tokens(streaming, ratio=name)["tokens"].to_list()
        assert [row["tokens"] for row in ends if row["reading"] == reading] == free
    assert min(row["ratio"] for row in lines) == 1
    assert "not predictions" in figure.caption


def test_more_cards_than_hues_are_refused(runs):
    cards = [residency.device(name) for name in residency.devices("GeForce RTX 40")[:8]]
    with pytest.raises(ValueError, match="8 devices cannot be told apart by colour; draw 7 at most"):
        residency.charts.offloading(residency.break_even(runs[:1], cards))


def test_kept_blocks_are_those_of_the_frame_and_of_one_size(streaming):
    rows = streaming.filter(tokens=6144).unique("device", keep="first", maintain_order=True)
    figure = residency.charts.resident_blocks(rows)
    drawn = {row["device"]: (row["least"], row["most"]) for row in figure.spec["data"]["values"]}
    assert drawn == {row["device"]: (row["keep"], row["fused_keep"]) for row in rows.rows(named=True)}
    with pytest.raises(ValueError, match="a bar is for one size"):
        residency.charts.resident_blocks(streaming)


def test_moved_bytes_tell_the_lora_apart_and_count_both_directions(runs):
    work = residency.workload(runs[1])
    ways = {name: (residency.preset(name, work), work) for name in ("swap", "diffusers model offload")}
    moved = residency.moved_bytes(runs[1], ways)
    gib = {key: part["bytes"].sum() / GIB for key, part in moved.group_by("recipe", "direction")}
    lora = moved.filter(component="distilled LoRA", recipe="swap", direction="in")["bytes"].item()
    assert lora == runs[1].components["lora_bytes"].sum()
    assert gib["swap", "in"] - lora / GIB == pytest.approx(66.60, abs=0.005)
    assert gib["swap", "out"] == 0 < gib["diffusers model offload", "out"]
    figure = residency.charts.moved(moved)
    assert "swap: 66.6 GiB in, 0.0 out" in figure.caption
    texts = {row["label"]: row["text"] for row in marks(figure)[1]}
    assert texts["swap, in"] == "66.6 GiB"  # as the caption has it: the LoRA is in neither


def test_a_survey_is_drawn_cell_by_cell_also_where_nothing_fits(runs):
    tiny = residency.device("tiny", like="RTX 4090", memory="4 GiB")
    rows = residency.survey(runs, [*CARDS, tiny]).frame
    figure = residency.charts.survey(rows)
    cells = figure.spec["data"]["values"]
    assert [cell["plan"] == "does not fit" for cell in cells] == [not fits for fits in rows["fits"]]
    assert not rows.filter(device="tiny")["fits"].any()
    assert figure.caption.startswith(f"{rows['fits'].sum()} of {rows.height} combinations")


def test_work_and_bounds_are_drawn_stage_by_stage(runs):
    work = residency.charts.work(runs[0].table())
    assert sum(row["tflop"] for row in work.spec["data"]["values"]) == pytest.approx(
        runs[0].table()["tflop"].sum(), 1e-4
    )
    limits = residency.bounds(runs[0], residency.preset("swap", runs[0]), CARDS[0])
    bars = residency.charts.bounds(limits.stages()).spec["data"]["values"]
    assert sum(bar["floor"] for bar in bars) == pytest.approx(limits.floor_ns / 1e9, rel=0.01)
    assert all(bar["floor"] <= bar["ceiling"] for bar in bars)


def test_charts_are_in_a_module_of_their_own_under_the_names_that_help_shows():
    charts = residency.charts
    assert dir(charts) == sorted(charts.__all__)
    assert [name for name in charts.__all__ if getattr(charts, name).__name__ != name] == []
    assert [name for name in residency.__all__ if "chart" in name] == ["charts"]


def test_every_chart_is_a_picture(runs, streaming):
    figures = [
        residency.charts.offloading(streaming),
        residency.charts.resident_blocks(streaming.filter(pl.col("tokens") == 6144)),
    ]
    figures.append(residency.charts.survey(residency.survey(runs[:1], CARDS)))
    for figure in figures:
        assert len(figure._repr_mimebundle_()[0]["image/png"]) > 1000


def test_the_longer_time_is_called_what_it_is_and_not_the_most(runs):
    # kernels below their best come on top, so a run may take longer: "at most" would be false
    limits = residency.bounds(runs[0], residency.preset("streaming", runs[0]), CARDS[0])
    survey = residency.survey(runs[:1], CARDS)
    said = [
        residency.charts.bounds(limits.stages()).caption,
        residency.charts.survey(survey).caption,
        limits._repr_html_(),
    ]
    assert all("if nothing overlaps" in each for each in said)
    assert not any("at most" in each for each in said)


def test_every_preset_that_a_survey_tries_has_a_hue_in_its_chart():
    untiled = {str(name).removesuffix(_presets.TILED) for name in _presets.SURVEYED}
    assert untiled <= set(_run_charts._PLANS)
    assert set(_run_charts._PLANS.values()) <= set(_run_charts._HUES)
