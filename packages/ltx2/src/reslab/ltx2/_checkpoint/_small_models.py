"""Small LTX-2 models with the true geometry, built in memory: tiny ones at once, mid-size ones in a second or two.

    checkpoint = small("LTX-2.3")                              # or small("LTX-2.3", "mid"), of half a gigabyte
    checkpoint.components["transformer"].config.num_layers     # 4
    byte_tokenizer()("weir").input_ids                         # four bytes

Weights are drawn from a seed, parameter by parameter in a fixed order, so that every machine has the same ones. They
are never trained, so a video is noise by design, but noise that varies in space, time and pitch. Both VAEs have latent
statistics other than 0 and 1 and a scaling factor other than 1: with the constructors' values a forgotten normalisation
would have no effect. `_small_configs` has the widths and depths.

The tokenizer is Gemma's class with 261 entries. Gemma's tokenizer falls back to bytes where its vocabulary has no
entry, so five special tokens and the 256 bytes encode every text without a file or a download.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GemmaTokenizer

from reslab.ltx2._checkpoint._align import align
from reslab.ltx2._checkpoint._checkpoint import Checkpoint
from reslab.ltx2._checkpoint._configs import COMPONENTS, class_name
from reslab.ltx2._checkpoint._file_headers import read_json
from reslab.ltx2._checkpoint._model_classes import find_class
from reslab.ltx2._checkpoint._random_values import fourier_basis, mel_basis
from reslab.ltx2._checkpoint._small_configs import small_config
from reslab.ltx2._variants import Variant, variant

SCALING_FACTOR = 1.25  # of the video VAE; exact in every float format
_LORA_RANK = 4
# The gain of the vocoders' residual branches: at 1 the snake activations grow the waveform far beyond ±1, and it clips.
_RESIDUAL_GAIN = 0.1


def small(
    name: str,
    size: str = "tiny",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Checkpoint:
    """Build a small checkpoint of a variant; equal seeds give equal weights.

    >>> small("LTX-2.3 distilled")
    Checkpoint('LTX-2.3 distilled' from 'tiny', 5.57 MiB, untrained weights: noise by design)

    Args:
        name: A variant's name.
        size: A key of `SIZES`.
        seed: The seed of the values.
        dtype: The type of the weights.
        device: The device for the weights; by default the CPU.
    """
    chosen = variant(name)
    chosen.require_weights()
    parts = {component: _component(chosen, component, size, seed) for component in COMPONENTS}
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            align(part.eval(), dtype=dtype, device=device)
    lora = None if chosen.is_distilled else small_lora(parts["transformer"], seed=seed)
    return Checkpoint(variant=chosen, components=parts, distilled_lora=lora, source=size, untrained=True)


def _component(chosen: Variant, component: str, size: str, seed: int) -> Any:
    if component == "tokenizer":
        return byte_tokenizer()
    kind: Any = find_class(class_name(chosen.name, component))
    sizes = small_config(chosen.name, component, size)
    if component == "scheduler":
        return kind.from_config(sizes)
    if component == "text_encoder":
        module = kind(transformers.Gemma3Config(**sizes))
    else:
        module = kind(**sizes, **({"scaling_factor": SCALING_FACTOR} if component == "vae" else {}))
    _fill(module, np.random.default_rng([seed, COMPONENTS.index(component)]))
    if component == "vocoder":
        _tame(module)
    elif component == "vae":
        _colour_patches(module)
    return module


@torch.no_grad()
def _fill(module: torch.nn.Module, generator: np.random.Generator) -> None:
    """Draw every parameter, and the statistics that a checkpoint stores as buffers."""
    for name, parameter in module.named_parameters():
        noise = _normal(generator, parameter.shape)
        if parameter.ndim > 1:  # keeps the variance of the layer's input
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))
        else:  # biases around 0; scales around their initial constant
            start = torch.zeros_like(parameter) if name.endswith("bias") else parameter
            parameter.copy_(start + 0.1 * noise)
    for name, buffer in module.named_buffers():
        if name == "latents_mean":
            buffer.copy_(0.5 * _normal(generator, buffer.shape))
        elif name == "latents_std":
            buffer.copy_(torch.from_numpy(generator.uniform(0.6, 1.4, buffer.shape)))
        elif name.endswith(("forward_basis", "inverse_basis")):
            buffer.copy_(fourier_basis(buffer.shape[-1]))
        elif name.endswith("mel_basis"):
            buffer.copy_(mel_basis(*buffer.shape))


@torch.no_grad()
def _tame(vocoder: torch.nn.Module) -> None:
    """Scale an untrained vocoder so that its waveform stays within ±1 and has no constant offset."""
    for name, weight in vocoder.named_parameters():
        if "resnets" in name and weight.ndim > 1:
            weight.mul_(_RESIDUAL_GAIN)
        elif name.endswith("conv_out.weight"):
            weight.sub_(weight.mean(dim=-1, keepdim=True))
            weight.mul_(2.0 if name == "conv_out.weight" else 0.4)  # with bandwidth extension two waveforms are added
        elif name.endswith("conv_out.bias"):
            weight.zero_()


@torch.no_grad()
def _colour_patches(vae: Any) -> None:
    """Give the pixels of a patch one colour, so that noise is a mosaic rather than grain and makes a small file."""
    weight = vae.decoder.conv_out.conv.weight
    pixels = vae.config.patch_size**2
    by_colour = weight.view(-1, pixels, *weight.shape[1:])
    by_colour.copy_(by_colour[:, :1].clone())
    vae.decoder.conv_out.conv.bias.zero_()


def _normal(generator: np.random.Generator, shape: torch.Size) -> torch.Tensor:
    """Draw normal values from NumPy, whose stream is the same on every processor; torch's depends on vector width."""
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def lora_layers(transformer: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Return the layers that the distilled LoRA reaches: every linear layer but the in- and output projections."""
    outer = ("proj_in", "audio_proj_in", "proj_out", "audio_proj_out")
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, torch.nn.Linear)}
    return {name: layer for name, layer in layers.items() if name not in outer}


def small_lora(transformer: torch.nn.Module, *, seed: int = 0, rank: int = _LORA_RANK) -> dict[str, torch.Tensor]:
    """Draw a low-rank adapter for the layers of `lora_layers`, whose update is about a tenth of each weight.

    Keys are diffusers': `transformer.<layer>.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank).
    """
    generator = np.random.default_rng([seed, len(COMPONENTS)])
    state: dict[str, torch.Tensor] = {}
    for name, layer in lora_layers(transformer).items():
        down = _normal(generator, torch.Size((rank, layer.in_features))) / math.sqrt(layer.in_features)
        up = _normal(generator, torch.Size((layer.out_features, rank))) / math.sqrt(rank)
        state[f"transformer.{name}.lora_A.weight"] = down
        state[f"transformer.{name}.lora_B.weight"] = 0.1 * up
    return state


MAX_LENGTH = 256  # two rounds of the 128 registers; a byte is a token, three a space
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # ids 0 to 4, as in Gemma
_VOCABULARIES = ("tokenizer.json", "tokenizer.model")
# Rows of a text encoder without a token: tables are padded to multiples; Gemma 3 has 262,145 tokens, 262,208 rows.
_MOST_PADDING = 128


def byte_tokenizer() -> GemmaTokenizer:
    """Build a `GemmaTokenizer` with 5 special tokens and 256 byte tokens.

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("weir").input_ids, tokenizer.decode([124, 106, 110, 119])
    ([124, 106, 110, 119], 'weir')
    """
    tokens = (*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], padding_side="left", model_max_length=MAX_LENGTH)


def require_vocabulary(names: Iterable[str]) -> None:
    """Check that a tokenizer's folder has a vocabulary; without one every prompt would be the same few tokens.

    >>> require_vocabulary(["tokenizer_config.json", "tokenizer.json"])

    Raises:
        ValueError: No file of a vocabulary is among the names.
    """
    if set(_VOCABULARIES).isdisjoint(names):
        raise ValueError(f"tokenizer has neither {' nor '.join(_VOCABULARIES)}; download the checkpoint again.")


def check_tokenizer_files(folder: Path) -> None:
    """Check that a tokenizer's folder has a vocabulary and valid JSON files; a ValueError names the problem."""
    require_vocabulary(path.name for path in folder.iterdir())
    for file in sorted(folder.glob("*.json")):
        read_json(file, f"{folder.name}/{file.name}")


def read_tokenizer(folder: Path) -> GemmaTokenizer:
    """Read a tokenizer from its folder; a ValueError names a damaged file."""
    try:
        return GemmaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself
        found = next(name for name in _VOCABULARIES if (folder / name).is_file())
        raise ValueError(f"{folder.name}/{found} is damaged ({error}); download it again.") from None


def check_vocabulary(tokenizer: GemmaTokenizer, rows: int) -> None:
    """Check that a tokenizer's ids are rows of the text encoder's table, and fill it except for padding.

    >>> check_vocabulary(byte_tokenizer(), 264)

    Raises:
        ValueError: The numbers of tokens and rows do not fit.
    """
    if not rows - _MOST_PADDING < len(tokenizer) <= rows:
        raise ValueError(
            f"tokenizer has {len(tokenizer):,} tokens, which do not fit the text encoder's table of {rows:,} rows; "
            "use the tokenizer that was published with the text encoder."
        )
