"""Weights on disk: mapped safetensors, read block by block through one window of host memory.

    disk = Disk(files={"transformer": "model.safetensors"})
    source = disk.source(layout, names)      # checked: the files hold the same bytes as the parameters
    source.staged()                          # the block's bytes, in the window

What the files of a checkpoint do not hold, such as a LoRA, or all of a component without files, is written to a
temporary folder first, which is removed at the end.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from reslab.residency._engine._buffers import Layout, Part, Piece, copy_on_host
from reslab.residency._engine._errors import ResidencyError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def paths(told: Paths) -> list[Path]:
    """Return the files that were told for a component."""
    return [Path(told)] if isinstance(told, (str, os.PathLike)) else [Path(each) for each in told]


class Window:
    """Host memory through which blocks are read, as large as the largest; used by one copy at a time."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)

    def reserve(self, nbytes: int) -> None:
        """Make it at least this large; called before anything is read through it."""
        if nbytes > self.bytes.nbytes:
            with torch.inference_mode(False):
                self.bytes = torch.empty(nbytes, dtype=torch.uint8)


class DiskSource:
    """The weights of one unit on disk: `tensors` are mapped, one for each piece."""

    host_bytes = pinned_bytes = 0

    def __init__(self, layout: Layout, tensors: tuple[torch.Tensor, ...], window: Window) -> None:
        self._layout, self.tensors, self._window = layout, tensors, window

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, Part], ...]:
        """Return that it is copied in one piece."""
        return ((target, self),)

    def staged(self) -> torch.Tensor:
        """Read the unit into the window and return its bytes there."""
        target = self._window.bytes[: self._layout.nbytes]
        for piece, tensor in zip(self._layout.pieces, self.tensors, strict=True):
            if piece.elements:
                stored = tensor.as_strided((piece.elements,), (1,)).view(torch.uint8)
                copy_on_host(target[piece.offset : piece.offset + piece.nbytes], stored)
        return target

    def close(self) -> None:
        """Nothing is held but mappings, which end with the last tensor."""


class Disk:
    """Makes sources of units on disk.

    Args:
        files: Safetensors files of components, with their parameters' names.
    """

    def __init__(self, files: Mapping[str, Paths]) -> None:
        self._files = files
        self._mapped: dict[str, dict[str, torch.Tensor]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written = 0
        self.window = Window()

    def source(self, component: str, layout: Layout, names: Mapping[int, str]) -> DiskSource:
        """Return where the weights of a unit lie on disk.

        Args:
            component: Its name.
            layout: The unit's.
            names: Of the component's parameters, by their identity.

        Raises:
            ResidencyError: If a file has other weights under a parameter's name.
        """
        stored = self._stored(component)
        found = [stored.get(names[id(piece.parameter)].replace(".base_layer", "")) for piece in layout.pieces]
        for piece, tensor in zip(layout.pieces, found, strict=True):
            if tensor is not None and not _same(piece, tensor):
                raise ResidencyError(
                    f"{names[id(piece.parameter)]!r} of {component!r} is not what its file on disk holds; write the "
                    "component anew, or leave it out of `files` and it will be written to a temporary folder"
                )
        absent = [piece for piece, tensor in zip(layout.pieces, found, strict=True) if tensor is None]
        written = self._write(absent, (piece.parameter.data for piece in absent))
        tensors = tuple(next(written) if tensor is None else tensor for tensor in found)
        self.window.reserve(layout.nbytes)
        return DiskSource(layout, tensors, self.window)

    def keep(self, layout: Layout, first: Iterable[torch.Tensor], rest: Sequence[torch.Tensor]) -> DiskSource:
        """Write weights to a file, and return where a unit lies: those first in its layout, the rest where it is."""
        written = self._write(layout.pieces[: len(layout.pieces) - len(rest)], first)
        self.window.reserve(layout.nbytes)
        return DiskSource(layout, (*written, *rest), self.window)

    def close(self) -> None:
        """Let go of the files and remove the temporary folder."""
        self._mapped.clear()
        self.window = Window()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _stored(self, component: str) -> dict[str, torch.Tensor]:
        if component not in self._mapped:
            files = paths(self._files.get(component, ()))
            self._mapped[component] = {name: each for path in files for name, each in load_file(path).items()}
        return self._mapped[component]

    def _write(self, pieces: Sequence[Piece], tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Write what lies as pieces say to a file and return it mapped from it, in their order."""
        if not pieces:
            return iter(())
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="reslab-")
        path = Path(self._folder.name) / f"{self._written}.safetensors"
        self._written += 1
        flat = (_flat(piece, tensor).clone() for piece, tensor in zip(pieces, tensors, strict=True))
        save_file({str(place): each for place, each in enumerate(flat)}, path)
        stored = load_file(path)
        return iter([stored[str(place)].as_strided(piece.size, piece.stride) for place, piece in enumerate(pieces)])


def _flat(piece: Piece, tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor that lies as a piece says, in the order of memory."""
    return tensor.as_strided((piece.elements,), (1,))


def _same(piece: Piece, tensor: torch.Tensor) -> bool:
    """Tell whether a tensor of a file has the bits of a parameter, and lies in memory as it does."""
    own = piece.parameter.data
    if (own.shape, own.dtype, own.stride()) != (tensor.shape, tensor.dtype, tensor.stride()):
        return False
    return torch.equal(_flat(piece, own).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
