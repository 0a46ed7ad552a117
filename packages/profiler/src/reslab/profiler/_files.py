"""One profile, one Parquet file: the spans are its table, memory and meta lie in its key-value metadata.

Any reader of Parquet opens it as the frame of spans; nothing is pickled. The memory samples are a Parquet file of
their own, in base64 under a second key.

    save(profile, "run.parquet")
    load("run.parquet") == profile
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import polars as pl

from reslab.profiler._profile import Profile
from reslab.profiler._schema import SCHEMA_VERSION

_META = "reslab.profile"
_MEMORY = "reslab.profile.memory"


class ProfileFileError(ValueError):
    """A file is no profile, or none that this version can read."""


def save(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write a profile into one Parquet file, replacing what is there."""
    memory = io.BytesIO()
    profile.memory.write_parquet(memory)
    content = {
        _META: json.dumps({"schema_version": SCHEMA_VERSION, "meta": dict(profile.meta)}),
        _MEMORY: base64.b64encode(memory.getvalue()).decode(),
    }
    profile.spans.write_parquet(Path(path), metadata=content)


def load(path: str | os.PathLike[str]) -> Profile:
    """Read a profile; raises ProfileFileError for what is none, and FileNotFoundError where nothing is."""
    data = Path(path).read_bytes()
    try:
        metadata = pl.read_parquet_metadata(io.BytesIO(data))
        spans = pl.read_parquet(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise ProfileFileError(f"{path}: damaged, or no Parquet file ({error}); save the profile again") from None
    if _META not in metadata or _MEMORY not in metadata:
        raise ProfileFileError(f"{path}: a Parquet file, but not one that Profile.save wrote")
    content = json.loads(metadata[_META])
    _check_version(content["schema_version"], path)
    memory = pl.read_parquet(io.BytesIO(base64.b64decode(metadata[_MEMORY])))
    return Profile(spans=spans, memory=memory, meta=content["meta"])


def _check_version(version: int, path: str | os.PathLike[str]) -> None:
    if version != SCHEMA_VERSION:
        raise ProfileFileError(
            f"{path}: written with schema version {version}, but this reslab-profiler reads version {SCHEMA_VERSION}; "
            "install the reslab-profiler that wrote it, or a newer one"
        )
