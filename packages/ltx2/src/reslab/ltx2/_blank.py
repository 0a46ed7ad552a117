"""LTX-2 at full size without weights: every component as released, on meta, made in a second.

    checkpoint = blank("LTX-2.3")                       # 66.6 GiB of weights that take no memory
    rehearse(two_stage(checkpoint), width=1536, height=1024, num_frames=121, prompt="a heron over a weir")
    checkpoint.materialize(seed=0)                      # random values: 35.4 GiB of transformer in 1.5 GiB of memory

A materialised checkpoint really runs and is really copied to a device; equal blocks share one host storage, which is
what makes it fit. What it produces is noise, and is labelled so. The tokenizer has Gemma's form and a vocabulary of
bytes: prompts are padded to 1024 tokens, whatever they are cut into.

LTX-2.5 has no blank: its video decoder is a denoising model of its own, which `one_stage` and `two_stage` do not
compose, and its text encoder's configuration is not among the released ones shipped here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from reslab.ltx2._align import aligned_copy, aligned_empty, boundary
from reslab.ltx2._bases import fourier_basis, mel_basis
from reslab.ltx2._checkpoint import Checkpoint
from reslab.ltx2._classes import find_class
from reslab.ltx2._configs import COMPONENTS, class_name, config
from reslab.ltx2._small import lora_layers
from reslab.ltx2._stages import MAX_SEQUENCE_LENGTH
from reslab.ltx2._tokenizer import byte_tokenizer
from reslab.ltx2._variants import Variant, variant
from reslab.residency import parameters_to_meta, weightless

#: Rank of the released LoRA files (`…-distilled-lora-384.safetensors`).
LORA_RANK = 384
_MISSING = {
    "ltx-2.5": "LTX-2.5 cannot be rehearsed yet: its video decoder is a denoising model of its own "
    "(LTX2VideoDiffusionDecoderModel), which the one-stage and two-stage pipelines do not compose, and the sizes "
    "of its text encoder are not shipped. Its transformer has LTX-2.3's blocks, without the biases of the video's "
    "feed-forward layers: 'LTX-2.3 distilled' makes as many passes over them."
}


class Blank(Checkpoint):
    """A checkpoint whose weights are on meta: it can be rehearsed, and materialised with random values."""

    __slots__ = ()

    def materialize(self, *, seed: int = 0, device: torch.device | str = "cpu") -> Checkpoint:
        """Give every weight random values, so that the model can run at full size without a download.

        On the CPU equal blocks share one storage, so the host holds one block of each kind; on an accelerator every
        weight has memory of its own, as a loaded one has. Addresses divide by 64 bytes, on an accelerator by 256.

        Args:
            seed: Where the values start; equal seeds give equal weights.
            device: Where the weights lie.

        Returns:
            A checkpoint marked untrained: what it produces is noise.
        """
        generator = torch.Generator().manual_seed(seed)
        parts = {name: _materialized(part, generator, device) for name, part in self.components.items()}
        lora = self.distilled_lora
        if lora is not None:
            lora = _lora_values(lora, generator, device)
        fields = {name: getattr(self, name) for name in ("variant", "revision", "untrained")}
        return Checkpoint(**fields, components=parts, distilled_lora=lora, source="random values")

    def __repr__(self) -> str:
        return super().__repr__().replace("Checkpoint", "Blank", 1)


def blank(name: str, *, dtype: torch.dtype = torch.bfloat16) -> Blank:
    """Build a variant at its released size, its weights on meta.

    >>> checkpoint = blank("LTX-2.3 distilled")
    >>> checkpoint
    Blank('LTX-2.3 distilled' from 'released configurations', 66.60 GiB, untrained weights: noise by design)
    >>> sum(weight.numel() for weight in checkpoint.components["transformer"].parameters())
    18988838144

    Args:
        name: A variant's name.
        dtype: Of the weights that a checkpoint stores; tables that a module computes for itself stay as they are.

    Raises:
        ValueError: There is no such variant, or it cannot be rehearsed; it says why.
    """
    if name.casefold() in _MISSING:
        raise ValueError(_MISSING[name.casefold()])
    chosen = variant(name)
    parts = {component: _component(chosen, component, dtype) for component in COMPONENTS}
    lora = None if chosen.is_distilled else _blank_lora(parts["transformer"], dtype)
    return Blank(
        variant=chosen, components=parts, distilled_lora=lora, source="released configurations", untrained=True
    )


def _component(chosen: Variant, component: str, dtype: torch.dtype) -> Any:
    if component == "tokenizer":
        tokenizer = byte_tokenizer()
        tokenizer.model_max_length = MAX_SEQUENCE_LENGTH
        return tokenizer
    kind: Any = find_class(class_name(chosen.name, component))
    sizes = config(chosen.name, component)
    if component == "scheduler":
        return kind.from_config(sizes)
    with weightless():
        module = kind(transformers.Gemma3Config(**sizes)) if component == "text_encoder" else kind(**sizes)
    return _converted(parameters_to_meta(module.eval()), dtype)


def _converted(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Convert the floating-point weights and buffers that a checkpoint stores."""
    kept = module.state_dict()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in kept and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return module


def _blank_lora(transformer: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The distilled LoRA's tensors on meta, for the layers that it reaches."""
    state: dict[str, torch.Tensor] = {}
    for name, layer in lora_layers(transformer).items():
        for letter, shape in (("A", (LORA_RANK, layer.in_features)), ("B", (layer.out_features, LORA_RANK))):
            state[f"transformer.{name}.lora_{letter}.weight"] = torch.empty(shape, dtype=dtype, device="meta")
    return state


@torch.no_grad()
def _materialized(part: Any, generator: torch.Generator, device: torch.device | str) -> Any:
    """A copy of a component with random values; a tokenizer or a scheduler is copied as it is."""
    part = copy.deepcopy(part)
    if not isinstance(part, torch.nn.Module):
        return part
    values: dict[tuple[str, torch.Size], torch.Tensor] = {}
    made: dict[int, torch.nn.Parameter] = {}
    for path, owner in _with_shared_paths(part):
        for name, weight in owner._parameters.items():
            if weight is not None and id(weight) not in made:
                key = (f"{path}.{name}", weight.shape)
                if key not in values:
                    values[key] = _values(owner, name, weight, generator)
                made[id(weight)] = torch.nn.Parameter(_placed(values[key], device), requires_grad=weight.requires_grad)
            if weight is not None:
                owner._parameters[name] = made[id(weight)]
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = aligned_copy(_buffer_values(name, buffer), device=device, dtype=buffer.dtype)
    return part


def _with_shared_paths(part: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Every module with a path that members of a list have in common where their weights have the same shapes."""
    yield prefix, part
    kinds: dict[Any, int] = {}
    for place, (name, child) in enumerate(part.named_children()):
        if isinstance(part, torch.nn.ModuleList):
            shapes = tuple((path, weight.shape) for path, weight in child.named_parameters())
            name = f"like {kinds.setdefault((type(child), shapes), place)}"
        yield from _with_shared_paths(child, f"{prefix}.{name}")


def _values(owner: torch.nn.Module, name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a weight: matrices keep the variance of what passes through, biases lie around 0, scales around 1."""
    tensor = aligned_empty(like, device="cpu", boundary=boundary("cpu"))
    if like.ndim > 1:
        spread, centre = math.sqrt(3 / like[0].numel()), 0.0
    else:  # Gemma's norms add 1 to their weight
        spread, centre = 0.1, 0.0 if name == "bias" or "Gemma" in type(owner).__name__ else 1.0
    return tensor.uniform_(centre - spread, centre + spread, generator=generator)


def _placed(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """On the CPU the same memory, elsewhere a copy of its own."""
    return values if torch.device(device).type == "cpu" else aligned_copy(values, device=device)


def _buffer_values(name: str, buffer: torch.Tensor) -> torch.Tensor:
    """The numbers of a buffer: what the module computed, else the tables that a release stores."""
    if name.endswith(("forward_basis", "inverse_basis")):
        return fourier_basis(buffer.shape[-1])
    if name.endswith("mel_basis"):
        return mel_basis(*buffer.shape)
    return buffer


def _lora_values(lora: Any, generator: torch.Generator, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Random values of a LoRA, equal layers of all blocks sharing one storage."""
    values: dict[str, torch.Tensor] = {}
    state = {}
    for key, like in lora.items():
        shared = ".".join("*" if part.isdigit() else part for part in key.split("."))
        if shared not in values:
            tensor = aligned_empty(like, device="cpu", boundary=boundary("cpu"))
            spread = (0.1 if ".lora_B." in key else 1.0) * math.sqrt(3 / like.shape[1])
            values[shared] = tensor.uniform_(-spread, spread, generator=generator)
        state[key] = _placed(values[shared], device)
    return state
