"""Safetensors files of a component: their tensors by the headers alone, and reads that do not map the file.

    files = WeightFiles("transformer", ["a.safetensors", "b.safetensors"])
    files.stored["blocks.0.weight"]         # StoredTensor(path, offset, nbytes, dtype, shape)
    files.check(transformer)                # keys, shapes and types, before anything moves
    files.read("blocks.0.weight", target)   # the tensor's bytes, into the caller's memory

A mapped file counts as memory of the process, page by page as it is read; bytes read into a window do not.

Libraries rename weights between releases, and LoRAs are published with names of their own. `KeyedFile` is a path with
the module's names for the file's keys, so that the file stays as it is:

    KeyedFile("model.safetensors", {"language_model.norm.weight": "model.language_model.norm.weight"})
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from reslab.residency._errors import ResidencyError
from reslab.stages.support import freeze

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

#: torch's name for each type of a header; an older torch lacks some of them.
_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}
_LENGTH_BYTES = 8  # a file begins with the length of its header


class StoredTensor(NamedTuple):
    """The place of one tensor in a file.

    Attributes:
        path: The file.
        offset: Byte at which it begins.
        nbytes: Its bytes.
        dtype: Its type; None for one that this torch lacks.
        shape: Its shape.
        kind: Its type as the header writes it.
    """

    path: Path
    offset: int
    nbytes: int
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    kind: str


def paths(given: Paths) -> list[Path | KeyedFile]:
    """Return the files that the user gave for a component.

    Raises:
        ResidencyError: For a value that is no path, and no list of paths.
    """
    try:
        files = [given] if isinstance(given, (str, os.PathLike)) else list(given)
        return [each if isinstance(each, KeyedFile) else Path(each) for each in files]
    except TypeError:
        raise ResidencyError(
            f"files are paths of safetensors files, one or a list a component; got {given!r}"
        ) from None


class WeightFiles:
    """The safetensors files of one component.

    Args:
        component: Its name.
        files: Their paths; an empty sequence for a component without files.

    Raises:
        ResidencyError: For a damaged file, or a key in two files.
    """

    def __init__(self, component: str, files: Sequence[Path | KeyedFile] = ()) -> None:
        self._component, self._files = component, [Path(each) for each in files]
        self._open: dict[Path, FileIO] = {}
        self._keyed = {name for file in files if isinstance(file, KeyedFile) for name in file.names.values()}
        self.stored: dict[str, StoredTensor] = {}
        for file, path in zip(files, self._files, strict=True):
            own = file.names if isinstance(file, KeyedFile) else None
            for written, entry in _stored_tensors(path):
                key = written if own is None else own.get(written)
                if key is None:
                    continue
                if key in self.stored:
                    raise ResidencyError(
                        f"{key!r} of {component!r} is in {self.stored[key].path.name} and in {path.name}; give each "
                        "weight in one file"
                    )
                self.stored[key] = entry

    def key(self, names: Sequence[str]) -> str | None:
        """Return the name under which the files hold a tensor, None where they do not."""
        # a layer that carries a LoRA is the base layer of PEFT's wrapper
        plain = (name.replace(".base_layer", "") for name in names)
        return next((name for name in plain if name in self.stored), None)

    def check(self, module: torch.nn.Module, *, only_unknown: bool) -> None:
        """Refuse files that do not fit a module; they must hold every weight that has no value.

        Args:
            module: The component.
            only_unknown: Whether to check only weights without values: others of a managed component may be absent.

        Raises:
            ResidencyError: Naming the first key that is missing, superfluous, or of another shape or type.
        """
        own = names(module)
        tensors = {id(each): each for _name, each in _tensors(module)}
        for number, each in tensors.items():
            key = self.key(own[number])
            if key is None and each.is_meta:
                raise ResidencyError(self._missing(own[number][0]))
            if key is not None and (each.is_meta or not only_unknown):
                self._check_kind(key, each)
        if any(each.is_meta for each in tensors.values()):
            self._check_nothing_else(own)

    def read(self, key: str, target: torch.Tensor) -> None:
        """Read the bytes of a tensor into host memory, uint8 (nbytes,)."""
        entry = self.stored[key]
        file = self._file(entry.path)
        file.seek(entry.offset)
        left = memoryview(target.numpy())  # type: ignore[arg-type]  # numpy 2.4 has no type for what it is a buffer of
        while left.nbytes:
            if not (count := file.readinto(left)):
                raise ResidencyError(f"{entry.path} ends inside {key!r}: it was cut short since it was checked")
            left = left[count:]

    def mapped(self, key: str) -> torch.Tensor:
        """Return a tensor mapped from its file; it must not be written."""
        entry = self.stored[key]
        assert entry.dtype is not None
        with torch.inference_mode(False):
            if not entry.nbytes:
                return torch.empty(entry.shape, dtype=entry.dtype)
            apart = entry.offset % mmap.ALLOCATIONGRANULARITY  # its own pages alone: a map of all would count as memory
            pages = {"length": entry.nbytes + apart, "offset": entry.offset - apart}
            own = mmap.mmap(self._file(entry.path).fileno(), access=mmap.ACCESS_COPY, **pages)
            count = entry.nbytes // entry.dtype.itemsize
            return torch.frombuffer(own, dtype=entry.dtype, count=count, offset=apart).reshape(entry.shape)

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()

    def hold(self) -> None:
        """Open the files, so that they stay readable if their folder is removed."""
        for path in self._files:
            self._file(path)

    def _file(self, path: Path) -> FileIO:
        if path not in self._open:
            self._open[path] = path.open("rb", buffering=0)
        return self._open[path]

    def _check_kind(self, key: str, own: torch.Tensor) -> None:
        entry = self.stored[key]
        if (entry.shape, entry.dtype) != (tuple(own.shape), own.dtype):
            has = f"{_text(entry.dtype or entry.kind)} {entry.shape}"
            raise ResidencyError(
                f"{entry.path.name} holds {key!r} as {has}, and {self._component!r} has it as {_text(own.dtype)} "
                f"{tuple(own.shape)}; give the files that this component was made from"
            )

    def _check_nothing_else(self, own: Mapping[int, Sequence[str]]) -> None:
        known = self._keyed | {name.replace(".base_layer", "") for aliases in own.values() for name in aliases}
        if other := next((key for key in self.stored if key not in known), None):
            raise ResidencyError(
                f"{self.stored[other].path.name} holds {other!r}, which {self._component!r} does not have; give the "
                "files that this component was made from"
            )

    def _missing(self, name: str) -> str:
        files = ", ".join(path.name for path in self._files)
        return (
            f"{name!r} of {self._component!r} is on meta, without values, and its files ({files}) do not hold it; "
            "give all of its files, or load it first"
        )


def names(module: torch.nn.Module) -> dict[int, tuple[str, ...]]:
    """Return all names of each parameter and buffer of a module, by its identity."""
    found: dict[int, tuple[str, ...]] = {}
    for name, each in _tensors(module):
        found[id(each)] = (*found.get(id(each), ()), name)
    return found


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _stored_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of one file, in its order.

    Raises:
        ResidencyError: If it is damaged, or no safetensors file.
    """
    try:
        with safe_open(path, framework="np"):  # checks that header and length agree; for torch it would map all of it
            pass
    except SafetensorError as error:
        raise ResidencyError(
            f"{path} is damaged, or no safetensors file ({error}); fetch it again, or name another"
        ) from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
    for key, each in header.items():
        if key != "__metadata__":
            begin, end = each["data_offsets"]
            dtype, shape = getattr(torch, _DTYPES.get(each["dtype"], ""), None), tuple(each["shape"])
            if each["dtype"] == "F4":
                shape = (*shape[:-1], shape[-1] // 2)  # two numbers an element
            yield key, StoredTensor(path, _LENGTH_BYTES + length + begin, end - begin, dtype, shape, each["dtype"])


def _text(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class KeyedFile(os.PathLike[str]):
    """A safetensors file whose keys are not the module's names.

    Attributes:
        path: The file.
        names: The name of a parameter or buffer for each key; tensors under other keys are ignored.
    """

    path: str | os.PathLike[str]
    names: Mapping[str, str]

    def __post_init__(self) -> None:
        freeze(self)

    @property
    def name(self) -> str:
        """Return the file's own name."""
        return Path(self.path).name

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"KeyedFile({os.fspath(self.path)!r}, {len(self.names)} names)"
