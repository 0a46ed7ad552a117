"""The distilled LoRA, added to the transformer on the fly for refining.

A LoRA is a pair of thin matrices for each layer that it reaches: A (rank, in) and B (out, rank), whose product times a
strength is added to the layer's output. Base weights are never written: diffusers' PEFT integration computes base and
update side by side, and at strength 0 the base layer alone, bit for bit.

    add_lora(transformer, checkpoint.distilled_lora)
    set_strength(transformer, 1.0)      # for refining
    set_strength(transformer, 0.0)      # the base model again

A key that fits no layer is an error before anything is changed; otherwise a LoRA of another model would have no effect
and no error. `_lora_file` reads a LoRA from a file, with the scale that the file says.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from reslab.ltx2._checkpoint._lora_file import LoraFile, open_lora

ADAPTER = "distilled"
_PREFIX = "transformer."
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")

# The state dictionary of each transformer's adapters, so that composing a second pipeline adds nothing twice.
_added: WeakKeyDictionary[torch.nn.Module, dict[str, Mapping[str, torch.Tensor]]] = WeakKeyDictionary()


def read_lora(
    path: str | os.PathLike[str], transformer: Any, *, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Read a LoRA's file, or the one in a folder, with diffusers' keys: `transformer.<layer>.lora_A.weight`.

    `lora_B` includes the scale that the file says. Updates of the connectors are left out: as in the reference, the
    prompt is encoded once, before the LoRA is switched on.

    Raises:
        ValueError: The file holds updates that cannot be applied; the message names file and updates.
    """
    return fitting_lora(Path(path), transformer).read(dtype=dtype)


def fitting_lora(path: Path, transformer: Any) -> LoraFile:
    """Open a LoRA's file and check, by its header alone, that a transformer can take all of it."""
    found = open_lora(path, transformer)
    try:
        check_lora(transformer, found.shapes)
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from None
    return found


def check_lora(transformer: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Check that every pair of a LoRA fits a layer of the transformer, by name and by shape.

    Raises:
        ValueError: Tensors do not fit; the message names the first three and an example of the transformer's layers.
    """
    layers = {
        name.replace(".base_layer", ""): layer
        for name, layer in transformer.named_modules()
        if isinstance(layer, torch.nn.Linear) and ".lora_" not in name
    }
    problems = [problem for key, tensor in state.items() if (problem := _misfit(key, tensor, state, layers))]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        example = next(iter(layers))
        raise ValueError(
            f"This LoRA does not fit the transformer: {len(problems)} of its {len(state)} tensors belong to no layer "
            f"({shown}). The transformer has {len(layers)} linear layers such as {example!r} "
            f"{tuple(layers[example].weight.shape)}; use the LoRA that was made for this variant."
        )
    if not state:
        raise ValueError("This LoRA is empty: it has no tensor for any layer of the transformer.")


def _misfit(
    key: str, tensor: torch.Tensor, state: Mapping[str, torch.Tensor], layers: Mapping[str, torch.nn.Linear]
) -> str | None:
    """Return the reason why one tensor fits no layer; None where it fits."""
    suffix = next((suffix for suffix in _SUFFIXES if key.endswith(suffix)), None)
    if not key.startswith(_PREFIX) or suffix is None:
        return f"{key!r} is not '{_PREFIX}<layer>{_SUFFIXES[0]}' or '{_SUFFIXES[1]}'"
    name = key.removeprefix(_PREFIX).removesuffix(suffix)
    if name not in layers:
        return f"there is no layer {name!r}"
    down, up = (state.get(f"{_PREFIX}{name}{suffix}") for suffix in _SUFFIXES)
    if down is None or up is None:
        return f"{name!r} has {suffix[1:]} but not its partner"
    out_features, in_features = layers[name].weight.shape
    rank = down.shape[0]
    wanted = (rank, in_features) if suffix == _SUFFIXES[0] else (out_features, rank)
    return None if tuple(tensor.shape) == wanted else f"{name!r} needs {wanted}, got {tuple(tensor.shape)}"


def add_lora(transformer: Any, state: Mapping[str, torch.Tensor], *, name: str = ADAPTER) -> None:
    """Add a LoRA to the transformer, switched off; adding the same one again changes nothing.

    The adapter shares the tensors of `state` where device and dtype agree with the transformer's.

    Raises:
        ValueError: Keys fit no layer, or another LoRA has this name.
    """
    added = _added.setdefault(transformer, {})
    if added.get(name) is state:
        return
    if name in getattr(transformer, "peft_config", {}):
        raise ValueError(f"The transformer has another LoRA named {name!r}; unload it first, or choose another name.")
    check_lora(transformer, state)
    weight, others = next(transformer.parameters()), _active(transformer)
    device = None if weight.is_meta else weight.device  # weights that a plan left in their files are on no device yet
    placed = {key: tensor.to(device=device, dtype=weight.dtype) for key, tensor in state.items()}
    with warnings.catch_warnings():
        # peft 0.21 warns of every second adapter; several are meant here
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute", category=UserWarning)
        transformer.load_lora_adapter(placed, prefix="transformer", adapter_name=name, low_cpu_mem_usage=True)
    added[name] = state
    _activate(transformer, others)


def set_strength(transformer: Any, strength: float, *, name: str = ADAPTER) -> None:
    """Set the strength of a LoRA; 0 computes the base layers alone. Other adapters stay as they are.

    Raises:
        ValueError: The transformer has no LoRA of this name to switch on.
    """
    if name not in getattr(transformer, "peft_config", {}):
        if strength == 0:
            return
        raise ValueError(f"The transformer has no LoRA named {name!r}; add it with add_lora first.")
    for layer in _adapted(transformer):
        layer.set_scale(name, strength)
    others = [other for other in _active(transformer) if other != name]
    _activate(transformer, others if strength == 0 else [*others, name])


def _adapted(transformer: torch.nn.Module) -> Iterator[BaseTunerLayer]:
    return (layer for layer in transformer.modules() if isinstance(layer, BaseTunerLayer))


def _active(transformer: torch.nn.Module) -> list[str]:
    """Return the names of the active adapters."""
    layer = next(_adapted(transformer), None)
    return [] if layer is None or layer.disable_adapters else list(layer.active_adapters)


def _activate(transformer: Any, names: list[str]) -> None:
    """Activate these adapters and no others; without names, the base layers compute alone."""
    if names:
        if next(_adapted(transformer)).active_adapters != names:
            transformer.set_adapter(names)
        transformer.enable_lora()
    else:
        transformer.disable_lora()
