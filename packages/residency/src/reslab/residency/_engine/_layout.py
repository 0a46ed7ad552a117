"""Memory for weights: how the parameters of a unit lie in one aligned buffer, on the host and on the device.

A unit is what moves in one piece: a repeated block, or all that lies outside the blocks. Its parameters lie one behind
the other in one buffer, each at an address that divides by the boundary, so that a move is one copy and results do not
depend on where a weight lies. A host buffer is mapped memory of its own: of exactly its size (torch rounds a pinned
request up to a power of two), and given back to the system with the last tensor in it. Every tensor in it has a
storage of its own, so saving one never writes the others.

    layout = lay_out(block.parameters(), boundary=64)
    host = HostBuffer(layout)
    host.fill()                                         # from where the parameters are now
    views(torch.empty(layout.nbytes, dtype=torch.uint8), layout)
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch

#: Alignment that kernels of the CPU, and of accelerators, were made for, in bytes.
CPU_BOUNDARY, ACCELERATOR_BOUNDARY = 64, 256

#: Memory of this process alone, which may be backed by huge pages; Windows knows nothing else.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_NONE: Mapping[int, torch.nn.Parameter] = {}

#: Pins host memory from its beginning, and returns how many bytes of it and what undoes that.
Pin = Callable[[torch.Tensor], tuple[int, Callable[[], None] | None]]


class Piece(NamedTuple):
    """Where one parameter lies in the buffer of its unit: `elements` from `offset` on, gaps of its strides included.

    `host_offset` is another one where an earlier parameter is the same memory: that is where it lies on the host.
    `is_unknown` says that the parameter stands for one on meta, whose value is in a file.
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
        """Return the bytes that it takes."""
        return self.elements * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Tell whether it lies in memory as it does in a file."""
        return torch.empty_strided(self.size, self.stride, device="meta").is_contiguous()

    def within(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return its bytes, uint8 (nbytes,), in the buffer of its unit."""
        return buffer[self.offset : self.offset + self.nbytes]


class Layout(NamedTuple):
    """How parameters lie in one buffer of `nbytes`, of which `weight_bytes` are weights and the others lie between."""

    pieces: tuple[Piece, ...]
    nbytes: int
    weight_bytes: int


class Part(Protocol):
    """What is copied in one piece."""

    def staged(self) -> torch.Tensor:
        """Return its bytes, uint8 (nbytes,), in host memory; valid until the next call."""


class Source(Protocol):
    """Where a unit's weights are while they are not on the device."""

    @property
    def host_bytes(self) -> int:
        """Return the bytes of host memory that it holds."""

    @property
    def pinned_bytes(self) -> int:
        """Return what of them is pinned."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return a tensor for each piece, to be read only."""

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, Part], ...]:
        """Return what is copied where, for the unit to lie in a target, uint8 (at least nbytes,)."""

    def close(self) -> None:
        """Let go of what is not memory: a pin, a file."""


def boundary(device: torch.device) -> int:
    """Return the alignment of weights on a device, in bytes."""
    return CPU_BOUNDARY if device.type == "cpu" else ACCELERATOR_BOUNDARY


def lay_out(
    parameters: Iterable[torch.nn.Parameter], *, boundary: int, unknown: Mapping[int, torch.nn.Parameter] = _NONE
) -> Layout:
    """Return how parameters lie in one buffer, each in a place of its own.

    Those that are the same memory move as if they were not, as weights that were drawn once for several layers are to
    be: so the bytes moved are those of the model. On the host they stay the same memory.

    >>> layer = torch.nn.Linear(3, 5)
    >>> [(piece.offset, piece.nbytes) for piece in lay_out(layer.parameters(), boundary=64).pieces]
    [(0, 60), (64, 20)]

    Args:
        parameters: In the order in which they lie.
        boundary: Where each begins, in bytes.
        unknown: The parameters on meta that others of these stand for, by the identity of those.
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
    return Layout(tuple(pieces), end, weight_bytes)


def memory_key(parameter: torch.nn.Parameter) -> object:
    """Return what is equal for two parameters that are the same memory; only valid while both are alive."""
    count = span(parameter)
    return (parameter.data_ptr(), count, parameter.dtype) if count else id(parameter)


def span(tensor: torch.Tensor) -> int:
    """Return how many elements of its storage a strided tensor reaches over."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def views(buffer: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a layout inside a buffer, uint8 (at least layout.nbytes,)."""
    return tuple(
        buffer[piece.offset : piece.offset + piece.nbytes].view(piece.dtype).as_strided(piece.size, piece.stride)
        for piece in layout.pieces
    )


def copy_on_host(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy bytes, uint8 (nbytes,), within host memory, into a target that is at least as large."""
    target[: source.nbytes].copy_(source)  # a fifth faster than memmove into fresh memory, and as free of the lock


class Bytes(NamedTuple):
    """A part that is some bytes of host memory."""

    memory: torch.Tensor

    def staged(self) -> torch.Tensor:
        """Return them."""
        return self.memory


class HostBuffer:
    """The weights of one unit in host memory.

    Args:
        layout: How they lie in it.
        pin: Pins memory from its beginning, as much of it as it may, and returns how many bytes that is and what
            undoes it; None leaves all pageable.
    """

    def __init__(self, layout: Layout, *, pin: Pin | None = None) -> None:
        self._layout = layout
        memory = mmap.mmap(-1, max(layout.nbytes, 1), **_PRIVATE)  # whole pages, so exact and aligned
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)[: layout.nbytes]
        self.tensors = tuple(_in_memory(memory, piece) for piece in layout.pieces)
        self.host_bytes = layout.nbytes
        self.pinned_bytes, self._unpin = pin(self._bytes) if pin is not None else (0, None)

    def pin(self, pin: Pin) -> None:
        """Pin it anew, as much of it as it may now."""
        self.close()
        self.pinned_bytes, self._unpin = pin(self._bytes)

    def fill(self) -> None:
        """Copy the weights from where the parameters are now."""
        self.fill_from(piece.parameter.data for piece in self._layout.pieces)

    def fill_from(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the weights from other tensors, one for each piece, to the places that they move from."""
        for piece, tensor in zip(self._layout.pieces, tensors, strict=True):
            self.put(piece, tensor)

    def put(self, piece: Piece, tensor: torch.Tensor) -> None:
        """Copy one weight, which lies as its piece says, to the place that it moves from."""
        piece.within(self._bytes).view(piece.dtype).copy_(tensor.as_strided((piece.elements,), (1,)))

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, Part], ...]:
        """Return that it is copied in one piece, or in two where only the first of them is pinned."""
        if self.pinned_bytes in (0, self._layout.nbytes):
            return ((target, self),)
        halves = slice(self.pinned_bytes), slice(self.pinned_bytes, self._layout.nbytes)
        return tuple((target[half], Bytes(self._bytes[half])) for half in halves)

    def staged(self) -> torch.Tensor:
        """Return its bytes."""
        return self._bytes

    def close(self) -> None:
        """Unpin it; the tensors in it live on."""
        if self._unpin is not None:
            self._unpin()
            self._unpin, self.pinned_bytes = None, 0


def _in_memory(memory: mmap.mmap, piece: Piece) -> torch.Tensor:
    if not piece.elements:
        return torch.empty_strided(piece.size, piece.stride, dtype=piece.dtype)
    flat = torch.frombuffer(memory, dtype=piece.dtype, count=piece.elements, offset=piece.host_offset)
    return flat.as_strided(piece.size, piece.stride)
