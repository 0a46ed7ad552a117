"""Weights on disk: safetensors, read block by block through one window of host memory.

    disk = Disk(files={"transformer": "model.safetensors"})
    source = disk.source("transformer", layout, names)      # checked: the files hold the bytes of the parameters
    source.staged()                                         # the block's bytes, in the window

What the files of a checkpoint do not hold, such as a LoRA, or all of a component without files, is written to a
temporary folder first, which is removed at the end. A weight without a value, on meta, is what its file holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import save_file

from reslab.residency._engine._checkpoint import Checkpoint, Paths, paths
from reslab.residency._engine._layout import HostBuffer, Layout, Part, Piece, Pin, Source, copy_on_host, span
from reslab.residency._errors import ResidencyError

#: The names of parameters, all that each has, by their identity.
Names = Mapping[int, Sequence[str]]


class Window:
    """Host memory through which blocks are read, as large as the largest; used by one copy at a time."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)
        #: Pins it, where it is to be pinned.
        self.pin: Pin | None = None
        self._unpin: list[Callable[[], None]] = []

    def reserve(self, nbytes: int) -> None:
        """Make it at least this large; called before anything is read through it."""
        if nbytes > self.bytes.nbytes:
            with torch.inference_mode(False):
                self.bytes = torch.empty(nbytes, dtype=torch.uint8)
            unpin = self.pin(self.bytes)[1] if self.pin is not None else None
            self._unpin += [] if unpin is None else [unpin]  # a copy may be under way through what it was before

    def close(self) -> None:
        """Give up its memory."""
        while self._unpin:
            self._unpin.pop()()
        self.bytes = torch.empty(0, dtype=torch.uint8)


class Stored(Protocol):
    """One weight of a unit on disk."""

    def read(self, target: torch.Tensor) -> None:
        """Read its bytes into host memory, uint8 (nbytes,), in the order of memory."""

    def mapped(self, piece: Piece) -> torch.Tensor:
        """Return it, lying as a piece says, to be read only."""


class InFile(NamedTuple):
    """A weight under a key of a checkpoint."""

    checkpoint: Checkpoint
    key: str

    def read(self, target: torch.Tensor) -> None:
        """Read its bytes."""
        self.checkpoint.read(self.key, target)

    def mapped(self, piece: Piece) -> torch.Tensor:
        """Return it mapped from its file."""
        return self.checkpoint.mapped(self.key).as_strided(piece.size, piece.stride)


class InMemory(NamedTuple):
    """A weight that a unit on disk has from another one, which waits in host memory."""

    tensor: torch.Tensor

    def read(self, target: torch.Tensor) -> None:
        """Copy its bytes."""
        copy_on_host(target, self.tensor.as_strided((span(self.tensor),), (1,)).view(torch.uint8))

    def mapped(self, piece: Piece) -> torch.Tensor:
        """Return it as it is."""
        return self.tensor


class DiskSource:
    """The weights of one unit on disk, one for each piece."""

    host_bytes = pinned_bytes = 0

    def __init__(self, layout: Layout, stored: Sequence[Stored], window: Window) -> None:
        self._layout, self.stored, self._window = layout, stored, window

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return a mapped tensor for each piece, for what saves or merges them."""
        return tuple(each.mapped(piece) for each, piece in zip(self.stored, self._layout.pieces, strict=True))

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, Part], ...]:
        """Return that it is copied in one piece."""
        return ((target, self),)

    def staged(self) -> torch.Tensor:
        """Read the unit into the window and return its bytes there."""
        target = self._window.bytes[: self._layout.nbytes]
        for piece, each in zip(self._layout.pieces, self.stored, strict=True):
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
        self._files = files
        self._checkpoints: dict[str, Checkpoint] = {}
        self._own: list[Checkpoint] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.window = Window()

    def checkpoint(self, component: str) -> Checkpoint:
        """Return what the files of a component hold, by their headers; nothing for a component without files.

        Raises:
            ResidencyError: For a damaged file.
        """
        if component not in self._checkpoints:
            self._checkpoints[component] = Checkpoint(component, paths(self._files.get(component, ())))
        return self._checkpoints[component]

    def source(self, component: str, layout: Layout, names: Names) -> DiskSource:
        """Return where the weights of a unit lie on disk.

        Args:
            component: Its name.
            layout: The unit's.
            names: Of the component's parameters.

        Raises:
            ResidencyError: If a file has another value for a parameter that has one.
        """
        checkpoint = self.checkpoint(component)
        checkpoint.hold()
        found = [_find(checkpoint, component, piece, names[id(piece.parameter)]) for piece in layout.pieces]
        absent = [piece for piece, each in zip(layout.pieces, found, strict=True) if each is None]
        written = self._write(absent, (_value(checkpoint, piece, names[id(piece.parameter)]) for piece in absent))
        self.window.reserve(layout.nbytes)
        return DiskSource(layout, [next(written) if each is None else each for each in found], self.window)

    def memory(self, component: str, layout: Layout, names: Names, *, pin: Pin | None) -> HostBuffer:
        """Return host memory with the weights of a unit, read from the files where they have no values."""
        checkpoint, memory = self.checkpoint(component), HostBuffer(layout, pin=pin)
        for piece in layout.pieces:
            key = checkpoint.key(names[id(piece.parameter)]) if piece.is_unknown else None
            if key is not None and piece.is_contiguous and piece.elements:
                checkpoint.read(key, piece.within(memory.staged()))
            elif piece.elements:
                memory.put(piece, _value(checkpoint, piece, names[id(piece.parameter)]))
        return memory

    def keep(self, layout: Layout, first: Iterable[torch.Tensor], base: Source) -> DiskSource:
        """Write weights to a file, and return where a unit lies: those first in its layout, the rest as a base's do."""
        first = list(first)
        written = self._write(layout.pieces[: len(first)], first)
        self.window.reserve(layout.nbytes)
        rest = base.stored if isinstance(base, DiskSource) else [*map(InMemory, base.tensors)]
        return DiskSource(layout, [*written, *rest[len(first) :]], self.window)

    def close(self) -> None:
        """Close the files and remove the temporary folder."""
        for checkpoint in (*self._checkpoints.values(), *self._own):
            checkpoint.close()
        self._checkpoints.clear()
        self._own.clear()
        self.window.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _write(self, pieces: Sequence[Piece], tensors: Iterable[torch.Tensor]) -> Iterator[Stored]:
        """Write what lies as pieces say to a file and return where each is, in their order."""
        if not pieces:
            return iter(())
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="reslab-")
        path = Path(self._folder.name) / f"{len(self._own)}.safetensors"
        flat = (_flat(piece, tensor).clone() for piece, tensor in zip(pieces, tensors, strict=True))
        save_file({str(place): each for place, each in enumerate(flat)}, path)
        self._own.append(written := Checkpoint("", [path]))
        written.hold()
        return iter([InFile(written, str(place)) for place in range(len(pieces))])


def _find(checkpoint: Checkpoint, component: str, piece: Piece, names: Sequence[str]) -> InFile | None:
    """Return where a weight is in the files, None where they have it not, or have it in another order of memory.

    Raises:
        ResidencyError: If they have another value.
    """
    key = checkpoint.key(names)
    if key is None:
        return None
    if not piece.is_unknown and not _same(piece.parameter.data, checkpoint.mapped(key)):
        raise ResidencyError(
            f"{names[0]!r} of {component!r} is not what its file on disk holds; write the component anew, or leave it "
            "out of `files` and it will be written to a temporary folder"
        )
    return InFile(checkpoint, key) if piece.is_contiguous else None


def _value(checkpoint: Checkpoint, piece: Piece, names: Sequence[str]) -> torch.Tensor:
    """Return a weight as its parameter has it, or in the order of memory that the parameter is to have."""
    if not piece.is_unknown:
        return piece.parameter.data
    key = checkpoint.key(names)
    assert key is not None
    tensor = torch.empty_strided(piece.size, piece.stride, dtype=piece.dtype)
    return tensor.copy_(checkpoint.mapped(key))


def _flat(piece: Piece, tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor that lies as a piece says, in the order of memory."""
    return tensor.as_strided((piece.elements,), (1,))


def _same(own: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Tell whether a tensor of a file has the bits of a parameter."""
    if (own.shape, own.dtype) != (tensor.shape, tensor.dtype):
        return False
    return torch.equal(_bytes(own), _bytes(tensor))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8).cpu()
