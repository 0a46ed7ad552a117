"""LoRAs that are added on the fly, seen by what PEFT's layers look like.

A call with an active LoRA is traced twice: as it is run, and with the adapters off, which is what it costs once they
are merged into the weights.

What a LoRA is to the engine: layers that carry it, weights that it adds, weights that it reaches, and merging.

A LoRA that PEFT added lies beside the layers that it reaches. Merging is PEFT's own: a layer that stands in for the
real one, with the base weights beneath it, merges what is active, and hands out what comes of it. The real layer and
its weights are only read.

    lora = Adapted(transformer)
    lora.is_on                                  # whether anything is added on the fly now
    lora.take()                                 # this is what is to be merged
    lora.merged(id(parameter), weights)         # one weight with the LoRA in it, out of place
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


def adapted_layers(component: torch.nn.Module) -> list[Any]:
    """The layers of a component that carry a LoRA, as PEFT marks them."""
    return [layer for layer in component.modules() if hasattr(layer, "disable_adapters") and hasattr(layer, "lora_A")]


def representatives(layers: Sequence[Any]) -> list[Any]:
    """One layer for each set of adapters: PEFT switches an adapter on in all its layers, or in none."""
    return list({tuple(layer.lora_A): layer for layer in layers}.values())


def active(layers: Sequence[Any]) -> frozenset[Any]:
    """Which adapters the layers compute now; empty where they compute their base layers alone."""
    # of a layer that was fused PEFT computes the base alone, until it is unfused
    switched_on = [layer for layer in layers if not layer.disable_adapters and not layer.merged]
    names = (tuple(name for name in layer.active_adapters if name in layer.lora_A) for layer in switched_on)
    return frozenset(name for name in names if name)


@contextmanager
def switched_off(layers: Sequence[Any]) -> Iterator[None]:
    """Compute the base layers alone within the block.

    PEFT's own switch also decides which weights want gradients, so the mark that it sets is set here by itself.
    """
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._disable_adapters = value


class Reached(NamedTuple):
    """A weight that a LoRA reaches: the layer that carries the LoRA, and the weight's name in its base layer."""

    layer: Any
    name: str


class Adapted:
    """The layers of a component that carry a LoRA; of none, an empty one.

    Args:
        component: Any module; None for nothing.
    """

    def __init__(self, component: torch.nn.Module | None) -> None:
        self.layers = adapted_layers(component) if component is not None else []
        self._taken: dict[int, dict[str, float]] = {}
        self._switches = representatives(self.layers)
        bases = [layer.get_base_layer() for layer in self.layers]
        base_weights = {id(weight) for base in bases for weight in base.parameters()}
        #: What the LoRA adds, by identity.
        self.added = {id(p) for layer in self.layers for p in layer.parameters() if id(p) not in base_weights}
        #: What it changes when it is merged, by identity.
        self.reached = {
            id(base._parameters[name]): Reached(layer, name)
            for layer, base in zip(self.layers, bases, strict=True)
            for name in _names(layer, base)
        }

    @property
    def is_on(self) -> bool:
        """Tell whether a LoRA is added on the fly now."""
        return bool(active(self._switches))

    def take(self) -> tuple[Any, ...]:
        """Take the adapters that are on and their strengths as what is to be merged, and return what decides it."""
        self._taken = {id(layer): _strengths(layer) for layer in self.layers}
        return tuple(map(self.state, self.layers))

    def state(self, layer: Any) -> tuple[Any, ...]:
        """Return what of a layer's LoRA, as it was taken, decides what merging gives: if it is equal, so is that."""
        versions = (weight._version for weight in self.added_by(layer) if not weight.is_inference())
        return (*self._taken[id(layer)].items(), *versions)

    def strengths(self, layer: Any) -> dict[str, float]:
        """Return the adapters of a layer that were on when they were taken, and their strengths."""
        return self._taken[id(layer)]

    def added_by(self, layer: Any) -> list[torch.nn.Parameter]:
        """Return the weights that the LoRA adds beside a layer."""
        return [weight for weight in layer.parameters() if id(weight) in self.added]

    def merged(self, key: int, weights: Callable[[torch.nn.Parameter], torch.Tensor]) -> torch.Tensor:
        """Return a weight with what was taken merged in, in memory of its own, on the host.

        Args:
            key: The parameter's identity, one of `reached`.
            weights: Returns the base weights of a parameter, which are only read.

        Raises:
            ValueError: From PEFT, if what comes of it is not finite.
        """
        layer, name = self.reached[key]
        beside = next(iter(self.added_by(layer))).device
        base: Any = _stand_in(layer.get_base_layer())
        base._parameters = {
            own: torch.nn.Parameter(weights(each).to(beside), requires_grad=False) if each is not None else None
            for own, each in layer.get_base_layer()._parameters.items()
        }
        merge(layer, base, self.strengths(layer))
        return base._parameters[name].data.cpu()


def _strengths(layer: Any) -> dict[str, float]:
    """Return the strengths of the adapters that a layer computes now."""
    adapters = layer.active_adapters if active([layer]) else ()
    return {name: layer.scaling[name] for name in adapters if name in layer.lora_A}


def merge(layer: Any, base: Any, strengths: dict[str, float]) -> None:
    """Merge adapters of a layer into a base layer that stands in for its own.

    With `safe_merge` PEFT computes in a copy and puts that in the weight's place, so no tensor is written.
    """
    stand_in: Any = _stand_in(layer)
    stand_in._modules = layer._modules | {"base_layer": base}
    stand_in.merged_adapters, stand_in.scaling = [], strengths
    with torch.no_grad(), torch.inference_mode(False):
        stand_in.merge(safe_merge=True, adapter_names=[*strengths])


def _stand_in(module: torch.nn.Module) -> torch.nn.Module:
    """Return another module with the attributes of a managed one, which refuses to be copied."""
    other = type(module).__new__(type(module))
    vars(other).update(vars(module))
    return other


def _names(layer: Any, base: torch.nn.Module) -> list[str]:
    """Return the weights of a base layer that merging changes: all but a bias, unless the LoRA has one too."""
    changes_bias = any(getattr(layer, "lora_bias", {}).values())
    return [name for name, each in base._parameters.items() if each is not None and (name != "bias" or changes_bias)]
