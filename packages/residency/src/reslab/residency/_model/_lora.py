"""LoRAs that PEFT added to a component: the layers that carry them, the weights that they add and change, and merging.

A LoRA lies beside the layers that it changes; PEFT's attributes on the layers show it, so PEFT is not imported here. A
rehearsal traces a call with an active LoRA twice: as it runs, and with the adapters off, which is its cost after
merging. The engine merges by PEFT's own arithmetic: a stand-in for the real layer, with the base weights in it, merges
the active adapters. The real layer and its weights are only read.

    lora = ComponentLora(transformer)
    lora.is_on                                  # whether a LoRA is added on the fly now
    lora.capture()                              # the adapters that are on now are the ones to merge
    lora.merged(id(parameter), weights)         # one weight with the LoRA in it, out of place
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


def adapted_layers(component: torch.nn.Module) -> list[Any]:
    """Return the layers of a component that carry a LoRA, as PEFT marks them."""
    return [layer for layer in component.modules() if hasattr(layer, "disable_adapters") and hasattr(layer, "lora_A")]


def representatives(layers: Sequence[Any]) -> list[Any]:
    """Return one layer for each set of adapters: PEFT switches an adapter on in all its layers, or in none."""
    return list({tuple(layer.lora_A): layer for layer in layers}.values())


def active(layers: Sequence[Any]) -> frozenset[Any]:
    """Return the adapters that the layers compute now; empty where they compute their base layers alone."""
    # PEFT computes a fused layer as its base alone, until it is unfused
    switched_on = [layer for layer in layers if not layer.disable_adapters and not layer.merged]
    names = (tuple(name for name in layer.active_adapters if name in layer.lora_A) for layer in switched_on)
    return frozenset(name for name in names if name)


@contextmanager
def switched_off(layers: Sequence[Any]) -> Iterator[None]:
    """Compute the base layers alone within the block."""
    # PEFT's own switch also decides which weights want gradients, so only the attribute that it sets is set here
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._disable_adapters = value


class AdaptedWeight(NamedTuple):
    """A weight that a LoRA changes when merged: the layer that carries the LoRA, and the weight's name in its base."""

    layer: Any
    name: str


class ComponentLora:
    """The LoRA of a component: its layers, the weights that it adds, and the weights that it changes.

    Args:
        component: Any module; None makes an empty one.
    """

    def __init__(self, component: torch.nn.Module | None) -> None:
        self.layers = adapted_layers(component) if component is not None else []
        self._captured: dict[int, dict[str, float]] = {}
        self._switches = representatives(self.layers)
        bases = [layer.get_base_layer() for layer in self.layers]
        base_weights = {id(weight) for base in bases for weight in base.parameters()}
        #: Identities of the weights that the LoRA adds.
        self.added = {id(p) for layer in self.layers for p in layer.parameters() if id(p) not in base_weights}
        #: Weights that merging changes, by identity.
        self.reached = {
            id(base._parameters[name]): AdaptedWeight(layer, name)
            for layer, base in zip(self.layers, bases, strict=True)
            for name in _names(layer, base)
        }

    @property
    def is_on(self) -> bool:
        """Tell whether calls compute with the LoRA now, added on the fly."""
        return bool(active(self._switches))

    def capture(self) -> tuple[Any, ...]:
        """Record the adapters that are on, with their strengths, as those to merge; return a state to compare."""
        self._captured = {id(layer): _strengths(layer) for layer in self.layers}
        return tuple(map(self.state, self.layers))

    def state(self, layer: Any) -> tuple[Any, ...]:
        """Return the captured strengths and weight versions of a layer: equal states merge to equal weights."""
        versions = (weight._version for weight in self.added_by(layer) if not weight.is_inference())
        return (*self._captured[id(layer)].items(), *versions)

    def strengths(self, layer: Any) -> dict[str, float]:
        """Return the captured adapters of a layer, with their strengths."""
        return self._captured[id(layer)]

    def added_by(self, layer: Any) -> list[torch.nn.Parameter]:
        """Return the weights that the LoRA adds beside a layer."""
        return [weight for weight in layer.parameters() if id(weight) in self.added]

    def merged(self, key: int, weights: Callable[[torch.nn.Parameter], torch.Tensor]) -> torch.Tensor:
        """Return a weight with the captured adapters merged in, in new host memory.

        Args:
            key: The parameter's identity, one of `reached`.
            weights: Returns the base weights of a parameter; they are only read.

        Raises:
            ValueError: From PEFT, if the merged weight is not finite.
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
    """Merge adapters of a layer into a base layer that stands in for its own."""
    stand_in: Any = _stand_in(layer)
    stand_in._modules = layer._modules | {"base_layer": base}
    stand_in.merged_adapters, stand_in.scaling = [], strengths
    with torch.no_grad(), torch.inference_mode(False):
        # with safe_merge PEFT computes in a copy and puts that in the weight's place, so no tensor is written
        stand_in.merge(safe_merge=True, adapter_names=[*strengths])


def _stand_in(module: torch.nn.Module) -> torch.nn.Module:
    """Return a shallow copy of a module; `copy.copy` would fail on a managed one, which refuses to be copied."""
    other = type(module).__new__(type(module))
    vars(other).update(vars(module))
    return other


def _names(layer: Any, base: torch.nn.Module) -> list[str]:
    """Return the weights of a base layer that merging changes: all but a bias, unless the LoRA has one too."""
    changes_bias = any(getattr(layer, "lora_bias", {}).values())
    return [name for name, each in base._parameters.items() if each is not None and (name != "bias" or changes_bias)]
