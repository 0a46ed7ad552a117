"""Random values for models without weights.

    materialized(transformer, torch.Generator().manual_seed(0), "cpu")      # a copy; the transformer stays on meta

On the CPU equal blocks share one storage, so that 35 GiB of weights take 1.5 GiB of host memory. On an accelerator
every weight has memory of its own, like a loaded one.

A released vocoder stores two tables as buffers that no constructor computes: a windowed Fourier transform and a bank of
mel filters, through which its bandwidth extension reads a spectrogram. `fourier_basis` and `mel_basis` compute them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from reslab.ltx2._checkpoint._align import aligned_copy, aligned_empty, boundary


@torch.no_grad()
def materialized(part: Any, generator: torch.Generator, device: torch.device | str) -> Any:
    """Return a copy of a component with random values; a tokenizer or a scheduler is copied as it is."""
    part = copy.deepcopy(part)
    if not isinstance(part, torch.nn.Module):
        return part
    values: dict[tuple[str, torch.Size], torch.Tensor] = {}
    made: dict[int, torch.nn.Parameter] = {}
    for path, owner in with_shared_paths(part):
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


def with_shared_paths(part: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every module with its path; members of a list whose weights have equal shapes share one path."""
    yield prefix, part
    kinds: dict[Any, int] = {}
    for place, (name, child) in enumerate(part.named_children()):
        if isinstance(part, torch.nn.ModuleList):
            shapes = tuple((path, weight.shape) for path, weight in child.named_parameters())
            name = f"like {kinds.setdefault((type(child), shapes), place)}"
        yield from with_shared_paths(child, f"{prefix}.{name}")


def _values(owner: torch.nn.Module, name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a weight: matrices keep the variance of their input, biases lie around 0, scales around 1."""
    tensor = aligned_empty(like, device="cpu", boundary=boundary("cpu"))
    if like.ndim > 1:
        spread, centre = math.sqrt(3 / like[0].numel()), 0.0
    else:  # Gemma's norms add 1 to their weight
        spread, centre = 0.1, 0.0 if name == "bias" or "Gemma" in type(owner).__name__ else 1.0
    return tensor.uniform_(centre - spread, centre + spread, generator=generator)


def _placed(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return the values themselves on the CPU, where blocks share them, and a copy on any other device."""
    return values if torch.device(device).type == "cpu" else aligned_copy(values, device=device)


def _buffer_values(name: str, buffer: torch.Tensor) -> torch.Tensor:
    """Return the values of a buffer: a released table where no constructor computes it, else the module's own."""
    if name.endswith(("forward_basis", "inverse_basis")):
        return fourier_basis(buffer.shape[-1])
    if name.endswith("mel_basis"):
        return mel_basis(*buffer.shape)
    return buffer


def lora_values(lora: Any, generator: torch.Generator, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Return random values of a LoRA; on the CPU equal layers of all blocks share one storage."""
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


def fourier_basis(window: int) -> torch.Tensor:
    """Return the real and imaginary rows of a windowed Fourier transform, (window + 2, 1, window).

    Args:
        window: Samples in a window of the transform.
    """
    rows = np.fft.rfft(np.eye(window), axis=0) * np.hanning(window + 1)[:-1]
    return torch.from_numpy(np.concatenate([rows.real, rows.imag])[:, None]).float()


def mel_basis(bins: int, frequencies: int) -> torch.Tensor:
    """Return triangular filters from 0 to 8 kHz at 16 kHz, (bins, frequencies)."""
    bank = mel_filter_bank(
        num_frequency_bins=frequencies,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=16000,
    )
    return torch.from_numpy(bank.T).float()
