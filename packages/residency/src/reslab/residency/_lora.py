"""LoRAs that are added on the fly, seen by what PEFT's layers look like.

A call with an active LoRA is traced twice: as it is run, and with the adapters off, which is what it costs once they
are merged into the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
