"""Save a profile as one Parquet file, and load it: the spans are its table, memory and meta lie in its metadata.

    save(spans, memory, meta, "run.parquet")
    spans, memory, meta = load("run.parquet")

Any reader of Parquet opens the file as the frame of spans; nothing is pickled. The memory samples are a Parquet file of
their own, in base64 under a second key. A third key holds a checksum of the whole file, computed while its own digits
were zeros, because Parquet readers do not notice a flipped byte in a number.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from reslab.profiler._model._schema import SCHEMA_VERSION
from reslab.stages.support import output_path

_META = "reslab.profile"
_MEMORY = "reslab.profile.memory"
_CHECKSUM = "reslab.profile.checksum"
_MAGIC = b"PAR1"
_PREFIX = b"reslab.profile:sha256:"  # so that a checksum in a user's note is not taken for ours
_BLANK = _PREFIX + b"0" * 64
_DIGEST = re.compile(_PREFIX + rb"[0-9a-f]{64}")

FilePath = str | os.PathLike[str]


class ProfileFileError(ValueError):
    """A file is not a profile, or not one that this version can read."""


def save(spans: pl.DataFrame, memory: pl.DataFrame, meta: Mapping[str, Any], path: FilePath) -> None:
    """Write a profile's frames and meta into one Parquet file, replacing it and making the folders on the way."""
    samples = io.BytesIO()
    memory.write_parquet(samples)
    write(
        spans,
        {
            _META: json.dumps({"schema_version": SCHEMA_VERSION, "meta": dict(meta)}),
            _MEMORY: base64.b64encode(samples.getvalue()).decode(),
        },
        path,
    )


def write(spans: pl.DataFrame, content: dict[str, str], path: FilePath) -> None:
    """Write a frame with key-value metadata and a checksum; the file is written whole or not at all."""
    file = io.BytesIO()
    spans.write_parquet(file, metadata={**content, _CHECKSUM: _BLANK.decode()})
    blank = file.getvalue()
    target = output_path(path, "a profile", ".parquet", "")
    partial = target.with_name(f"{target.name}.partial")
    partial.write_bytes(blank.replace(_BLANK, _digest(blank)))
    partial.replace(target)


def load(path: FilePath) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Read a profile's spans, memory and meta; raises ProfileFileError for another file, FileNotFoundError for none."""
    data = Path(path).read_bytes()
    if not (data.startswith(_MAGIC) and data.endswith(_MAGIC)):
        raise ProfileFileError(f"{path}: no Parquet file, or one cut short; copy it once more, or save it again")
    _check_digest(data, path)
    metadata = pl.read_parquet_metadata(io.BytesIO(data))
    content = json.loads(metadata[_META])
    _check_version(content["schema_version"], path)
    memory = pl.read_parquet(io.BytesIO(base64.b64decode(metadata[_MEMORY])))
    return pl.read_parquet(io.BytesIO(data)), memory, content["meta"]


def _digest(blank: bytes) -> bytes:
    return _PREFIX + hashlib.sha256(blank).hexdigest().encode()


def _check_digest(data: bytes, path: FilePath) -> None:
    """Raise unless the file is as `write` wrote it; done before polars reads it, which may crash on a damaged file."""
    found = _DIGEST.search(data)
    if found is None:
        raise ProfileFileError(f"{path}: a Parquet file, but not one that Profile.save wrote")
    if _digest(data.replace(found[0], _BLANK)) != found[0]:
        raise ProfileFileError(
            f"{path}: damaged, its checksum is another; copy it once more, or save the profile again"
        )


def _check_version(version: Any, path: FilePath) -> None:
    if version != SCHEMA_VERSION:
        raise ProfileFileError(
            f"{path}: written with schema version {version}, but this reslab-profiler reads version {SCHEMA_VERSION}; "
            "install the reslab-profiler that wrote it, or a newer one"
        )
