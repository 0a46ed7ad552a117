"""The meta of a profile: versions, machine, requests and the fingerprint of the work, without a user's texts.

    request_facts({"prompt": "a heron", "width": 128, "out": "/home/me/x.mp4"})      # {"width": 128}

Profiles are made to be passed on, so prompts, captions, paths, file names and host names stay out, whatever the name of
the input. Only texts that are settings are kept: identifiers of at most 32 letters, and inputs that a stage declares in
its `text_settings`. Two runs did the same work if their requests and their numbers of steps and passes are equal,
whatever the seed and wherever the weights lay; `fingerprint` condenses that to 16 digits.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from reslab.profiler._model._schema import SCHEMA_VERSION
from reslab.stages import Kind

Meta = dict[str, Any]

#: Inputs whose text is a setting of diffusers' pipelines or ours, never a text that the user wrote.
SETTINGS = frozenset(
    {"attention", "decode_audio", "device", "dtype", "lora", "output_type", "sigma_schedule", "variant"}
)
#: Words in the names of inputs whose text the user wrote, even if it is a single word.
WRITTEN = frozenset(
    {"author", "caption", "comment", "description", "file", "filename", "folder", "key", "lyrics", "message", "name"}
    | {"note", "out", "output", "password", "path", "prompt", "prompts", "query", "question", "subject", "text"}
    | {"title", "token", "uri", "url", "user"}
)
LONGEST = 32

#: Packages whose versions are kept if they are loaded.
_LIBRARIES = ("reslab.profiler", "polars", "torch", "diffusers", "transformers")


def profile_meta(spans: pl.DataFrame, requests: Sequence[Meta], facts: Mapping[str, Any]) -> Meta:
    """Return the meta of a profile of `spans`: its versions, machine, requests and work, and the `facts` noted."""
    distinct = [request for place, request in enumerate(requests) if request not in requests[:place]]
    meta = {
        "schema_version": SCHEMA_VERSION,
        "versions": _versions(),
        "device": {"kind": "cpu", "machine": platform.machine(), "logical_cpus": os.cpu_count()},
        "requests": distinct,
        "work": fingerprint(spans, distinct),
        **facts,
    }
    return json.loads(json.dumps(meta))  # as loading will return it: tuples become lists now


def request_facts(request: Mapping[str, Any], *, text_settings: Collection[str] = ()) -> Meta:
    """Return the part of a request that may be passed on: numbers, flags and settings, and no text of the user.

    >>> request_facts({"prompt": "a heron", "width": 128, "out": "/home/me/x.mp4", "image": object()})
    {'width': 128, 'image': 'object'}
    >>> request_facts({"caption": "a heron", "sampler": "euler", "save_as": "heron.mp4"})
    {'caption': 'str', 'sampler': 'euler', 'save_as': 'str'}
    >>> request_facts({"aspect": "16/9", "caption": "a heron"}, text_settings={"aspect"})
    {'aspect': '16/9', 'caption': 'str'}

    Args:
        request: The inputs of a pipeline's run. An input that is neither a number nor a setting is kept as the name of
            its type; prompts and paths are left out.
        text_settings: The names of inputs whose text is a setting in any form, as a pipeline's `text_settings`.
    """
    declared = {name: value for name, value in request.items() if name in text_settings and isinstance(value, str)}
    return {
        name: str(value) if name in declared else _fact(name, value)
        for name, value in request.items()
        if name in declared or not _private(name, value)
    }


def fingerprint(spans: pl.DataFrame, requests: Sequence[Meta]) -> str:
    """Return 16 hexadecimal digits that are equal for two profiles of the same work, whatever their number of repeats.

    The work is the requests without their seeds, and for each run the stages with their numbers of steps and passes.

    Args:
        spans: A frame of `SPAN_SCHEMA`.
        requests: Requests as `request_facts` returns them.
    """
    counts = (
        spans.filter(pl.col("kind").is_in([Kind.STAGE.value, Kind.STEP.value, Kind.PASS.value]))
        .group_by("run", pl.col("registered_name", "kind").cast(pl.String))
        .len()
        .sort("run", "registered_name", "kind")
    )
    runs = {json.dumps(run.drop("run").rows()) for run in counts.partition_by("run")}
    asked = {json.dumps({**request, "seed": None}, sort_keys=True) for request in requests}
    return hashlib.sha256(json.dumps([sorted(asked), sorted(runs)]).encode()).hexdigest()[:16]


def _private(name: str, value: Any) -> bool:
    is_path = isinstance(value, os.PathLike) or (isinstance(value, str) and ("/" in value or "\\" in value))
    return "prompt" in name or is_path


def _fact(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return str(value) if _is_setting(name, value) else "str"
    return value if value is None or isinstance(value, bool | int | float) else type(value).__name__


def _is_setting(name: str, text: str) -> bool:
    """Tell whether a text is a setting: of a known input, or an identifier given to an input without free text."""
    if len(text) > LONGEST:
        return False
    return name in SETTINGS or (text.isascii() and text.isidentifier() and not WRITTEN & set(name.lower().split("_")))


def _versions() -> dict[str, str]:
    loaded = {name: str(sys.modules[name].__version__) for name in _LIBRARIES if sys.modules.get(name)}
    return {"python": platform.python_version(), **loaded}
