"""Weights without a second copy: the module's own tensors until they are on the device, then the device's alone.

A unit that stays on the device from the first stage to the end of the residency needs no host copy. The memory of each
weight is released as soon as the weight has been copied. When the unit has to leave, for a leaner plan or at the end,
its weights are copied back; on a CPU, where the device's memory is host memory, they stay where they are.

    source = OnlyCopy(layout, tensors, device)
    source.target(allocate)          # memory on the device to copy into
    source.on_host(pin)              # when the unit leaves: the source of its weights from then on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from reslab.residency._engine._layout import (
    BufferLayout,
    CopyPart,
    HostBuffer,
    Pin,
    boundary,
    copy_on_host,
    span,
    views,
)


class OnlyCopy:
    """The weights of one unit in their only place.

    Args:
        layout: Their layout on the device.
        tensors: The weights now, one for each piece.
        device: The device that they go to.
    """

    pinned_bytes = 0

    def __init__(self, layout: BufferLayout, tensors: Iterable[torch.Tensor], device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._tensors = [*tensors]
        self._moved = [False] * len(self._tensors)
        self._landing: HostBuffer | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return each weight in its present place."""
        return tuple(self._tensors)

    @property
    def host_bytes(self) -> int:
        """Return the bytes that are still in host memory."""
        pairs = zip(self._layout.pieces, self._tensors, self._moved, strict=True)
        return sum(piece.nbytes for piece, tensor, moved in pairs if not moved and tensor.device.type == "cpu")

    @property
    def is_in_place(self) -> bool:
        """Tell whether the weights lie on the accelerator already, aligned: then nothing is copied."""
        if self._device.type == "cpu" or any(self._moved):
            return False
        return all(each.device == self._device and _is_aligned(each, self._device) for each in self._tensors)

    def target(self, allocate: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return memory on the device for the whole unit, uint8 (nbytes,)."""
        if self._device.type != "cpu":
            return allocate()
        with torch.inference_mode(False):
            self._landing = HostBuffer(self._layout)
        return self._landing.staged()

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, CopyPart], ...]:
        """Return a copy for each weight, since they lie apart until then; on a CPU one for the whole unit."""
        own = views(target, self._layout)
        if self._landing is not None:
            return ((target, _WholeUnit(self, own)),)
        return tuple(
            (piece.within(target), _SingleWeight(self, place, own[place]))
            for place, piece in enumerate(self._layout.pieces)
            if piece.elements
        )

    def arrive(self, tensors: Iterable[torch.Tensor]) -> None:
        """Release the former memory of all weights: they are on the device."""
        self._tensors = [*tensors]
        self._moved = [True] * len(self._tensors)

    def move(self, place: int, tensor: torch.Tensor) -> None:
        """Release the former memory of one weight: it is on the device."""
        self._tensors[place], self._moved[place] = tensor, True

    def staged(self, place: int) -> torch.Tensor:
        """Return the bytes of one weight in its present place."""
        return _flat(self._tensors[place])

    def on_host(self, pin: Pin | None) -> OnlyCopy | HostBuffer:
        """Return the source of the weights once the unit leaves the device: host memory, if any of them had moved.

        Args:
            pin: Pins that host memory; None leaves it pageable.
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


class _WholeUnit(NamedTuple):
    """All weights of a unit, moved within host memory one after the other."""

    source: OnlyCopy
    targets: tuple[torch.Tensor, ...]

    def staged(self) -> torch.Tensor:
        """Move the weights to their places, and return an empty tensor: nothing is left to copy."""
        for place, target in enumerate(self.targets):
            if target.numel():
                copy_on_host(_flat(target), self.source.staged(place))
            self.source.move(place, target)
        return torch.empty(0, dtype=torch.uint8)


class _SingleWeight(NamedTuple):
    """One weight on its way to the device."""

    source: OnlyCopy
    place: int
    target: torch.Tensor

    def staged(self) -> torch.Tensor:
        """Return the weight's bytes."""
        return self.source.staged(self.place)


def release_part(part: CopyPart) -> None:
    """Release the former memory of a weight that has been copied, if it has no second copy."""
    if isinstance(part, _SingleWeight):
        part.source.move(part.place, part.target)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor in the order of memory, gaps of its strides included."""
    return tensor.as_strided((span(tensor),), (1,)).view(torch.uint8)


def _is_aligned(tensor: torch.Tensor, device: torch.device) -> bool:
    return tensor.data_ptr() % boundary(device) == 0
