"""Merged copies: a component as the calls with an active LoRA see it, with the LoRA merged into its weights.

    transformer            its own weights: what calls without the LoRA compute with
    transformer+lora       the same module with other weights in the same parameters, for calls with the LoRA on

The copy is placed, moved and counted like a component. It is built out of place, block by block, when it is first known
what to merge: at the first call with the LoRA on. Base weights are never written. What the LoRA does not reach is not
kept twice: a block's source is the merged weights in memory of their own, and the base's memory for the rest. While the
copy is in front its parameters hold what it has, else what the base has; changing that is re-pointing. Its calls run
with the LoRA switched off in the layers, so nothing is added on the fly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from reslab.residency._engine._component import Component
from reslab.residency._engine._merged_unit import MergedUnit
from reslab.residency._engine._recovery import masked
from reslab.residency._engine._unit import Shared, Unit
from reslab.residency._plan._numerics import MERGED
from reslab.stages import Observer


class Merged(Component):
    """A component with the LoRA merged in: the same module and blocks, and units of its own.

    Args:
        base: The component.
        device: Where it computes.
        put_back: Gives units back.
        tell: Answers with where events go.
    """

    def __init__(
        self,
        base: Component,
        *,
        device: torch.device,
        put_back: Callable[[Iterable[Unit]], None],
        tell: Callable[[], Observer],
    ) -> None:
        super().__init__(base.name + MERGED, base.module, device=device, watcher=base.watcher, blocks=())
        self.base, self.blocks, self._put_back, self._tell = base, base.blocks, put_back, tell
        self._state: object = None
        self._marks: list[bool] | None = None

    def refresh(self, put_back: Callable[[Iterable[Unit]], None], shared: dict[object, Shared]) -> bool:
        """Make the units anew where the base's were."""
        if self.version == self.base.version:
            return False
        put_back(self.units.values())
        self.version, self.blocks, self._state = self.base.version, self.base.blocks, None
        self.units = {
            number: MergedUnit(self.name, unit, self.base.lora, self._tell, self._device)
            for number, unit in self.base.units.items()
        }
        return True

    def see(self) -> bool:
        """Take the LoRA as it is now, and tell whether that dropped what had been merged before."""
        state = self.base.lora.take()
        if state == self._state:
            return False
        self._put_back(self.units.values())
        shared: dict[object, Shared] = {}
        for unit in self.units.values():
            assert isinstance(unit, MergedUnit)
            unit.share(shared.setdefault(unit.key, Shared()))
        dropped, self._state = self._state is not None, state
        return dropped

    @contextmanager
    def standing(self) -> Iterator[None]:
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
            self.step_back()

    def step_back(self) -> None:
        """Let the base's calls be its own again, and the layers as they were; once more changes nothing."""
        if self._marks is None:
            return
        with masked():
            for layer, mark in zip(self.base.lora.layers, self._marks, strict=True):
                layer._disable_adapters = mark
            self.base.face, self._marks = self.base, None

    def close(self) -> None:
        """Step back; the hooks are the base's."""
        self.step_back()
