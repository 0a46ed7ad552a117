"""Device modes really run on the tiny model: bytes and bits; and the widget over them."""

import numpy as np
import polars as pl
import pytest

from reslab import ltx2, residency
from reslab.ltx2._modes._mode_runs import RUNS
from reslab.residency import PlanError

REQUEST = {
    "prompt": "a heron over a weir",
    "width": 128,
    "height": 64,
    "num_frames": 9,
    "num_inference_steps": 2,
    "max_sequence_length": 128,
    "seed": 7,
}
PADDING = 1.01  # weights are aligned in memory


@pytest.fixture(scope="module")
def pipe():
    unguided = ltx2.Guidance()
    tiny = ltx2.load("tiny", variant="LTX-2.3")
    return ltx2.two_stage(tiny, video_guidance=unguided, audio_guidance=unguided)


@pytest.fixture(scope="module")
def rehearsal(pipe):
    return residency.rehearse(pipe, **REQUEST)


def same(one, other):
    return np.array_equal(one.frames, other.frames) and np.array_equal(one.audio, other.audio)


def test_original_makes_the_video_of_an_unmanaged_pipeline_and_keeps_its_transformer(pipe, rehearsal):
    run = ltx2.run_mode("original", pipe, REQUEST, rehearsal=rehearsal)
    assert same(run.result, pipe.run(**REQUEST))
    assert run.mode == "original"
    (transformer,) = rehearsal.components.filter(component="transformer").rows(named=True)
    assert 1 <= run.stays_bytes / (transformer["weight_bytes"] + transformer["lora_bytes"]) < PADDING
    assert run.moved_bytes == run.profile.transfers()["moved_bytes"].sum() > 0
    assert run.stays_bytes < run.peak_bytes < run.host_bytes
    assert 0 <= run.stalled_ns < run.run_ns


def test_the_modes_differ_in_bytes_by_the_transformers_and_agree_in_bits_by_the_lora(pipe, rehearsal):
    runs = ltx2.compare_modes(pipe, REQUEST, rehearsal=rehearsal, link="1 GB/s")
    original, snapshot, resident = runs.runs
    (nbytes,) = rehearsal.components.filter(component="transformer")["weight_bytes"]
    assert snapshot.moved_bytes - original.moved_bytes == pytest.approx(2 * nbytes, rel=0.01)
    assert (resident.moved_bytes, resident.stalled_ns, snapshot.stays_bytes) == (0, 0, 0)
    assert snapshot.peak_bytes < original.peak_bytes < resident.peak_bytes == resident.stays_bytes
    assert same(snapshot.result, resident.result)
    assert runs.frame()["link_bytes_per_s"].to_list() == [10**9] * 3


def test_a_cards_ratio_is_one_bandwidth_for_all_modes(pipe, rehearsal):
    card = residency.link_ratio(residency.device("H100", link="2000 GB/s"), ltx2.rehearsal("LTX-2.3"))
    runs = ltx2.compare_modes(pipe, REQUEST, modes=["original", "auto"], rehearsal=rehearsal, link=card)
    assert [run.mode for run in runs.runs] == ["original", "auto: resident"]
    (bandwidth,) = set(runs.frame()["link_bytes_per_s"])
    assert bandwidth > 0


def test_a_mode_that_does_not_fit_is_refused_with_its_tightest_stage(pipe, rehearsal):
    with pytest.raises(PlanError, match=r"resident: It does not fit: \w+ is tightest.*Nothing was moved"):
        ltx2.run_mode("resident", pipe, REQUEST, rehearsal=rehearsal, free_bytes=2 * 2**20)


def test_a_setting_that_contradicts_the_mode_is_refused(pipe, rehearsal):
    with pytest.raises(PlanError, match="'resident' contradicts transformer='layerwise'"):
        ltx2.run_mode("resident", pipe, REQUEST, rehearsal=rehearsal, settings={"transformer": "layerwise"})


@pytest.fixture
def explorer(pipe, rehearsal):
    return ltx2.mode_explorer(pipe, REQUEST, links={"slow": "100 MB/s"}, memories=(2 * 2**20,), rehearsal=rehearsal)


def test_the_widget_shows_the_line_of_its_state_and_that_line_runs(pipe, explorer):
    explorer.link.value = "slow"
    assert explorer.code == "ltx2.run_mode('original', pipe, request, link=links['slow'])"
    names = {"ltx2": ltx2, "pipe": pipe, "request": REQUEST, "links": {"slow": "100 MB/s"}}
    by_hand = eval(explorer.code, names)
    explorer.run()
    (run,) = explorer.runs.runs
    facts = ["mode", "transformer", "link_bytes_per_s", "moved_bytes", "peak_bytes"]
    assert (
        dict(zip(RUNS, run.row(), strict=True)).items()
        >= {name: value for name, value in zip(RUNS, by_hand.row(), strict=True) if name in facts}.items()
    )


def test_the_widget_says_what_does_not_fit_and_stays_usable(explorer):
    explorer.mode.value, explorer.memory.value = "resident", 2 * 2**20
    explorer.run()
    assert "It does not fit" in explorer.message
    assert explorer.runs.runs == ()
    explorer.mode.value, explorer.memory.value = "original", -1
    explorer.run()
    assert explorer.message == "done"
    assert explorer.runs.frame()["mode"].to_list() == ["original"]


def test_where_widgets_do_not_run_the_runs_and_the_line_are_shown(explorer):
    explorer.run()
    shown = explorer._repr_mimebundle_()
    assert shown["text/plain"] == "ModeExplorer(ltx2.run_mode('original', pipe, request))"
    assert "application/vnd.jupyter.widget-view+json" in shown
    for text in ("<table>", "original", "<img alt=", "ltx2.run_mode("):
        assert text in shown["text/html"]


def test_runs_are_a_frame_a_table_and_a_picture(explorer):
    explorer.run()
    runs = explorer.runs
    assert runs.frame().schema == pl.Schema(RUNS)
    assert runs["original"] is runs.runs[0]
    assert "as fast as memory" in runs._repr_html_()
    assert runs.chart().caption.startswith("What each mode holds of the device")
