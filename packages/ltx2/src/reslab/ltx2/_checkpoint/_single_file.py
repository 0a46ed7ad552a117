"""A single file as source: its content, and the checkpoint to load in its place.

    describe(Path("ltx-2.3-22b-dev.safetensors"))             # a sentence
    read_gguf(Path("ltx-2.3-22b-dev-Q4_K_M.gguf")).types      # ('Q4_K', 'Q6_K', 'F32')

ComfyUI and Lightricks' own pipelines keep a model in one file; `load` reads diffusers' layout, a folder for each
component. The file's header shows what it holds: a whole model, the transformer alone, a VAE, a text encoder or a LoRA.
Tensor names that only one variant has show the variant.

Of a GGUF file the header alone is read: architecture, tensor names and quantisation types. A bounded beginning of the
file is read, and no size that the header declares is allocated: a declared length that goes beyond the beginning ends
the reading. The format is that of the GGUF specification in ggml's repository (docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reslab.ltx2._checkpoint._file_headers import first_bytes, read_header
from reslab.ltx2._variants import Variant, variant, variants

_ENDINGS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".json")
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")
_LORA = re.compile(r"\.(lora_|lora\.|hada_|lokr_|dora_scale)")
# Prefixes and names in Lightricks' and ComfyUI's files; the first part that matches names a file of one part.
_PARTS = {
    "the transformer": re.compile(r"(model\.)?(diffusion_model\.)?(transformer\.)?transformer_blocks\."),
    "the audio VAE": re.compile(r"audio_vae\."),
    "the video VAE": re.compile(r"vae\.|(encoder|decoder)\.|per_channel_statistics\."),
    "the vocoder": re.compile(r"vocoder\."),
    "the connectors": re.compile(
        r"text_embedding_projection\.|(model\.)?(diffusion_model\.)?\w+_embeddings_connector\."
    ),
    "a text encoder": re.compile(r"(model\.|language_model\.)*layers\.\d+\.(self_attn|mlp)\.|token_embd\.|blk\.\d+\."),
    "the latent upsampler": re.compile(r"upsampler\.|(post_upsample_)?res_blocks\.|initial_conv\."),
}


class _FileContents(NamedTuple):
    """Hold a file's content in words, whether it is a LoRA, and the variant that it seems to belong to."""

    what: str
    is_lora: bool
    likely: Variant | None


def is_file_like(source: str | os.PathLike[str]) -> bool:
    """Tell whether a source is a file, or has the ending of one.

    >>> is_file_like("models/ltx-2.3.safetensors"), is_file_like("Lightricks/LTX-2")
    (True, False)
    """
    return Path(source).is_file() or str(source).endswith(_ENDINGS)


def describe(file: Path) -> str:
    """Return a sentence about a single file's content and the checkpoint to load; a ValueError names a damaged file."""
    if not file.is_file():
        return f"there is no file {str(file)!r} here; load takes a folder in diffusers' layout, or a Hub id."
    if folder := _checkpoint_of(file):
        return f"{str(file)!r} belongs to the checkpoint in {str(folder)!r}; load that folder."
    start = first_bytes(file, 4)
    if start.startswith(MAGIC):
        return _describe_gguf(file)
    if start.startswith(_PICKLED) or file.suffix in {".safetensors", ".sft"}:
        names = read_header(file, repr(str(file))).tensors
        return _sentence(file, "a single safetensors file", _found(names, file.name), "")
    return (
        f"{str(file)!r} is neither safetensors nor GGUF; load takes a folder in diffusers' layout, or a Hub id such as "
        f"{variants()[0].hub_id!r}."
    )


def _checkpoint_of(file: Path) -> Path | None:
    """Return the folder of the checkpoint that a file belongs to; None where there is none."""
    folder = file.absolute().parent
    return next((each for each in (folder, folder.parent) if (each / "model_index.json").is_file()), None)


def _describe_gguf(file: Path) -> str:
    header = read_gguf(file)
    types = f" with weights in {', '.join(header.types)}" if header.types else ""
    kind = f"a GGUF file of architecture {header.architecture!r}{types}"
    return _sentence(file, kind, _found(header.names, file.name), "GGUF is not read yet, and ")


def _sentence(file: Path, kind: str, found: _FileContents, more: str) -> str:
    if found.is_lora:
        base = found.likely.hub_id if found.likely else "a checkpoint"
        return f"{str(file)!r} is {kind}, a LoRA; {more}it goes beside a checkpoint, as in load({base!r}, lora=…)."
    if found.what.startswith("no part"):
        return f"{str(file)!r} is {kind}, {found.what}; {more}{_published(None)}."
    place = "in the layout of ComfyUI and Lightricks' own pipelines"
    looks = f", and looks like {found.likely.name}" if found.likely else ""
    return f"{str(file)!r} is {kind}, {found.what} {place}{looks}; {more}{_published(found.likely)}."


def _published(likely: Variant | None) -> str:
    if likely is not None and likely.only_rehearsed:
        return f"{likely.name} can be rehearsed (ltx2.blank), not loaded"
    ids = [likely.hub_id] if likely else [each.hub_id for each in variants()]
    return f"load takes diffusers' layout, which is published as {' or '.join(map(repr, ids))}"


def _found(names: Iterable[str], file_name: str) -> _FileContents:
    """Classify a file by its tensors' names."""
    names = list(names)
    parts = [part for part, form in _PARTS.items() if any(form.match(name) for name in names)]
    is_lora = any(_LORA.search(name) for name in names)
    if is_lora:
        return _FileContents("a LoRA", True, _variant_of(names, file_name))
    if not parts:
        shown = f"{len(names):,} tensors such as {names[0]!r}" if names else "without a tensor"
        return _FileContents(f"no part of LTX-2 that is known here ({shown})", False, None)
    if parts[0] == "the transformer" and not any("audio" in name or "av_ca" in name for name in names):
        return _FileContents("no part of LTX-2: a transformer like LTX-Video's, with no sound", False, None)
    is_whole = parts[0] == "the transformer" and not {"the video VAE", "the audio VAE", "the vocoder"}.isdisjoint(parts)
    what = "a whole Lightricks checkpoint" if is_whole else f"{parts[0]} alone"
    return _FileContents(what, False, _variant_of(names, file_name))


def _variant_of(names: list[str], file_name: str) -> Variant | None:
    """Guess the variant from the transformer's tensor names, else from the file's name, which also says distilled."""
    base = _base_of(names) or _named_base(file_name)
    if base == "LTX-2.3" and "distilled" in file_name.casefold() and "lora" not in file_name.casefold():
        return variant("LTX-2.3 distilled")
    return variant(base) if base else None


def _base_of(names: list[str]) -> str | None:
    """Return the name of the variant whose transformer has such tensors; LTX-2.5's feed-forward has no bias."""
    if any("caption_projection" in name for name in names):
        return "LTX-2"
    if any("to_gate_logits" in name or "prompt_adaln" in name for name in names):
        feed = [name for name in names if re.search(r"\.ff\.net\.2\.(weight|bias)$", name)]
        return "LTX-2.5" if feed and not any(name.endswith(".bias") for name in feed) else "LTX-2.3"
    return None


def _named_base(file_name: str) -> str | None:
    text = re.sub(r"[^a-z0-9.]+", "", file_name.casefold())
    for base in ("LTX-2.5", "LTX-2.3", "LTX-2"):
        if base.casefold().replace("-", "") in text:
            return base
    return None


MAGIC = b"GGUF"
HEADER_BYTES = 16 * 2**20
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# ggml's numbers for its types.
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


class GgufHeader(NamedTuple):
    """Hold the part of a GGUF header that was read."""

    version: int
    architecture: str | None
    names: tuple[str, ...]
    types: tuple[str, ...]  # of the tensors, each once, in the order of the file


class _End(Exception):
    """Raised where the bytes that were read end before a declared length."""


class _GgufCursor:
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


def read_gguf(file: Path) -> GgufHeader:
    """Read the header of a GGUF file, as far as its first `HEADER_BYTES` hold it.

    Raises:
        ValueError: The header is damaged, or of an unknown version.
    """
    data = first_bytes(file, HEADER_BYTES)
    cursor, texts, tensors = _GgufCursor(data), dict[str, str | None](), list[tuple[str, str]]()
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
    return GgufHeader(version, texts.get("general.architecture"), tuple(name for name, _ in tensors), tuple(types))


def _value(cursor: _GgufCursor, file: Path) -> str | None:
    """Read one value of the metadata, and return it if it is a text, else None."""
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


def _tensor(cursor: _GgufCursor) -> tuple[str, str]:
    """Read one tensor's entry, and return its name and type."""
    name = cursor.text()
    cursor.bytes(8 * cursor.number("I"))  # its shape
    kind = cursor.number("I")
    cursor.number("Q")  # the offset of its weights
    return name, _TYPES.get(kind, f"type {kind}")
