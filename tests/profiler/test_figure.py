"""Charts: drawn offline, in order, with a caption that is the alternative text, in every look and format."""

import base64
import json
import struct
from contextlib import suppress

import pytest

from reslab.profiler import PALETTE, Figure, Profile, spans_frame
from reslab.profiler._units import format_ns


@pytest.fixture
def profile(event, prof):
    with suppress(RuntimeError), event("run", "lab", ns=10_000_000):
        with event("stage", "encode", ns=30_000_000):
            pass
        with event("stage", "denoise", ns=60_000_000):
            raise RuntimeError
    return prof.profile


def bars(figure):
    """The rows a chart draws."""
    return figure.spec["data"]["values"]


def test_bars_stand_in_the_order_of_running_and_carry_their_labels(profile):
    figure = profile.bars()
    assert [(bar["label"], bar["text"]) for bar in bars(figure)] == [
        ("encode", "30 ms · 30 %"),
        ("denoise", "60 ms · 60 % · 1 failed"),
        ("unattributed", "10 ms · 10 %"),
    ]
    assert [bar["color"] for bar in bars(figure)] == [PALETTE["blue"], PALETTE["vermilion"], PALETTE["grey"]]
    assert figure.spec["layer"][0]["encoding"]["y"]["sort"] == ["encode", "denoise", "unattributed"]


def test_the_caption_says_what_took_longest_and_what_is_outside(profile):
    assert profile.bars().caption == "denoise took 60 % of the 100 ms of 'lab'; 10 % was spent outside any stage."


def test_the_caption_of_several_runs_says_how_many(event, prof):
    for _ in range(2):
        with event("run", "lab", ns=1), event("stage", "encode", ns=199):
            pass
    caption = "encode took 100 % of the 400 ns in 2 runs of 'lab'; under 1 % was spent outside any stage."
    assert prof.profile.bars().caption == caption


def test_a_share_under_one_per_cent_is_escaped_in_the_table(event, prof):
    with event("run", "lab", ns=1), event("stage", "encode", ns=199):
        pass
    assert "&lt;1 %" in prof._repr_html_()


def test_a_profiler_is_shown_as_what_it_has_recorded(profile, prof):
    assert prof._repr_html_() == prof.profile._repr_html_() == profile._repr_html_()


def test_merged_stages_and_repeats_are_remarked_on():
    profile = Profile(
        spans=spans_frame(
            span=[0, 1, 2],
            run=[0, 0, 0],
            parent=[None, 0, 0],
            kind=["run", "stage", "stage"],
            lane=["host"] * 3,
            name=["lab", "a", "b"],
            stage=[None, "B", "B"],
            registered_name=[None, "a", "b"],
            start_ns=[0, 0, 10],
            host_ns=[100, 10, 90],
        )
    )
    assert bars(profile.bars())[0]["text"] == "100 ns · 100 % · 2 stages under one name · 2 calls"
    assert profile.stages().row(0, named=True)["registered_names"] == ["a", "b"]


def test_a_profile_without_runs_has_a_chart_that_says_so():
    assert Profile(spans=spans_frame()).bars().caption == "No run was recorded."


def test_a_notebook_gets_vega_lite_5_a_png_and_the_caption_as_alternative_text(profile):
    figure = profile.bars()
    data, metadata = figure._repr_mimebundle_()
    spec = data["application/vnd.vegalite.v5+json"]
    assert spec["$schema"].endswith("/vega-lite/v5.6.json")
    assert spec["background"] == "transparent"
    assert spec["description"] == metadata["image/png"]["alt"] == figure.caption
    png = base64.b64decode(data["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert (metadata["image/png"]["width"], metadata["image/png"]["height"]) == (width // 2, height // 2)
    assert data["text/plain"] == repr(figure) == f"Figure(caption={figure.caption!r})"


def test_what_a_notebook_compares_is_the_same_each_time_it_is_drawn(profile):
    first, second = (profile.bars()._repr_mimebundle_()[0] for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("look", ["notebook", "paper", "slides"])
def test_a_figure_is_saved_in_each_format_and_look(profile, tmp_path, suffix, magic, look):
    path = tmp_path / f"stages.{suffix}"
    profile.bars().save(path, look=look)
    assert path.read_bytes().startswith(magic)


def test_a_saved_figure_holds_every_label_and_the_caption(profile, tmp_path):
    profile.bars().save(tmp_path / "stages.svg")
    svg = (tmp_path / "stages.svg").read_text(encoding="utf-8")
    for text in ("encode", "60 ms · 60 % · 1 failed", "unattributed", "denoise took 60 % of the 100 ms"):
        assert text in svg


def test_unknown_formats_and_looks_are_refused_by_name(profile, tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.png, \.svg or \.pdf, got 'stages\.gif'"):
        profile.bars().save(tmp_path / "stages.gif")
    with pytest.raises(ValueError, match="look is one of 'notebook', 'paper', 'slides'; got 'poster'"):
        profile.bars().save(tmp_path / "stages.svg", look="poster")


def test_any_altair_chart_with_inline_data_is_a_figure():
    import altair as alt

    chart = alt.Chart(alt.Data(values=[{"x": 1}])).mark_point().encode(x="x:Q")
    figure = Figure.from_altair(chart, caption="One point.")
    assert "$schema" not in figure.spec
    assert figure.vega_lite(look="paper")["title"]["text"] == ["One point."]


@pytest.mark.parametrize(("ns", "text"), [(999, "999 ns"), (999_600, "1 ms"), (1e9, "1 s"), (3_600e9, "3600 s")])
def test_a_duration_takes_the_unit_that_fits(ns, text):
    assert format_ns(ns) == text


def test_the_table_has_a_column_for_the_device_only_where_one_was_timed():
    def html(device_ns):
        columns = {"span": [0, 1], "run": [0, 0], "kind": ["run", "stage"], "name": ["lab", "refine"]}
        columns |= {"stage": [None, "refine"], "lane": ["host"] * 2, "start_ns": [0, 0], "host_ns": [9, 9]}
        return Profile(spans=spans_frame(**columns, device_ns=[None, device_ns]))._repr_html_()

    assert "7 ms" in html(7_000_000)
    assert "device" not in html(None)
