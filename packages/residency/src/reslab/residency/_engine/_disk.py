"""Weights on disk: safetensors files, read block by block through one window of host memory.

    disk = Disk(files={"transformer": "model.safetensors"})
    source = disk.source("transformer", layout, names)      # checked: the files hold the bytes of the parameters
    source.staged()                                         # the block's bytes, in the window

Weights that the files lack, such as a LoRA, and all weights of a component without files, are first written to a
temporary folder, which is removed at the end. A weight on meta takes its value from its file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import save_file

from reslab.residency._engine._layout import BufferLayout, CopyPart, HostBuffer, Piece, Pin, Source, copy_on_host, span
from reslab.residency._engine._weight_files import Paths, WeightFiles, paths
from reslab.residency._errors import ResidencyError

#: All names of each parameter, by its identity.
ParameterNames = Mapping[int, Sequence[str]]


class Window:
    """Host memory through which blocks are read, as large as the largest; one copy uses it at a time."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)
        #: Pins the memory; None leaves it pageable.
        self.pin: Pin | None = None
        self._unpin: list[Callable[[], None]] = []

    def reserve(self, nbytes: int) -> None:
        """Make the window at least this large; comes before the first read of that size."""
        if nbytes > self.bytes.nbytes:
            with torch.inference_mode(False):
                self.bytes = torch.empty(nbytes, dtype=torch.uint8)
            unpin = self.pin(self.bytes)[1] if self.pin is not None else None
            self._unpin += [] if unpin is None else [unpin]  # a copy may be under way through the former memory

    def close(self) -> None:
        """Release the memory."""
        while self._unpin:
            self._unpin.pop()()
        self.bytes = torch.empty(0, dtype=torch.uint8)


class WeightReader(Protocol):
    """Reads one weight of a unit on disk."""

    def read(self, target: torch.Tensor) -> None:
        """Read the weight's bytes into host memory, uint8 (nbytes,), in the order of memory."""

    def mapped(self, piece: Piece) -> torch.Tensor:
        """Return the weight with the size and strides of its piece; it must not be written."""


class FileWeight(NamedTuple):
    """A weight under a key of a component's files."""

    files: WeightFiles
    key: str

    def read(self, target: torch.Tensor) -> None:
        """Read the weight's bytes."""
        self.files.read(self.key, target)

    def mapped(self, piece: Piece) -> torch.Tensor:
        """Return the weight, mapped from its file."""
        return self.files.mapped(self.key).as_strided(piece.size, piece.stride)


class MemoryWeight(NamedTuple):
    """A weight of a unit on disk that shares the memory of a base unit in host memory."""

    tensor: torch.Tensor

    def read(self, target: torch.Tensor) -> None:
        """Copy the weight's bytes."""
        copy_on_host(target, self.tensor.as_strided((span(self.tensor),), (1,)).view(torch.uint8))

    def mapped(self, piece: Piece) -> torch.Tensor:
        """Return the weight."""
        return self.tensor


class DiskSource:
    """The weights of one unit on disk, a reader for each piece."""

    host_bytes = pinned_bytes = 0

    def __init__(self, layout: BufferLayout, readers: Sequence[WeightReader], window: Window) -> None:
        self._layout, self.readers, self._window = layout, readers, window

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return a mapped tensor for each piece; saving and merging read these."""
        return tuple(each.mapped(piece) for each, piece in zip(self.readers, self._layout.pieces, strict=True))

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, CopyPart], ...]:
        """Return one copy of the whole unit."""
        return ((target, self),)

    def staged(self) -> torch.Tensor:
        """Read the unit into the window and return its bytes there."""
        target = self._window.bytes[: self._layout.nbytes]
        for piece, each in zip(self._layout.pieces, self.readers, strict=True):
            if piece.elements:
                each.read(piece.within(target))
        return target

    def close(self) -> None:
        """Do nothing: the open files are the disk's, and mappings end with the last tensor."""


class Disk:
    """Makes sources of units on disk.

    Args:
        files: Safetensors files of components, with their parameters' names.
    """

    def __init__(self, files: Mapping[str, Paths]) -> None:
        self._paths = files
        self._opened: dict[str, WeightFiles] = {}
        self._own: list[WeightFiles] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.window = Window()

    def files(self, component: str) -> WeightFiles:
        """Return the files of a component, with their headers read; empty for a component without files.

        Raises:
            ResidencyError: For a damaged file.
        """
        if component not in self._opened:
            self._opened[component] = WeightFiles(component, paths(self._paths.get(component, ())))
        return self._opened[component]

    def source(self, component: str, layout: BufferLayout, names: ParameterNames) -> DiskSource:
        """Return the source of a unit on disk, after writing the weights that the files lack.

        Args:
            component: Its name.
            layout: The unit's layout.
            names: The names of the component's parameters.

        Raises:
            ResidencyError: If a file has another value for a parameter that has one.
        """
        files = self.files(component)
        files.hold()
        found = [_find(files, component, piece, names[id(piece.parameter)]) for piece in layout.pieces]
        absent = [piece for piece, each in zip(layout.pieces, found, strict=True) if each is None]
        written = self._write(absent, (_value(files, piece, names[id(piece.parameter)]) for piece in absent))
        self.window.reserve(layout.nbytes)
        return DiskSource(layout, [next(written) if each is None else each for each in found], self.window)

    def memory(self, component: str, layout: BufferLayout, names: ParameterNames, *, pin: Pin | None) -> HostBuffer:
        """Return host memory with the weights of a unit; values that the parameters lack are read from the files."""
        files, memory = self.files(component), HostBuffer(layout, pin=pin)
        for piece in layout.pieces:
            key = files.key(names[id(piece.parameter)]) if piece.is_unknown else None
            if key is not None and piece.is_contiguous and piece.elements:
                files.read(key, piece.within(memory.staged()))
            elif piece.elements:
                memory.put(piece, _value(files, piece, names[id(piece.parameter)]))
        return memory

    def write(self, layout: BufferLayout, first: Iterable[torch.Tensor], base: Source) -> DiskSource:
        """Write the first weights of a layout to a file, and return a source that takes the others from a base's."""
        first = list(first)
        written = self._write(layout.pieces[: len(first)], first)
        self.window.reserve(layout.nbytes)
        rest = base.readers if isinstance(base, DiskSource) else [*map(MemoryWeight, base.tensors)]
        return DiskSource(layout, [*written, *rest[len(first) :]], self.window)

    def close(self) -> None:
        """Close the files and remove the temporary folder."""
        for files in (*self._opened.values(), *self._own):
            files.close()
        self._opened.clear()
        self._own.clear()
        self.window.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _write(self, pieces: Sequence[Piece], tensors: Iterable[torch.Tensor]) -> Iterator[WeightReader]:
        """Write tensors, with the sizes and strides of pieces, to a file, and return a reader for each."""
        if not pieces:
            return iter(())
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="reslab-")
        path = Path(self._folder.name) / f"{len(self._own)}.safetensors"
        flat = (_flat(piece, tensor).clone() for piece, tensor in zip(pieces, tensors, strict=True))
        save_file({str(place): each for place, each in enumerate(flat)}, path)
        self._own.append(written := WeightFiles("", [path]))
        written.hold()
        return iter([FileWeight(written, str(place)) for place in range(len(pieces))])


def _find(files: WeightFiles, component: str, piece: Piece, names: Sequence[str]) -> FileWeight | None:
    """Return a weight in the files; None where they lack it, or hold it in another order of memory.

    Raises:
        ResidencyError: If they hold another value.
    """
    key = files.key(names)
    if key is None:
        return None
    if not piece.is_unknown and not _same(piece.parameter.data, files.mapped(key)):
        raise ResidencyError(
            f"{names[0]!r} of {component!r} is not what its file on disk holds; write the component anew, or leave it "
            "out of `files` and it will be written to a temporary folder"
        )
    return FileWeight(files, key) if piece.is_contiguous else None


def _value(files: WeightFiles, piece: Piece, names: Sequence[str]) -> torch.Tensor:
    """Return the value of a parameter, or that of its file, in the parameter's order of memory."""
    if not piece.is_unknown:
        return piece.parameter.data
    key = files.key(names)
    assert key is not None
    tensor = torch.empty_strided(piece.size, piece.stride, dtype=piece.dtype)
    return tensor.copy_(files.mapped(key))


def _flat(piece: Piece, tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor with a piece's strides, in the order of memory."""
    return tensor.as_strided((piece.elements,), (1,))


def _same(own: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Tell whether a tensor of a file has the bits of a parameter."""
    if (own.shape, own.dtype) != (tensor.shape, tensor.dtype):
        return False
    return torch.equal(_bytes(own), _bytes(tensor))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8).cpu()
