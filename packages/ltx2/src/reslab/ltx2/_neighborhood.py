"""Neighbourhood attention that is counted, not computed: what LTX-2.5's video decoder needs to be rehearsed.

Each query attends to a window of the video around it. diffusers has two ways: FlexAttention, whose mask it puts at
167 GiB for one stage at full size, and NATTEN's `na3d`, a kernel that needs a GPU. A rehearsal runs diffusers' own
processor for `na3d` with an operation of the same geometry in the kernel's place, and counts what the kernel does:
every window is whole (it is shifted inward at a border), so a query meets `math.prod(kernel_size)` keys.

    decoder.set_attn_processor(CountedProcessor())      # decoder: an LTX2VideoDiffusionDecoderModel on meta
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.ltx2_diffusion_decoder import LTX2VideoVaeNeighborhoodNattenProcessor
from torch.utils.flop_counter import register_flop_formula

#: Query, key and value are (batch, frames, rows, columns, heads, head width); beside its result of that shape a kernel
#: writes a float32 logarithm a query and head, as attention kernels do.
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
    """Count the FLOPs of neighbourhood attention: queries by the keys of one window, and those by the values.

    >>> neighborhood_flops((1, 3, 8, 8, 2, 64), None, None, (3, 7, 7)) == 4 * (3 * 8 * 8) * (3 * 7 * 7) * (2 * 64)
    True
    """
    return 4 * math.prod(query_shape) * math.prod(kernel_size)


class CountedProcessor(LTX2VideoVaeNeighborhoodNattenProcessor):
    """diffusers' processor for NATTEN, its kernel exchanged for an operation that has only a geometry."""

    def __init__(self) -> None:
        self.backend = None  # without the base class's own, which downloads the kernel

    @staticmethod
    def _na3d(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, kernel_size: Sequence[int], **_: Any
    ) -> torch.Tensor:
        return torch.ops.reslab.neighborhood_attention(query, key, value, list(kernel_size))[0]
