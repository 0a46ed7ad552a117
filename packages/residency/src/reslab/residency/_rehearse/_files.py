"""One rehearsal, one Parquet file: the calls are its table, the other frames and the meta lie in its metadata.

Any reader of Parquet opens it as the frame of calls; nothing is pickled. Each other frame is a Parquet file of its own,
in base 85 under its name.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from reslab.residency._rehearse._errors import RehearsalError
from reslab.residency._rehearse._schema import SCHEMA_VERSION, SCHEMAS
from reslab.stages import output_path

_META = "reslab.rehearsal"
_LEVEL = 19  # of zstd: rehearsals ship with packages, and are small


def save(frames: Mapping[str, pl.DataFrame], meta: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a rehearsal into one Parquet file, replacing what is there and making the folders on the way.

    Args:
        frames: The frames of `SCHEMAS`, by name.
        meta: The rehearsal's meta.
        path: Of the file.
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
        RehearsalError: It is another file, a damaged one, or of another version.
        FileNotFoundError: There is no file.
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
    """Return the calls with their column of tiled traces, which older files do not have: nothing is known of tiles."""
    if "tiled_trace" in calls.columns:
        return calls
    return calls.with_columns(tiled_trace=pl.lit(None, pl.Int64)).select(*SCHEMAS["calls"])


def _frame(text: str) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(base64.b85decode(text)))
