"""Merged copies: a component with the LoRA merged into its weights, for calls with an active LoRA.

    transformer            the component with its own weights, for calls without the LoRA
    transformer+lora       the same module with other weights in the same parameters, for calls with the LoRA on

The engine places, moves and counts the copy like a component. It merges out of place, block by block, at the first call
with the LoRA on, and never writes base weights. Weights that the LoRA does not change are not kept twice: in a unit's
layout the changed weights come first, in memory of their own, and the others follow, in the base's memory. The
parameters hold either the copy's weights or the base's; switching re-points them. Calls of the copy run with the LoRA
switched off in the layers, so that nothing is added on the fly.

    merged = MergedCopy(base, device=device, restore=mover.restore, tell=lambda: pipeline.tell)
    merged.update()                        # capture the adapters that are on now
    with merged.active():
        base.module(x)                     # computes with the merged weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from reslab.residency._engine._component import Component
from reslab.residency._engine._disk import Disk
from reslab.residency._engine._interrupts import masked
from reslab.residency._engine._layout import BufferLayout, CopyPart, HostBuffer, Piece, Pin, Source, memory_key
from reslab.residency._engine._unit import SharedSource, Unit
from reslab.residency._model._lora import ComponentLora
from reslab.residency._plan._numerics import MERGED
from reslab.stages import Kind, Observer


class MergedCopy(Component):
    """A component with the LoRA merged in: the same module and blocks, and units of its own.

    Args:
        base: The component.
        device: The device that computes.
        restore: Restores units.
        tell: Returns the observer of events.
    """

    def __init__(
        self,
        base: Component,
        *,
        device: torch.device,
        restore: Callable[[Iterable[Unit]], None],
        tell: Callable[[], Observer],
    ) -> None:
        super().__init__(base.name + MERGED, base.module, device=device, watcher=base.watcher, blocks=())
        self.base, self.blocks, self._put_back, self._tell = base, base.blocks, restore, tell
        self._state: object = None
        self._marks: list[bool] | None = None

    def refresh(self, restore: Callable[[Iterable[Unit]], None], shared: dict[object, SharedSource]) -> bool:
        """Make the units anew if the base's units were."""
        if self.version == self.base.version:
            return False
        restore(self.units.values())
        self.version, self.blocks, self._state = self.base.version, self.base.blocks, None
        self.units = {
            number: MergedUnit(self.name, unit, self.base.lora, self._tell, self._device)
            for number, unit in self.base.units.items()
        }
        return True

    def update(self) -> bool:
        """Capture the adapters that are on now, and tell whether that dropped weights merged before."""
        state = self.base.lora.capture()
        if state == self._state:
            return False
        self._put_back(self.units.values())
        shared: dict[object, SharedSource] = {}
        for unit in self.units.values():
            assert isinstance(unit, MergedUnit)
            unit.share(shared.setdefault(unit.key, SharedSource()))
        dropped, self._state = self._state is not None, state
        return dropped

    @contextmanager
    def active(self) -> Iterator[None]:
        """Receive the base's calls within the block, with the LoRA switched off in the layers."""
        layers = self.base.lora.layers
        try:
            with masked():
                self._marks = [layer._disable_adapters for layer in layers]
                for layer in layers:
                    layer._disable_adapters = True  # PEFT's own switch also decides which weights want gradients
                self.base.face = self
            yield
        finally:
            self.deactivate()

    def deactivate(self) -> None:
        """Return the base's calls to the base, and switch the LoRA on again; a second call changes nothing."""
        if self._marks is None:
            return
        with masked():
            for layer, mark in zip(self.base.lora.layers, self._marks, strict=True):
                layer._disable_adapters = mark
            self.base.face, self._marks = self.base, None

    def close(self) -> None:
        """End an active call; the hooks are the base's."""
        self.deactivate()


class MergedUnit(Unit):
    """A unit with the LoRA merged in; it has the parameters and the layout of the base's unit.

    Args:
        component: The copy's name.
        base: The base's unit.
        lora: The LoRA to merge.
        tell: Returns the observer of events.
        device: The device that computes.
    """

    is_known = False
    keeps_writes = False

    def __init__(
        self, component: str, base: Unit, lora: ComponentLora, tell: Callable[[], Observer], device: torch.device
    ) -> None:
        super().__init__(component, base.number, base.layout, SharedSource(), device)
        self._base, self._lora, self._tell = base, lora, tell
        self.stand_before(base)

    @property
    def needs(self) -> tuple[Unit, ...]:
        """Return the units to adopt for this one, in order."""
        return (self._base, self)

    @property
    def layers(self) -> list[Any]:
        """Return the layers of this unit that carry the LoRA."""
        return list({id(layer): layer for layer, _name in map(self._lora.reached.__getitem__, self._reached)}.values())

    @property
    def key(self) -> object:
        """Return a key that is equal for two units of the same base memory, adapters and strengths."""
        added = [memory_key(weight) for layer in self.layers for weight in self._lora.added_by(layer)]
        return (id(self._base.shared), *added, *map(self._lora.state, self.layers)) if added else id(self)

    def make(self, *, pin: Pin | None, disk: Disk | None) -> Source:
        """Merge the weights, and return their new source: host memory, or disk."""
        tell = self._tell()
        tell.begin(Kind.WAIT, self.name)
        try:
            source = self._on_disk(disk) if disk is not None else self._in_memory(pin)
        except BaseException as error:
            tell.end(error)
            raise
        tell.end()
        return source

    def restore(self) -> None:
        """Drop the merged weights: the parameters hold the base's again."""
        if not self._base.is_front:
            self._base.show()
        self.drop()

    @property
    def _reached(self) -> list[int]:
        return [id(piece.parameter) for piece in self.layout.pieces if id(piece.parameter) in self._lora.reached]

    def _merged(self) -> Iterator[torch.Tensor]:
        """Yield the merged value of each weight that the LoRA changes; these come first in the layout."""
        return (self._lora.merged(key, self._base_weights) for key in self._reached)

    def _base_weights(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        place = self._base.by_parameter.get(id(parameter))
        return parameter.data if place is None else self._base.source.tensors[place]

    def _in_memory(self, pin: Pin | None) -> Source:
        base, pieces = self._base.source, self.layout.pieces
        count = len(self._reached) if isinstance(base, HostBuffer) else len(pieces)
        own = HostBuffer(_first_pieces(pieces[:count]), pin=pin)
        rest = base.tensors[len(self._reached) :]
        with torch.inference_mode(False), torch.no_grad():
            for target, tensor in zip(own.tensors, chain(self._merged(), rest), strict=False):
                target.copy_(tensor)
        return MergedSource(own, base) if isinstance(base, HostBuffer) else own

    def _on_disk(self, disk: Disk) -> Source:
        return disk.write(self.layout, self._merged(), self._base.source)


class MergedSource:
    """Merged weights of a unit in memory of their own, followed in the unit's layout by the base's other weights.

    Args:
        own: The merged weights.
        base: All memory of the base's unit.
    """

    def __init__(self, own: HostBuffer, base: HostBuffer) -> None:
        self._own, self._base = own, base
        self.tensors = (*own.tensors, *base.tensors[len(own.tensors) :])
        self.host_bytes = own.host_bytes

    @property
    def pinned_bytes(self) -> int:
        """Return the pinned bytes of the merged weights."""
        return self._own.pinned_bytes

    def pin(self, pin: Pin) -> None:
        """Pin the merged weights again, as many of their bytes as is allowed now."""
        self._own.pin(pin)

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, CopyPart], ...]:
        """Return the copies that bring the unit into a target."""
        return *self._own.parts(target[: self._own.host_bytes]), (target[self._own.host_bytes :], self)

    def staged(self) -> torch.Tensor:
        """Return the bytes of the base's other weights."""
        return self._base.staged()[self._own.host_bytes :]

    def close(self) -> None:
        """Unpin the merged weights."""
        self._own.close()


def _first_pieces(pieces: tuple[Piece, ...]) -> BufferLayout:
    """Return a layout of only these pieces, the first of another layout."""
    ends = [piece.offset + piece.nbytes for piece in pieces]
    return BufferLayout(pieces, max(ends, default=0), sum(piece.nbytes for piece in pieces))
