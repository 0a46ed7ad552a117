"""Buffers for weights: the layout of a unit's parameters in one aligned buffer, on the host and on the device.

A unit moves in one piece: a repeated block, or all parameters outside the blocks. Its parameters lie one behind the
other in one buffer, each at a multiple of the boundary, so that a move is one copy and results do not depend on the
address of a weight. A host buffer is an anonymous memory map of exactly its size (torch rounds a pinned request up to a
power of two); the system gets it back with the last tensor in it. Every tensor in it has a storage of its own, so that
saving one never writes the others.

    layout = lay_out(block.parameters(), boundary=64)
    host = HostBuffer(layout)
    host.fill()                                         # with the parameters' values
    views(torch.empty(layout.nbytes, dtype=torch.uint8), layout)
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch

#: Alignment that kernels of the CPU, and of accelerators, expect, in bytes.
CPU_BOUNDARY, ACCELERATOR_BOUNDARY = 64, 256

#: Memory of this process alone may be backed by huge pages; on Windows every anonymous map is private.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_NONE: Mapping[int, torch.nn.Parameter] = {}

#: Pins host memory from its beginning; returns the number of pinned bytes, and the function that unpins them.
Pin = Callable[[torch.Tensor], tuple[int, Callable[[], None] | None]]


class Piece(NamedTuple):
    """The place of one parameter in the buffer of its unit.

    Attributes:
        parameter: The parameter.
        offset: Byte at which it begins.
        host_offset: The same on the host, where a parameter that shares memory with an earlier one lies in that one's
            place.
        elements: Number of elements, gaps of its strides included.
        size: Its shape.
        stride: Its strides, in elements.
        dtype: Its type.
        is_unknown: Whether the parameter stands for one on meta, whose value is in a file.
    """

    parameter: torch.nn.Parameter
    offset: int
    host_offset: int
    elements: int
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    is_unknown: bool = False

    @property
    def nbytes(self) -> int:
        """Return the bytes that the parameter takes."""
        return self.elements * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Tell whether its elements have the same order in memory as in a file."""
        return torch.empty_strided(self.size, self.stride, device="meta").is_contiguous()

    def within(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the parameter's bytes, uint8 (nbytes,), in the buffer of its unit."""
        return buffer[self.offset : self.offset + self.nbytes]


class BufferLayout(NamedTuple):
    """The places of a unit's parameters in one buffer.

    Attributes:
        pieces: The place of each parameter.
        nbytes: Bytes of the buffer.
        weight_bytes: Bytes of the weights, without the gaps between them.
    """

    pieces: tuple[Piece, ...]
    nbytes: int
    weight_bytes: int


class CopyPart(Protocol):
    """Host side of one copy."""

    def staged(self) -> torch.Tensor:
        """Return the bytes to copy, uint8 (nbytes,), in host memory; valid until the next call."""


class Source(Protocol):
    """The place of a unit's weights while they are not on the device."""

    @property
    def host_bytes(self) -> int:
        """Return the bytes of host memory that it holds."""

    @property
    def pinned_bytes(self) -> int:
        """Return how many of them are pinned."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return a tensor for each piece; they must not be written."""

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, CopyPart], ...]:
        """Return the copies that bring the unit into a target, uint8 (at least nbytes,), as pairs (target, part)."""

    def close(self) -> None:
        """Release everything but memory: a pin, a file."""


def boundary(device: torch.device) -> int:
    """Return the alignment of weights on a device, in bytes."""
    return CPU_BOUNDARY if device.type == "cpu" else ACCELERATOR_BOUNDARY


def lay_out(
    parameters: Iterable[torch.nn.Parameter], *, boundary: int, unknown: Mapping[int, torch.nn.Parameter] = _NONE
) -> BufferLayout:
    """Return a layout of parameters in one buffer, each in a place of its own.

    Parameters that share memory still get separate offsets, so a model with random weights that were drawn once for
    several layers moves as many bytes as a real one. On the host they stay the same memory.

    >>> layer = torch.nn.Linear(3, 5)
    >>> [(piece.offset, piece.nbytes) for piece in lay_out(layer.parameters(), boundary=64).pieces]
    [(0, 60), (64, 20)]

    Args:
        parameters: The parameters, in the order of their places.
        boundary: Alignment of each, in bytes.
        unknown: Parameters on meta, by the identity of the ones in `parameters` that stand in for them.
    """
    pieces: list[Piece] = []
    places: dict[object, int] = {}
    end = weight_bytes = 0
    for parameter in parameters:
        like = unknown.get(id(parameter), parameter)
        offset, elements = -(-end // boundary) * boundary, span(like)
        first = places.setdefault(memory_key(parameter), offset)
        kind = like.shape, like.stride(), like.dtype
        pieces.append(piece := Piece(parameter, offset, first, elements, *kind, like is not parameter))
        if piece.nbytes:
            end, weight_bytes = offset + piece.nbytes, weight_bytes + piece.nbytes
    return BufferLayout(tuple(pieces), end, weight_bytes)


def memory_key(parameter: torch.nn.Parameter) -> object:
    """Return a key that is equal for two parameters of the same memory; valid only while both are alive."""
    count = span(parameter)
    return (parameter.data_ptr(), count, parameter.dtype) if count else id(parameter)


def span(tensor: torch.Tensor) -> int:
    """Return the number of storage elements from a strided tensor's first element to its last."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def views(buffer: torch.Tensor, layout: BufferLayout) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a layout inside a buffer, uint8 (at least layout.nbytes,)."""
    return tuple(
        buffer[piece.offset : piece.offset + piece.nbytes].view(piece.dtype).as_strided(piece.size, piece.stride)
        for piece in layout.pieces
    )


def copy_on_host(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy bytes, uint8 (nbytes,), within host memory, into a target that is at least as large."""
    target[: source.nbytes].copy_(source)  # a fifth faster than memmove into fresh memory; both release the GIL


class BufferSlice(NamedTuple):
    """A part of a copy that is a slice of host memory."""

    memory: torch.Tensor

    def staged(self) -> torch.Tensor:
        """Return the slice."""
        return self.memory


class HostBuffer:
    """The weights of one unit in host memory.

    Args:
        layout: Their places in it.
        pin: Pins as much of the memory as is allowed, see `Pin`; None leaves all of it pageable.
    """

    def __init__(self, layout: BufferLayout, *, pin: Pin | None = None) -> None:
        self._layout = layout
        memory = mmap.mmap(-1, max(layout.nbytes, 1), **_PRIVATE)  # whole pages, so exact and aligned
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)[: layout.nbytes]
        self.tensors = tuple(_in_memory(memory, piece) for piece in layout.pieces)
        self.host_bytes = layout.nbytes
        self.pinned_bytes, self._unpin = pin(self._bytes) if pin is not None else (0, None)

    def pin(self, pin: Pin) -> None:
        """Pin the memory again, as much of it as is allowed now."""
        self.close()
        self.pinned_bytes, self._unpin = pin(self._bytes)

    def fill(self) -> None:
        """Copy the parameters' values into the buffer."""
        self.fill_from(piece.parameter.data for piece in self._layout.pieces)

    def fill_from(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the values of other tensors, one for each piece, into the buffer."""
        for piece, tensor in zip(self._layout.pieces, tensors, strict=True):
            self.put(piece, tensor)

    def put(self, piece: Piece, tensor: torch.Tensor) -> None:
        """Copy one weight, with the size and strides of its piece, into the buffer."""
        piece.within(self._bytes).view(piece.dtype).copy_(tensor.as_strided((piece.elements,), (1,)))

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, CopyPart], ...]:
        """Return one copy of the whole buffer, or two where only its beginning is pinned."""
        if self.pinned_bytes in (0, self._layout.nbytes):
            return ((target, self),)
        halves = slice(self.pinned_bytes), slice(self.pinned_bytes, self._layout.nbytes)
        return tuple((target[half], BufferSlice(self._bytes[half])) for half in halves)

    def staged(self) -> torch.Tensor:
        """Return the bytes of the buffer."""
        return self._bytes

    def close(self) -> None:
        """Unpin the memory; the tensors in it stay valid."""
        if self._unpin is not None:
            self._unpin()
            self._unpin, self.pinned_bytes = None, 0


def _in_memory(memory: mmap.mmap, piece: Piece) -> torch.Tensor:
    if not piece.elements:
        return torch.empty_strided(piece.size, piece.stride, dtype=piece.dtype)
    flat = torch.frombuffer(memory, dtype=piece.dtype, count=piece.elements, offset=piece.host_offset)
    return flat.as_strided(piece.size, piece.stride)
