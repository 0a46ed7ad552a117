"""A rehearsal is data: tables, one file, equal after loading, read without torch."""

import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest

from reslab import ltx2
from reslab.residency import Plan, Rehearsal, RehearsalError, bounds, device

SIZE = {"width": 1536, "height": 1024, "num_frames": 121}


@pytest.fixture(scope="module")
def rehearsal():
    return ltx2.rehearsal("LTX-2.3", **SIZE)


def test_it_is_equal_after_saving_and_loading(rehearsal, tmp_path):
    rehearsal.save(tmp_path / "run.parquet")
    assert Rehearsal.load(tmp_path / "run.parquet") == rehearsal
    assert pl.read_parquet(tmp_path / "run.parquet").height == rehearsal.calls.height
    assert rehearsal != ltx2.rehearsal("LTX-2", **SIZE)


def test_a_file_that_is_none_is_one_clear_error(rehearsal, tmp_path):
    path = tmp_path / "run.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(RehearsalError, match="damaged, or no Parquet file"):
        Rehearsal.load(path)
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(RehearsalError, match=r"not one that Rehearsal\.save wrote"):
        Rehearsal.load(path)


def test_the_table_has_a_row_a_stage_component_and_method(rehearsal):
    table = rehearsal.table()
    assert table.columns[:7] == ["stage", "component", "method", "calls", "shapes", "tflop", "read_gb"]
    assert table.columns[7:] == ["written_gb", "activation_gib", "workspace_gib", "host_operations"]
    assert table["stage"].to_list()[:2] == ["TextEncodingStage", "LTX2TextConnectorStage"]
    denoise = table.row(by_predicate=pl.col("stage") == "LTX2AVDenoisingStage", named=True)
    assert (denoise["component"], denoise["method"], denoise["calls"]) == ("transformer", "forward", 30 * 4)
    assert denoise["host_operations"] > 1_000_000
    assert table["tflop"].sum() * 1e12 == pytest.approx(rehearsal.total_flops)


def test_more_operations_than_64_bits_count_are_counted(rehearsal):
    """The largest request that is allowed, of 1000 steps, takes more than 2 ** 63 FLOPs."""
    huge = replace(
        rehearsal,
        traces=rehearsal.traces.with_columns(flops=pl.lit(2**60)),
        operations=rehearsal.operations.with_columns(flops=pl.lit(2**50), dtype=pl.lit("float4").cast(pl.Categorical)),
    )
    calls = rehearsal.calls.height
    assert huge.total_flops == calls * 2**60 + rehearsal.glue["flops"].sum() > 2**63
    assert huge.table()["tflop"].sum() == pytest.approx(calls * 2**60 / 1e12)
    assert huge.stages()["tflop"].sum() == pytest.approx(calls * 2**60 / 1e12)
    assert "no float4 throughput" in bounds(huge, Plan.of(), device("RTX 4090")).unknown


def test_sums_of_a_trace_are_those_of_its_operations(rehearsal):
    for trace in rehearsal.traces.iter_rows(named=True):
        operations = rehearsal.trace_operations(trace["trace"])
        sums = {
            name: (operations[name] * operations["repeats"]).sum() for name in ("flops", "read_bytes", "written_bytes")
        }
        assert sums == {name: trace[name] for name in sums}
        assert operations["repeats"].sum() == trace["host_operations"]


def test_equal_blocks_share_a_body_and_blocks_add_up_to_their_component(rehearsal):
    of_transformer = pl.col("component").cast(pl.String) == "transformer"
    transformer = rehearsal.components.row(by_predicate=of_transformer, named=True)
    blocks = rehearsal.blocks.filter(of_transformer)
    assert (transformer["blocks"], transformer["block_path"]) == (48, "transformer_blocks")
    assert blocks["weight_bytes"].sum() + transformer["outside_bytes"] == transformer["weight_bytes"]
    assert blocks["lora_bytes"].sum() < transformer["lora_bytes"]  # it reaches layers outside the blocks, too
    first = rehearsal.calls.filter(of_transformer)["trace"][0]
    bodies = rehearsal.segments.filter((pl.col("trace") == first) & (pl.col("block") >= 0))
    assert (bodies.height, bodies["body"].n_unique()) == (48, 1)


def test_a_shipped_rehearsal_is_read_without_torch():
    code = (
        "import sys; sys.modules.update(torch=None, diffusers=None, transformers=None);"
        "from reslab import ltx2; r = ltx2.rehearsal('LTX-2.3 distilled', width=1536, height=1024, num_frames=121);"
        "r.table(); r.stages(); print(r.calls.height)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "18"), done.stderr
