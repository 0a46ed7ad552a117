"""Read a JSON object or the header of a safetensors file, and name the file where that fails.

    read_json(Path("vae/config.json"), "vae/config.json")["_class_name"]
    read_header(Path("lora.safetensors"), "lora.safetensors").tensors     # names, shapes and dtypes; no weights

A folder may hold anything: a truncated download, a pointer of Git LFS in place of weights, a list in place of an
object. Each is one ValueError with the file's name, whatever error the library underneath raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

# The floating-point types, as a safetensors header names them.
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_AGAIN = "download it again"


class StoredTensor(NamedTuple):
    """Describe one tensor of a safetensors file: its shape, the format's name of its dtype, and the file."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


class SafetensorsHeader(NamedTuple):
    """Hold the header of a safetensors file."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_json(file: Path, name: str) -> dict[str, Any]:
    """Read a JSON object; a ValueError calls a file without one by `name`, as the user knows it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({error}); {_AGAIN}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no JSON object but {_shown(found)}; {_AGAIN}.")
    return found


def read_header(file: Path, name: str) -> SafetensorsHeader:
    """Read the header of a safetensors file.

    Raises:
        ValueError: The file is empty, pickled, a pointer of Git LFS, truncated or damaged.
    """
    if why := _no_safetensors(file):
        raise ValueError(f"{name} {why}.")
    try:
        with safe_open(file, framework="np") as tensors:  # for torch it maps the file so that it counts as memory
            parts = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 (no mapping: no __iter__)
            found = {key: StoredTensor(tuple(part.get_shape()), part.get_dtype(), file) for key, part in parts.items()}
            return SafetensorsHeader(found, tensors.metadata() or {})
    except (SafetensorError, OSError) as error:
        size = f"{file.stat().st_size:,} bytes"
        raise ValueError(f"{name} is truncated or damaged ({size}: {error}); {_AGAIN}.") from None


def first_bytes(file: Path, count: int) -> bytes:
    """Return the first bytes of a file, or all bytes of a shorter one."""
    with file.open("rb") as stream:
        return stream.read(count)


def _no_safetensors(file: Path) -> str | None:
    """Say why a file is no safetensors file, where its first bytes show it; else None."""
    start = first_bytes(file, 24)
    if not start:
        return f"is empty; {_AGAIN}"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")):
        return "is pickled, which can run code when it is loaded; convert it to safetensors"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights; run `git lfs pull` where it lies"
    if start.startswith(b"GGUF"):
        return "is a GGUF file, which is not read yet; use the safetensors that it was made from"
    return None


def _shown(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
