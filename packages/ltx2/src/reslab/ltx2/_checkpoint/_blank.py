"""LTX-2 at full size without weights: every component as released, on the meta device, made in a second.

    checkpoint = blank("LTX-2.3")                       # 66.6 GiB of weights that take no memory
    rehearse(two_stage(checkpoint), width=1536, height=1024, num_frames=121, prompt="a heron over a weir")
    checkpoint.materialize(seed=0)                      # random values: 35.4 GiB of transformer in 1.5 GiB of memory

A materialised checkpoint really runs, and its weights are really copied to a device; it fits in host memory because
equal blocks share one storage. Its videos are noise, and are labelled so. The tokenizer has Gemma's class and a
vocabulary of bytes, which does not change a run: prompts are padded to 1024 tokens.

LTX-2.5 can only be rehearsed; `Blank.notes` names its missing and assumed parts. Its video decoder uses neighbourhood
attention, in which each query attends to a window of the video around it. diffusers has two ways to compute that:
FlexAttention, whose mask it puts at 167 GiB for one stage at full size, and NATTEN's kernel `na3d`, which needs a GPU.
A rehearsal runs diffusers' own processor for `na3d` with an operation of the same shapes in place of the kernel, and
counts the kernel's work. Every window is whole, since it is shifted inward at a border, so a query meets
`math.prod(kernel_size)` keys.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.ltx2_diffusion_decoder import LTX2VideoVaeNeighborhoodNattenProcessor
from torch.utils.flop_counter import register_flop_formula

from reslab.ltx2._checkpoint._checkpoint import Checkpoint
from reslab.ltx2._checkpoint._configs import class_name, components, config
from reslab.ltx2._checkpoint._model_classes import find_class
from reslab.ltx2._checkpoint._random_values import lora_values, materialized
from reslab.ltx2._checkpoint._small_models import byte_tokenizer, lora_layers
from reslab.ltx2._variants import MAX_SEQUENCE_LENGTH, Variant, variant
from reslab.residency import parameters_to_meta, weightless

#: The rank of the released LoRA files (`…-distilled-lora-384.safetensors`).
LORA_RANK = 384


class Blank(Checkpoint):
    """Hold a checkpoint whose weights are on meta, to be rehearsed or materialised with random values."""

    __slots__ = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return sentences that name the missing and assumed parts; none for a variant that can be loaded.

        >>> blank("LTX-2.5").notes[1]
        "the video decoder's neighbourhood attention is counted as NATTEN computes it, and cannot be run here"
        """
        return self.variant.only_rehearsed

    def materialize(self, *, seed: int = 0, device: torch.device | str = "cpu") -> Checkpoint:
        """Give every weight random values, so that the model can run at full size without a download.

        On the CPU equal blocks share one storage, so host memory holds one block of each kind; on an accelerator every
        weight has memory of its own, like a loaded one. Addresses are multiples of 64 bytes, on an accelerator of 256.

        Args:
            seed: The seed of the values; equal seeds give equal weights.
            device: The device for the weights.

        Returns:
            A checkpoint marked untrained, since its videos are noise.

        Raises:
            ValueError: The variant can only be rehearsed.
        """
        self.variant.require_weights()
        generator = torch.Generator().manual_seed(seed)
        parts = {name: materialized(part, generator, device) for name, part in self.components.items()}
        lora = self.distilled_lora
        if lora is not None:
            lora = lora_values(lora, generator, device)
        fields = {name: getattr(self, name) for name in ("variant", "revision", "untrained")}
        return Checkpoint(**fields, components=parts, distilled_lora=lora, source="random values")

    def __repr__(self) -> str:
        note = f", {len(self.notes)} notes" if self.notes else ""
        return super().__repr__().replace("Checkpoint", "Blank", 1).removesuffix(")") + f"{note})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return super()._repr_html_() + (f"<p>Missing or assumed:</p><ul>{notes}</ul>" if notes else "")


def blank(name: str, *, dtype: torch.dtype = torch.bfloat16) -> Blank:
    """Build a variant at its released size, its weights on meta.

    >>> checkpoint = blank("LTX-2.3 distilled")
    >>> checkpoint
    Blank('LTX-2.3 distilled' from 'released configurations', 66.60 GiB, untrained weights: noise by design)
    >>> sum(weight.numel() for weight in checkpoint.components["transformer"].parameters())
    18988838144

    Args:
        name: A variant's name.
        dtype: The type of the weights that a checkpoint stores; tables that a module computes itself keep theirs.

    Returns:
        The checkpoint on the meta device.

    Raises:
        ValueError: No variant has this name.
    """
    chosen = variant(name)
    parts = {component: _component(chosen, component, dtype) for component in components(name)}
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
        module = kind(kind.config_class(**sizes)) if component == "text_encoder" else kind(**sizes)
    if component == "diffusion_decoder":
        module.set_attn_processor(CountedProcessor())
    return converted(parameters_to_meta(module.eval()), dtype)


def converted(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Convert a module's floating-point weights and buffers that a checkpoint stores, and return the module."""
    kept = module.state_dict()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in kept and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return module


def _blank_lora(transformer: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the distilled LoRA's tensors on meta, for the layers that it reaches."""
    state: dict[str, torch.Tensor] = {}
    for name, layer in lora_layers(transformer).items():
        for letter, shape in (("A", (LORA_RANK, layer.in_features)), ("B", (layer.out_features, LORA_RANK))):
            state[f"transformer.{name}.lora_{letter}.weight"] = torch.empty(shape, dtype=dtype, device="meta")
    return state


#: Query, key and value are (batch, frames, rows, columns, heads, head width). Beside its result of that shape a
#: kernel writes a float32 logarithm for each query and head.
torch.library.define(
    "reslab::neighborhood_attention", "(Tensor query, Tensor key, Tensor value, int[] kernel_size) -> (Tensor, Tensor)"
)


@torch.library.impl("reslab::neighborhood_attention", "Meta")
def _geometry(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel_size: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(value), torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)


@register_flop_formula(torch.ops.reslab.neighborhood_attention)
def neighborhood_flops(
    query_shape: Sequence[int], key_shape: Any, value_shape: Any, kernel_size: Sequence[int], *_: Any, **__: Any
) -> int:
    """Count the FLOPs of neighbourhood attention: queries times the keys of one window, and scores times its values.

    >>> neighborhood_flops((1, 3, 8, 8, 2, 64), None, None, (3, 7, 7)) == 4 * (3 * 8 * 8) * (3 * 7 * 7) * (2 * 64)
    True
    """
    return 4 * math.prod(query_shape) * math.prod(kernel_size)


class CountedProcessor(LTX2VideoVaeNeighborhoodNattenProcessor):
    """Run diffusers' processor for NATTEN with an operation of the kernel's shapes in place of the kernel."""

    def __init__(self) -> None:
        self.backend = None  # the base class's constructor would download the kernel

    @staticmethod
    def _na3d(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, kernel_size: Sequence[int], **_: Any
    ) -> torch.Tensor:
        return torch.ops.reslab.neighborhood_attention(query, key, value, list(kernel_size))[0]
