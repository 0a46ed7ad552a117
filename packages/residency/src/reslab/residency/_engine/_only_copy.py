"""Weights that have one place: the module's own tensors until they are on the device, and then the device.

What stays on the device from the first stage to the end of the residency needs no second copy. Each weight is given up
where it was as soon as it has been copied. When a unit has to leave, for a leaner plan or at the end, its weights come
back from the device; on a CPU, where the device's memory is the host's, they stay where they are.

    source = OnlyCopy(layout, tensors, device)
    source.target(allocate)          # memory on the device, to be copied into
    source.on_host(pin)              # when the unit leaves: where its weights wait from then on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from reslab.residency._engine._layout import HostBuffer, Layout, Part, Pin, boundary, copy_on_host, span, views


class OnlyCopy:
    """The weights of one unit in the one place where they are.

    Args:
        layout: How they lie on the device.
        tensors: Where they are now, one for each piece.
        device: Where they go.
    """

    pinned_bytes = 0

    def __init__(self, layout: Layout, tensors: Iterable[torch.Tensor], device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._tensors = [*tensors]
        self._moved = [False] * len(self._tensors)
        self._landing: HostBuffer | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return each weight where it is."""
        return tuple(self._tensors)

    @property
    def host_bytes(self) -> int:
        """Return the bytes that are in host memory, and not on the device."""
        pairs = zip(self._layout.pieces, self._tensors, self._moved, strict=True)
        return sum(piece.nbytes for piece, tensor, moved in pairs if not moved and tensor.device.type == "cpu")

    @property
    def is_in_place(self) -> bool:
        """Tell whether the weights lie on an accelerator already, as they are to: then nothing is copied."""
        if self._device.type == "cpu" or any(self._moved):
            return False
        return all(each.device == self._device and _is_aligned(each, self._device) for each in self._tensors)

    def target(self, allocate: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return memory on the device for all of it, uint8 (nbytes,)."""
        if self._device.type != "cpu":
            return allocate()
        with torch.inference_mode(False):
            self._landing = HostBuffer(self._layout)
        return self._landing.staged()

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, Part], ...]:
        """Return each weight and its place, since they do not lie in one piece yet; on a CPU, all in one."""
        own = views(target, self._layout)
        if self._landing is not None:
            return ((target, _All(self, own)),)
        return tuple(
            (piece.within(target), _Weight(self, place, own[place]))
            for place, piece in enumerate(self._layout.pieces)
            if piece.elements
        )

    def arrive(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give up what is left where the weights were: all are on the device."""
        self._tensors = [*tensors]
        self._moved = [True] * len(self._tensors)

    def move(self, place: int, tensor: torch.Tensor) -> None:
        """Give up one weight where it was: it is on the device."""
        self._tensors[place], self._moved[place] = tensor, True

    def staged(self, place: int) -> torch.Tensor:
        """Return the bytes of one weight where it was."""
        return _flat(self._tensors[place])

    def on_host(self, pin: Pin | None) -> OnlyCopy | HostBuffer:
        """Return where the weights wait when the unit leaves the device: brought back, if any of them had moved.

        Args:
            pin: Pins what they are brought back to; None leaves it pageable.
        """
        if not any(self._moved) and not self.is_in_place:
            return self
        if self._landing is not None and self._has_landed:
            if pin is not None:
                self._landing.pin(pin)
            return self._landing
        with torch.inference_mode(False), torch.no_grad():
            memory = HostBuffer(self._layout, pin=pin)
            memory.fill_from(self._tensors)
        return memory

    @property
    def _has_landed(self) -> bool:
        return all(moved for moved, piece in zip(self._moved, self._layout.pieces, strict=True) if piece.elements)

    def close(self) -> None:
        """Do nothing: there is no pin and no file."""


class _All(NamedTuple):
    """All weights of a unit on their way within host memory, one after the other."""

    source: OnlyCopy
    targets: tuple[torch.Tensor, ...]

    def staged(self) -> torch.Tensor:
        """Move them straight to their places, and return nothing that is left to be copied."""
        for place, target in enumerate(self.targets):
            if target.numel():
                copy_on_host(_flat(target), self.source.staged(place))
            self.source.move(place, target)
        return torch.empty(0, dtype=torch.uint8)


class _Weight(NamedTuple):
    """One weight on its way."""

    source: OnlyCopy
    place: int
    target: torch.Tensor

    def staged(self) -> torch.Tensor:
        """Return its bytes."""
        return self.source.staged(self.place)


def give_up(part: Part) -> None:
    """Give up a weight where it was, if it is the only copy that has been copied."""
    if isinstance(part, _Weight):
        part.source.move(part.place, part.target)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor in the order of memory, gaps of its strides included."""
    return tensor.as_strided((span(tensor),), (1,)).view(torch.uint8)


def _is_aligned(tensor: torch.Tensor, device: torch.device) -> bool:
    return tensor.data_ptr() % boundary(device) == 0
