"""MergedCopy copies: a component as the calls with an active LoRA see it, with the LoRA merged into its weights.

    transformer            its own weights: what calls without the LoRA compute with
    transformer+lora       the same module with other weights in the same parameters, for calls with the LoRA on

The copy is placed, moved and counted like a component. It is built out of place, block by block, when it is first known
what to merge: at the first call with the LoRA on. Base weights are never written. What the LoRA does not reach is not
kept twice: a block's source is the merged weights in memory of their own, and the base's memory for the rest. While the
copy is in front its parameters hold what it has, else what the base has; changing that is re-pointing. Its calls run
with the LoRA switched off in the layers, so nothing is added on the fly.

Units of a merged copy: where their weights wait, and how they are built out of place.

The parameters of such a unit are those of the base's unit, and their weights lie in memory as there: first what the
LoRA reaches, in memory of its own, then what it does not reach, which is the base's memory.
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
        device: Where it computes.
        restore: Gives units back.
        tell: Answers with where events go.
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
        """Make the units anew where the base's were."""
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
        """Take the LoRA as it is now, and tell whether that dropped what had been merged before."""
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
        """Let the base's calls be this component's within the block, the LoRA switched off in the layers."""
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
        """Let the base's calls be its own again, and the layers as they were; once more changes nothing."""
        if self._marks is None:
            return
        with masked():
            for layer, mark in zip(self.base.lora.layers, self._marks, strict=True):
                layer._disable_adapters = mark
            self.base.face, self._marks = self.base, None

    def close(self) -> None:
        """Step back; the hooks are the base's."""
        self.deactivate()


class MergedUnit(Unit):
    """A unit with the LoRA merged in; its parameters are those of the base's unit, and lie in memory as there.

    Args:
        component: The copy's name.
        base: The base's unit.
        lora: What is merged.
        tell: Answers with where events go.
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
        """Return the units that have to be adopted for this one, in order."""
        return (self._base, self)

    @property
    def layers(self) -> list[Any]:
        """Return the layers that the LoRA reaches here."""
        return list({id(layer): layer for layer, _name in map(self._lora.reached.__getitem__, self._reached)}.values())

    @property
    def key(self) -> object:
        """Return what is equal for units whose merged weights are the same, since all that goes into them is."""
        added = [memory_key(weight) for layer in self.layers for weight in self._lora.added_by(layer)]
        return (id(self._base.shared), *added, *map(self._lora.state, self.layers)) if added else id(self)

    def make(self, *, pin: Pin | None, disk: Disk | None) -> Source:
        """Merge, and return where the weights wait from now on: in host memory, or on disk."""
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
        """Drop the merged weights: the parameters are the base's again."""
        if not self._base.is_front:
            self._base.show()
        self.drop()

    @property
    def _reached(self) -> list[int]:
        return [id(piece.parameter) for piece in self.layout.pieces if id(piece.parameter) in self._lora.reached]

    def _merged(self) -> Iterator[torch.Tensor]:
        """Yield each weight that the LoRA reaches, merged; they are the first ones of the layout."""
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
    """MergedCopy weights of a unit in memory of their own, and behind them in the unit's layout the base's others.

    Args:
        own: What the LoRA reaches.
        base: The base's memory, all of it.
    """

    def __init__(self, own: HostBuffer, base: HostBuffer) -> None:
        self._own, self._base = own, base
        self.tensors = (*own.tensors, *base.tensors[len(own.tensors) :])
        self.host_bytes = own.host_bytes

    @property
    def pinned_bytes(self) -> int:
        """Return what is pinned of its own."""
        return self._own.pinned_bytes

    def pin(self, pin: Pin) -> None:
        """Pin its own anew, as much of it as it may now."""
        self._own.pin(pin)

    def parts(self, target: torch.Tensor) -> tuple[tuple[torch.Tensor, CopyPart], ...]:
        """Return what is copied where, for the unit to lie in a target."""
        return *self._own.parts(target[: self._own.host_bytes]), (target[self._own.host_bytes :], self)

    def staged(self) -> torch.Tensor:
        """Return the bytes of what is the base's."""
        return self._base.staged()[self._own.host_bytes :]

    def close(self) -> None:
        """Unpin what is its own."""
        self._own.close()


def _first_pieces(pieces: tuple[Piece, ...]) -> BufferLayout:
    """Return a layout that ends with these pieces, the first ones of another."""
    ends = [piece.offset + piece.nbytes for piece in pieces]
    return BufferLayout(pieces, max(ends, default=0), sum(piece.nbytes for piece in pieces))
