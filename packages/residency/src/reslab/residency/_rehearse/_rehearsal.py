"""A rehearsal: what a pipeline computes, reads, writes and keeps alive, recorded without weights or a device.

    rehearsal = rehearse(pipeline, prompt="a heron over a weir", width=1536, height=1024, num_frames=121)
    rehearsal.table()                # stage → component → method: calls, TFLOP, GB, activation peak
    rehearsal.calls                  # every component call of the run, in order
    rehearsal.operations             # what the distinct blocks consist of
    rehearsal.save("run.parquet"); Rehearsal.load("run.parquet") == rehearsal

It is frozen data that is read without torch: plans, bounds and predictions are functions of its frames, whose columns
are in `_schema`.

A rehearsal is saved as one Parquet file, which any reader of Parquet opens as the frame of calls; nothing is pickled.
Meta and the other frames are in the file's metadata, each frame as a Parquet file of its own in base 85 under its name.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from reslab.residency._rehearse._failures import RehearsalError
from reslab.residency._rehearse._schema import SCHEMA_VERSION, SCHEMAS, check_frame
from reslab.stages.support import Compared, output_path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rehearsal(Compared):
    """The record of one run of a pipeline.

    Args:
        components: One row per component with weights.
        blocks: One row per repeated block of a component.
        calls: One row per component call, in order.
        traces: One row per distinct call.
        segments: The order of each trace: blocks, and the operations between blocks.
        operations: One row per run of equal operations of a distinct block.
        glue: One row per stage: the operations outside of components.
        meta: Schema version, pipeline, settings, request without prompt and paths, versions.

    Raises:
        ValueError: A frame has other columns than its schema.
    """

    components: pl.DataFrame
    blocks: pl.DataFrame
    calls: pl.DataFrame
    traces: pl.DataFrame
    segments: pl.DataFrame
    operations: pl.DataFrame
    glue: pl.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SCHEMAS:
            check_frame(getattr(self, name), name)

    @property
    def total_flops(self) -> int:
        """Return the FLOPs of the whole run, component calls and the operations between them."""
        calls = self.calls.join(self.traces.select("trace", "flops"), on="trace")
        return sum(calls["flops"]) + sum(self.glue["flops"])  # by Python: polars' sum of Int64 wraps around

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights, without the LoRA."""
        return int(self.components["weight_bytes"].sum())

    def table(self, *, lora: str = "dynamic") -> pl.DataFrame:
        """Return one row per stage, component and method, with sums over its calls.

        Columns: stage, component, method, calls, shapes (of the first call), tflop, read_gb, written_gb, activation_gib
        (the highest peak of a call), workspace_gib, host_operations.

        Args:
            lora: "dynamic", as the pipeline was rehearsed, or "merged".
        """
        from reslab.residency._rehearse._rehearsal_table import table

        return table(self.calls, self.traces, lora)

    def stages(self) -> pl.DataFrame:
        """Return one row per stage, in order: stage, calls, tflop, activation_gib, held_gib (values between calls)."""
        from reslab.residency._rehearse._rehearsal_table import stages

        return stages(self.table(), self.glue)

    def trace_operations(self, trace: int) -> pl.DataFrame:
        """Return the operations of one trace in order, with the block of each."""
        segments = self.segments.filter(pl.col("trace") == trace).select("position", "block", "path", "body")
        found = segments.rename({"position": "segment"}).join(self.operations, on="body")
        return found.sort("segment", "position")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rehearsal into one Parquet file, which any reader of Parquet opens as the frame of calls.

        Args:
            path: The file; missing folders are made.

        Raises:
            ValueError: The file's ending is that of another format.
        """
        save({name: getattr(self, name) for name in SCHEMAS}, self.meta, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Rehearsal:
        """Read a file that `save` wrote.

        Raises:
            RehearsalError: The file is another one, damaged, or of another schema version.
            FileNotFoundError: There is no such file.
        """
        frames, meta = load(path)
        return Rehearsal(**frames, meta=meta)

    def __repr__(self) -> str:
        name = self.meta.get("pipeline", "pipeline")
        distinct = self.traces.height - self.calls["tiled_trace"].n_unique() + self.calls["tiled_trace"].has_nulls()
        return (
            f"Rehearsal({name!r}: {self.calls.height} calls, {distinct} of them distinct, "
            f"{self.total_flops / 1e15:.3g} PFLOP, {self.weight_bytes / 2**30:.2f} GiB of weights)"
        )

    def _repr_html_(self) -> str:
        from reslab.residency._rehearse._rehearsal_table import html

        return html(self.table(), caption=repr(self))


_META = "reslab.rehearsal"
_LEVEL = 19  # of zstd: rehearsals ship with packages, so size matters more than the time to write


def save(frames: Mapping[str, pl.DataFrame], meta: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a rehearsal into one Parquet file, replacing a file that exists and making missing folders.

    Args:
        frames: The frames of `SCHEMAS`, by name.
        meta: The rehearsal's meta.
        path: The file.
    """
    content = {_META: json.dumps({"schema_version": SCHEMA_VERSION, "meta": dict(meta)})}
    for name in SCHEMAS:
        if name != "calls":
            content[f"{_META}.{name}"] = base64.b85encode(_parquet(frames[name])).decode()
    target = output_path(path, "a rehearsal", ".parquet", "")
    frames["calls"].write_parquet(target, metadata=content, compression="zstd", compression_level=_LEVEL)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=_LEVEL, statistics=False)
    return buffer.getvalue()


def load(path: str | os.PathLike[str]) -> tuple[dict[str, pl.DataFrame], Mapping[str, Any]]:
    """Read the frames of a rehearsal, by name, and its meta.

    Raises:
        RehearsalError: The file is another one, damaged, or of another schema version.
        FileNotFoundError: There is no such file.
    """
    data = Path(path).read_bytes()
    try:
        metadata = pl.read_parquet_metadata(io.BytesIO(data))
        calls = pl.read_parquet(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise RehearsalError(f"{path}: damaged, or no Parquet file ({error}); rehearse and save again") from None
    if _META not in metadata:
        raise RehearsalError(f"{path}: a Parquet file, but not one that Rehearsal.save wrote")
    content = json.loads(metadata[_META])
    if content["schema_version"] != SCHEMA_VERSION:
        raise RehearsalError(
            f"{path}: written with schema version {content['schema_version']}, but this reslab-residency reads version "
            f"{SCHEMA_VERSION}; rehearse again"
        )
    frames = {name: _frame(metadata[f"{_META}.{name}"]) for name in SCHEMAS if name != "calls"}
    return {"calls": _with_tiling(calls), **frames}, content["meta"]


def _with_tiling(calls: pl.DataFrame) -> pl.DataFrame:
    """Return the calls with a column of tiled traces; files of older versions lack it, so it is null for them."""
    if "tiled_trace" in calls.columns:
        return calls
    return calls.with_columns(tiled_trace=pl.lit(None, pl.Int64)).select(*SCHEMAS["calls"])


def _frame(text: str) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(base64.b85decode(text)))
