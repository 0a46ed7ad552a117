"""What the header of a GGUF file says: architecture, tensor names and quantisation types. The weights are not read.

Of a file a bounded beginning is read, and no size that the header declares is allocated: a declared length that goes
beyond what was read ends the reading.

    read_gguf(Path("ltx-2.3-22b-dev-Q4_K_M.gguf")).types      # ('Q4_K', 'Q6_K', 'F32')

The layout is that of the GGUF specification in ggml's repository (docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from reslab.ltx2._files import first_bytes

MAGIC = b"GGUF"
HEADER_BYTES = 16 * 2**20
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# ggml's own numbers of its types.
_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}


class Gguf(NamedTuple):
    """Hold what was read of a GGUF header."""

    version: int
    architecture: str | None
    names: tuple[str, ...]
    types: tuple[str, ...]  # of the tensors, each once, in the order of the file


class _End(Exception):
    """What was read ends before what the header declares."""


class _Cursor:
    """Read little-endian values one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, form: str) -> int:
        found: int = struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))[0]
        return found

    def bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise _End
        self._at += count
        return self._data[self._at - count : self._at]

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode(errors="replace")


def read_gguf(file: Path) -> Gguf:
    """Read the header of a GGUF file, as far as its first bytes hold it.

    A ValueError says that the header is damaged, or of a version that is not known.
    """
    data = first_bytes(file, HEADER_BYTES)
    cursor, texts, tensors = _Cursor(data), dict[str, str | None](), list[tuple[str, str]]()
    version = 0
    try:
        cursor.bytes(len(MAGIC))
        version, num_tensors, num_values = (cursor.number(form) for form in "IQQ")
        if version not in _VERSIONS:
            raise ValueError(f"{str(file)!r} is a GGUF file of version {version}, which is not known here.")
        for _ in range(num_values):
            key = cursor.text()
            texts[key] = _value(cursor, file)
        for _ in range(num_tensors):
            tensors.append(_tensor(cursor))
    except _End:
        if len(data) < HEADER_BYTES:
            why = f"truncated or damaged ({len(data):,} bytes)"
            raise ValueError(f"{str(file)!r} is a GGUF file, {why}; download it again.") from None
    types = dict.fromkeys(kind for _, kind in tensors)
    return Gguf(version, texts.get("general.architecture"), tuple(name for name, _ in tensors), tuple(types))


def _value(cursor: _Cursor, file: Path) -> str | None:
    """Pass over one value of the metadata; return it where it is a text."""
    kind = cursor.number("I")
    if kind == _STRING:
        return cursor.text()
    count = 1
    if kind == _ARRAY:
        kind, count = cursor.number("I"), cursor.number("Q")
    if kind == _STRING:
        for _ in range(count):
            cursor.text()
    elif kind in _NUMBER_BYTES:
        cursor.bytes(count * _NUMBER_BYTES[kind])
    else:
        raise ValueError(f"{str(file)!r} is a GGUF file, truncated or damaged (a value of type {kind}).")
    return None


def _tensor(cursor: _Cursor) -> tuple[str, str]:
    """Return name and type of one tensor."""
    name = cursor.text()
    cursor.bytes(8 * cursor.number("I"))  # its shape
    kind = cursor.number("I")
    cursor.number("Q")  # where its weights begin
    return name, _TYPES.get(kind, f"type {kind}")
