"""A profile is data: one file, equal after loading; what is not a profile is refused with a reason."""

import io
import json
import subprocess
import sys

import polars as pl
import pytest

from reslab.profiler import SPAN_SCHEMA, Profile, ProfileFileError, memory_frame, spans_frame
from reslab.profiler._model import _files


@pytest.fixture
def profile(event, prof, memory):
    with event("run", "lab", ns=3), event("stage", "décodage", ns=5):
        memory.allocate(64)
    prof.note(plan={"transformer": "swap"})
    return prof.stop()


def test_a_profile_is_equal_after_saving_and_loading(profile, tmp_path):
    profile.save(tmp_path / "run.parquet")
    loaded = Profile.load(tmp_path / "run.parquet")
    assert loaded == profile
    assert loaded.stages().equals(profile.stages())
    assert loaded.memory.height == 4


def test_profiles_differ_by_spans_memory_or_meta(profile):
    other_spans = profile.spans.with_columns(host_ns=pl.col("host_ns") + 1)
    assert profile != Profile(spans=other_spans, memory=profile.memory, meta=profile.meta)
    assert profile != Profile(spans=profile.spans, meta=profile.meta)
    assert profile != Profile(spans=profile.spans, memory=profile.memory)
    assert profile != "profile"


def test_any_reader_of_parquet_sees_the_spans(profile, tmp_path):
    profile.save(tmp_path / "run.parquet")
    assert pl.read_parquet(tmp_path / "run.parquet").equals(profile.spans)


def test_other_files_are_refused_with_their_name_and_what_to_do(profile, tmp_path):
    path = tmp_path / "run.parquet"
    profile.save(path)
    whole = path.read_bytes()
    foreign = io.BytesIO()
    pl.DataFrame({"a": [1]}).write_parquet(foreign)
    for content, reason in (
        (b"", "no Parquet file, or one cut short; copy it once more"),
        (b"a,b\n1,2\n" * 9, "no Parquet file"),
        (whole[: len(whole) // 2], "cut short"),
        (foreign.getvalue(), "not one that Profile.save wrote"),
    ):
        path.write_bytes(content)
        with pytest.raises(ProfileFileError, match=f"run.parquet: .*{reason}"):
            Profile.load(path)


def test_no_flipped_bit_goes_unnoticed(profile, tmp_path):
    path = tmp_path / "run.parquet"
    profile.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ProfileFileError):
            Profile.load(path)


def test_a_changed_number_in_a_file_that_polars_still_reads_is_refused_as_damaged(profile, tmp_path):
    path = tmp_path / "run.parquet"
    profile.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"allocated_peak_bytes", b"allocated_peek_bytes"))
    with pytest.raises(ProfileFileError, match=r"damaged, its checksum is another; .*save the profile again"):
        Profile.load(path)


def test_a_file_is_replaced_whole_and_a_noted_checksum_is_not_taken_for_its_own(prof, tmp_path):
    path = tmp_path / "run.parquet"
    for _ in range(2):
        prof.note(weights=f"sha256:{'0' * 64}")
        prof.stop().save(path)
    assert Profile.load(path) == prof.profile
    assert [file.name for file in tmp_path.iterdir()] == ["run.parquet"]


def test_a_newer_file_is_refused_by_its_version(profile, tmp_path):
    path = tmp_path / "run.parquet"
    _files.write(profile.spans, {"reslab.profile": json.dumps({"schema_version": 99})}, path)
    with pytest.raises(ProfileFileError, match="schema version 99, but this reslab-profiler reads version 1; install"):
        Profile.load(path)


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Profile.load(tmp_path / "nothing.parquet")


def test_a_frame_of_another_schema_is_refused_column_by_column():
    frame = spans_frame().drop("lane").with_columns(host_ns=pl.lit(0.5), extra=pl.lit(1))
    with pytest.raises(ValueError, match=r"lane is missing.*host_ns is Float64, not Int64.*extra is not in the schema"):
        Profile(spans=frame)
    with pytest.raises(ValueError, match="order of the columns"):
        Profile(spans=spans_frame().select(*reversed(SPAN_SCHEMA)))
    with pytest.raises(ValueError, match=r"unknown columns \['duration'\]"):
        spans_frame(duration=[1])


def test_stored_text_of_two_pipelines_joins():
    a = spans_frame(name=["encode", "decode"], host_ns=[1, 2])
    b = spans_frame(name=["decode", "upsample"], host_ns=[3, 4])
    assert a.join(b, on="name").select("name", "host_ns", "host_ns_right").rows() == [("decode", 2, 3)]
    assert pl.concat([a, b]).height == 4


def test_the_repr_is_one_line_without_times(profile):
    assert repr(profile) == "Profile(runs=1, stages=1, spans=2)"


def test_the_table_escapes_what_a_user_named(event, prof):
    with event("run", "<b>lab</b>"), event("stage", "<script>alert(1)</script>", ns=2_000_000), prof.span("<i>"):
        pass
    html = prof.profile._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "<i>" not in html
    assert "2 ms" in html


def test_the_table_shows_registered_names_only_where_they_differ():
    def html(profile_name):
        columns = {"span": [0, 1], "run": [0, 0], "kind": ["run", "stage"], "name": ["lab", "refine"]}
        columns |= {"stage": [None, profile_name], "registered_name": [None, "refine"]}
        spans = spans_frame(**columns, lane=["host"] * 2, start_ns=[0, 0], host_ns=[9, 9], parent=[None, 0])
        return Profile(spans=spans)._repr_html_()

    assert "registered as" not in html("refine")
    assert "registered as" in html("Denoise")


def test_the_table_of_an_empty_profile_says_so():
    assert "Nothing was recorded" in Profile(spans=spans_frame(), memory=memory_frame())._repr_html_()


def test_the_profiler_runs_without_torch_and_altair_until_a_chart_is_made():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['altair'] = sys.modules['vl_convert'] = None\n"
        "from reslab.profiler import Profiler\n"
        "with Profiler() as prof, prof.span('load'): pass\n"
        "print(prof.profile.named().height, len(prof.profile._repr_html_()) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True"]
