"""Saving: folders on the way are made, and a file is what the ending of its name promises."""

import gzip
import json

import numpy as np
import pytest

from reslab import ltx2
from reslab.profiler import Figure, Profile, spans_frame
from reslab.residency import Rehearsal

FIGURE = Figure(spec={"mark": "bar", "data": {"values": [{"a": 1}]}}, caption="One bar.")
PROFILE = Profile(spans=spans_frame(span=[0], kind=["run"], name=["lab"], run=[0], start_ns=[0], host_ns=[9]))
VIDEO = ltx2.Video(
    frames=np.zeros((9, 32, 32, 3), np.uint8),
    audio=np.zeros((18_000, 2), np.float32),
    frame_rate=24.0,
    sample_rate=48_000,
)


@pytest.fixture(scope="module")
def rehearsal():
    return ltx2.rehearsal("LTX-2.3 distilled", width=768, height=512, num_frames=121)


SAVES = {
    "run.parquet": (lambda path, _: PROFILE.save(path), b"PAR1"),
    "rehearsal.parquet": (lambda path, rehearsal: rehearsal.save(path), b"PAR1"),
    "run.json": (lambda path, _: PROFILE.export_chrome_trace(path), b'{"tra'),
    "run.json.gz": (lambda path, _: PROFILE.export_chrome_trace(path), b"\x1f\x8b"),
    "chart.png": (lambda path, _: FIGURE.save(path), b"\x89PNG"),
    "chart.svg": (lambda path, _: FIGURE.save(path), b"<svg"),
    "chart.PDF": (lambda path, _: FIGURE.save(path), b"%PDF"),
    "video.mp4": (lambda path, _: VIDEO.save(path), b"\x00\x00\x00"),
}


@pytest.mark.parametrize("name", SAVES)
def test_folders_are_made_and_the_file_is_what_its_name_says(tmp_path, rehearsal, name):
    save, begins = SAVES[name]
    path = tmp_path / "new" / "folder" / name
    save(path, rehearsal)
    assert path.read_bytes().startswith(begins)
    assert [each.name for each in path.parent.iterdir()] == [name]
    save(path, rehearsal)  # replaced, not refused


@pytest.mark.parametrize("name", SAVES)
@pytest.mark.parametrize("ending", ["csv", "gz", "zip"])
def test_an_ending_of_another_format_is_refused_before_anything_is_made(tmp_path, rehearsal, name, ending):
    save, _ = SAVES[name]
    with pytest.raises(ValueError, match=rf"is saved as .*, got 'x\.{ending}'; save it as 'x\."):
        save(tmp_path / "new" / f"x.{ending}", rehearsal)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SAVES)
def test_a_file_where_a_folder_has_to_be_is_named(tmp_path, rehearsal, name):
    save, _ = SAVES[name]
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        with pytest.raises(ValueError, match=r"cannot be saved in '.*taken.*': a file has that name"):
            save(folder / name, rehearsal)


def test_a_compressed_trace_is_the_same_trace(tmp_path):
    for name in ("run.json", "run.json.gz"):
        PROFILE.export_chrome_trace(tmp_path / name)
    packed = gzip.decompress((tmp_path / "run.json.gz").read_bytes())
    assert json.loads(packed) == json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))


def test_what_was_saved_in_a_new_folder_is_read_back(tmp_path, rehearsal):
    PROFILE.save(tmp_path / "a" / "run.parquet")
    rehearsal.save(tmp_path / "b" / "run.parquet")
    assert Profile.load(tmp_path / "a" / "run.parquet") == PROFILE
    assert Rehearsal.load(tmp_path / "b" / "run.parquet") == rehearsal
