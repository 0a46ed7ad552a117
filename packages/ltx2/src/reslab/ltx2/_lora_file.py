"""A LoRA's file: which layers it updates, how strongly, and what in it cannot be applied. Only its header is read.

A LoRA is applied as its file says, or refused. Every key is used or named in an error, and the strength that the file
was trained with, alpha / rank, comes from one of three places: `.alpha` keys beside the weights, the adapter's options
that diffusers keeps in the file's metadata, or PEFT's `adapter_config.json` beside the file. It is folded into
`lora_B` once, when the file is read, so that everything after that, adding on the fly, merging and writing, has a LoRA
of scale 1.

    found = open_lora(Path("lora.safetensors"), transformer)      # a ValueError says why it cannot be applied
    state = found.read(dtype=torch.bfloat16)                      # transformer.<layer>.lora_A.weight and .lora_B.weight

Names are diffusers' ("transformer."), the original repository's ("diffusion_model."), PEFT's ("base_model.model."),
bare ones, or kohya's ("lora_unet_", dots as underscores); a name counts if it means one layer. Read on in
`_lora_options`: how alpha and rank are found.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.loaders import LTX2LoraLoaderMixin
from safetensors import safe_open

from reslab.ltx2._align import aligned_copy
from reslab.ltx2._files import FLOATS, Header, read_header
from reslab.ltx2._lora_options import Scales, adapter_options, check_flat_alpha, scale_of, scale_of_alpha

_log = logging.getLogger(__name__)

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_KOHYA = ("lora_unet_", "lora_transformer_")
_CONNECTORS = ("video_embeddings_connector", "audio_embeddings_connector", "text_embedding_projection", "connectors")
_KEY = re.compile(
    r"(?P<name>.+?)\.(?:"
    r"(?P<lora_A>lora_A\.weight|lora_A\.default\.weight|lora_down\.weight|lora\.down\.weight)|"
    r"(?P<lora_B>lora_B\.weight|lora_B\.default\.weight|lora_up\.weight|lora\.up\.weight)|"
    r"(?P<alpha>alpha))"
)
# What a key's ending, or its beginning, tells of an update that is no pair of thin matrices of the transformer.
_OTHER = (
    (re.compile(r"\.dora_scale$|\.lora_magnitude_vector"), "DoRA"),
    (re.compile(r"\.hada_w"), "LoHa"),
    (re.compile(r"\.lokr_w"), "LoKr"),
    (re.compile(r"\.oft_"), "OFT"),
    (re.compile(r"\.diff_b$|\.lora_B(\.\w+)?\.bias$"), "updates of a bias"),
    (re.compile(r"\.diff$"), "updates of a full weight"),
    (re.compile(r"^lora_te|^text_encoder"), "updates of the text encoder"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """Hold what a LoRA's file updates, by diffusers' names of layers: the keys of both matrices, and the factor."""

    path: Path
    keys: Mapping[str, Mapping[str, str]]
    scales: Mapping[str, float]
    shapes: Mapping[str, torch.Tensor]  # a state dictionary on the meta device

    def read(self, *, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Read the weights into aligned memory, the scale folded into `lora_B` before rounding to `dtype`."""
        state = {}
        with safe_open(self.path, framework="pt") as tensors:
            for layer, own in self.keys.items():
                down, up = (tensors.get_tensor(own[part]) for part in ("lora_A", "lora_B"))
                state[f"transformer.{layer}.lora_A.weight"] = aligned_copy(down, dtype=dtype)
                scaled = _scaled(up, self.scales[layer])
                state[f"transformer.{layer}.lora_B.weight"] = aligned_copy(scaled, dtype=dtype or up.dtype)
        return state


def _scaled(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1:
        return tensor
    return tensor.to(torch.float64 if tensor.dtype is torch.float64 else torch.float32) * scale


class _Keys(NamedTuple):
    """Sort a file's keys: by layer and part, those of the connectors, and those that are neither."""

    layers: dict[str, dict[str, str]]
    connectors: list[str]
    unused: list[str]


def open_lora(given: Path, transformer: torch.nn.Module) -> LoraFile:
    """Read the header of a LoRA's file, and find the layer of each key and its scale.

    Args:
        given: A safetensors file, or the folder of one.
        transformer: What it is for, to read the names by; its weights are not needed.

    Raises:
        ValueError: It names the file, and what in it is damaged, unknown or contradictory.
    """
    path = find_lora(given)
    header = read_header(path, str(path))
    try:
        keys = _sorted_keys(header, transformer)
        _check_keys(header, keys)
        scales = _scales(path, header, keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if keys.connectors:
        _log.warning("%s: left out %s", path.name, _left_out(keys.connectors))
    return LoraFile(path=path, keys=keys.layers, scales=scales, shapes=_shapes(header, keys))


def find_lora(given: Path) -> Path:
    """Return the safetensors file that was given, or the one in the folder that was; a ValueError names the choices."""
    if not given.is_dir():
        return given
    files = sorted(path.name for path in given.glob("*.safetensors"))
    if len(files) == 1:
        return given / files[0]
    if files:
        raise ValueError(f"lora: {str(given)!r} holds {', '.join(files)}; give the path of one of them.")
    pickled = sorted(path.name for path in given.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    why = f"; {pickled[0]} is pickled, which can run code: convert it" if pickled else ""
    raise ValueError(f"lora: {str(given)!r} holds no safetensors file{why}.")


def _sorted_keys(header: Header, transformer: torch.nn.Module) -> _Keys:
    """Sort the keys of a file; a ValueError names two that mean the same."""
    flat = _flat_names(transformer)
    found = _Keys({}, [], [])
    for key in header.tensors:
        match = _KEY.fullmatch(key)
        name = _without_prefix(match["name"]) if match else ""
        if match is None or any(kind.search(key) for kind, _ in _OTHER):
            found.unused.append(key)
        elif name.startswith(_CONNECTORS):
            found.connectors.append(key)
        else:
            own = found.layers.setdefault(_layer(name, flat), {})
            _put(own, str(match.lastgroup), key)
    return found


def _put(own: dict[str, str], part: str, key: str) -> None:
    if part in own:
        raise ValueError(f"{own[part]!r} and {key!r} mean the same layer; keep one of them.")
    own[part] = key


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for prefix in _KOHYA:
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(_CONNECTORS):
            return name.removeprefix(prefix)
    return name


def _flat_names(transformer: torch.nn.Module) -> dict[str, str]:
    """Return the linear layers by their names with underscores for dots, as kohya's scripts write them, if unique."""
    flat: dict[str, list[str]] = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".lora_" not in name:
            plain = name.replace(".base_layer", "")
            flat.setdefault(plain.replace(".", "_"), []).append(plain)
    return {name: layers[0] for name, layers in flat.items() if len(layers) == 1}


def _layer(name: str, flat: Mapping[str, str]) -> str:
    """Return diffusers' name of a layer; one of kohya's that means no layer stays as it is."""
    for prefix in _KOHYA:
        if name.startswith(prefix):
            plain = _renamed(name.removeprefix(prefix))
            return flat.get(plain.replace(".", "_"), name)
    return _renamed(name)


def _renamed(name: str) -> str:
    """Rename a layer of the original repository as diffusers does; diffusers' own names stay as they are."""
    key = f"diffusion_model.{name}.lora_A.weight"
    renamed = next(iter(LTX2LoraLoaderMixin.lora_state_dict({key: torch.empty(0)})))
    return str(renamed).removeprefix("transformer.").removesuffix(".lora_A.weight")


def _check_keys(header: Header, keys: _Keys) -> None:
    """Check that every key is used; a ValueError names those that are not, by their kind."""
    if not header.tensors:
        raise ValueError("it holds no tensor, so it is no LoRA.")
    if not keys.layers and not keys.connectors and not any("lora" in key or _kind(key) for key in keys.unused):
        raise ValueError(f"it is no LoRA: its {len(keys.unused)} tensors are {_some(keys.unused)}.")
    unused = keys.unused + [own["alpha"] for own in keys.layers.values() if own.keys() == {"alpha"}]
    if unused:
        kinds = ", ".join(sorted({kind for key in unused if (kind := _kind(key))}))
        what = f" ({kinds})" if kinds else ""
        raise ValueError(
            f"{len(unused)} of its {len(header.tensors)} tensors cannot be applied{what}: {_some(unused)}; "
            "only pairs of lora_A and lora_B of the transformer are, so save it as such a LoRA."
        )
    if not keys.layers:
        raise ValueError("it updates the connectors alone, and the prompt is encoded before the LoRA is switched on.")
    if unknown := [name for name in keys.layers if name.startswith(_KOHYA)]:
        raise ValueError(
            f"its keys are named as kohya's scripts name them, and {len(unknown)} of {len(keys.layers)} names mean no "
            f"layer of this transformer: {_some(unknown)}; convert it to diffusers' names."
        )
    parts = [key for own in keys.layers.values() for part, key in own.items() if part != "alpha"]
    if wrong := [key for key in parts if header.tensors[key].dtype not in FLOATS]:
        kind = header.tensors[wrong[0]].dtype
        raise ValueError(f"{wrong[0]!r} is stored as {kind}, where weights are floating-point numbers.")


def _kind(key: str) -> str | None:
    return next((kind for pattern, kind in _OTHER if pattern.search(key)), None)


def _shapes(header: Header, keys: _Keys) -> dict[str, torch.Tensor]:
    """Return a state dictionary with diffusers' names and this file's shapes, on the meta device."""
    return {
        f"transformer.{layer}.{part}.weight": torch.empty(header.tensors[key].shape, device="meta")
        for layer, own in keys.layers.items()
        for part, key in own.items()
        if part != "alpha"
    }


def _scales(path: Path, header: Header, keys: _Keys) -> Scales:
    """Return each layer's factor; a ValueError says that the file's alphas mean nothing, or contradict each other."""
    is_pefts = any(key.startswith("base_model.model.") for key in header.tensors)
    options = adapter_options(path, header.metadata, is_pefts=is_pefts)
    ranks = {layer: _rank(header, own) for layer, own in keys.layers.items()}
    has_alphas = any("alpha" in own for own in keys.layers.values())
    if options is None and not has_alphas:
        check_flat_alpha(header.metadata, set(ranks.values()))
    found = {}
    with safe_open(path, framework="pt") as tensors:
        for layer, own in keys.layers.items():
            said = scale_of(options, layer, ranks[layer]) if options else None
            key = own.get("alpha")
            beside = scale_of_alpha(key, tensors.get_tensor(key), ranks[layer]) if key else None
            found[layer] = _one_scale(layer, said, beside)
    return found


def _one_scale(layer: str, said: float | None, beside: float | None) -> float:
    if said is not None and beside is not None and abs(said - beside) > 1e-6 * beside:
        raise ValueError(f"for {layer!r} its metadata mean scale {said:g}, and its .alpha means scale {beside:g}.")
    return next((scale for scale in (said, beside) if scale is not None), 1.0)


def _rank(header: Header, own: Mapping[str, str]) -> int:
    """Return the rank of a layer's pair; of half a pair, which `check` names, and of a scalar it does not matter."""
    shape = header.tensors[own.get("lora_A") or own["lora_B"]].shape
    return max(1, (shape if "lora_A" in own else shape[::-1])[0]) if shape else 1


def _left_out(keys: list[str]) -> str:
    return f"{len(keys)} tensors of the connectors: the prompt is encoded before the LoRA is switched on"


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
