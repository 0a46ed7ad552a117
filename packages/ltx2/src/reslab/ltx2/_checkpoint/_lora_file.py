"""A LoRA's file: the layers that it updates, their scales, and its unusable content, read from the header alone.

    found = open_lora(Path("lora.safetensors"), transformer)      # a ValueError says why it cannot be applied
    state = found.read(dtype=torch.bfloat16)                      # transformer.<layer>.lora_A.weight and .lora_B.weight

A LoRA is applied as its file says, or refused: every key is used or named in an error. Keys may be diffusers'
("transformer."), the original repository's ("diffusion_model."), PEFT's ("base_model.model."), bare ones, or kohya's
("lora_unet_", dots as underscores); a name counts if it means exactly one layer.

PEFT adds `lora_B(lora_A(x)) * alpha / rank` (`/ sqrt(rank)` with rank-stabilised LoRA). diffusers keeps alpha in PEFT's
configuration in the file's metadata, PEFT in `adapter_config.json` beside the file, kohya's scripts in an `.alpha` key
for each layer. The factor is folded into `lora_B` once, when the file is read, so that adding on the fly, merging and
writing all have a LoRA of scale 1. Options that would change the computation in another way are refused by name.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders import LTX2LoraLoaderMixin
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import safe_open

from reslab.ltx2._checkpoint._align import aligned_copy
from reslab.ltx2._checkpoint._file_headers import FLOATS, SafetensorsHeader, read_header, read_json

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
# Endings and beginnings of keys of updates that are no pair of thin matrices of the transformer.
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
    """Hold the updates in a LoRA's file, by diffusers' names of layers: the keys of both matrices, and the scale."""

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


class _LoraKeys(NamedTuple):
    """Hold a file's keys by layer and part, the connectors' keys, and all other keys."""

    layers: dict[str, dict[str, str]]
    connectors: list[str]
    unused: list[str]


def open_lora(given: Path, transformer: torch.nn.Module) -> LoraFile:
    """Read the header of a LoRA's file, and find the layer of each key and its scale.

    Args:
        given: A safetensors file, or the folder of one.
        transformer: The transformer whose layers the names mean; its weights are not needed.

    Returns:
        The file's updates, without their weights.

    Raises:
        ValueError: The file is damaged, or holds unknown or contradictory keys; the message names file and keys.
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
    """Return the given safetensors file, or the one in the given folder; a ValueError names several or none."""
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


def _sorted_keys(header: SafetensorsHeader, transformer: torch.nn.Module) -> _LoraKeys:
    """Sort the keys of a file; a ValueError names two that mean the same layer."""
    flat = _flat_names(transformer)
    found = _LoraKeys({}, [], [])
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
    """Return linear layers by their names with underscores for dots, as in kohya's files, except ambiguous ones."""
    flat: dict[str, list[str]] = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".lora_" not in name:
            plain = name.replace(".base_layer", "")
            flat.setdefault(plain.replace(".", "_"), []).append(plain)
    return {name: layers[0] for name, layers in flat.items() if len(layers) == 1}


def _layer(name: str, flat: Mapping[str, str]) -> str:
    """Return diffusers' name of a layer; a kohya name that means no layer stays as it is."""
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


def _check_keys(header: SafetensorsHeader, keys: _LoraKeys) -> None:
    """Check that every key is used; a ValueError names unused keys and their kind."""
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


def _shapes(header: SafetensorsHeader, keys: _LoraKeys) -> dict[str, torch.Tensor]:
    """Return a state dictionary with diffusers' names and this file's shapes, on the meta device."""
    return {
        f"transformer.{layer}.{part}.weight": torch.empty(header.tensors[key].shape, device="meta")
        for layer, own in keys.layers.items()
        for part, key in own.items()
        if part != "alpha"
    }


def _scales(path: Path, header: SafetensorsHeader, keys: _LoraKeys) -> Scales:
    """Return each layer's scale; a ValueError says that the file's alphas are unusable or contradict each other."""
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


def _rank(header: SafetensorsHeader, own: Mapping[str, str]) -> int:
    """Return the rank of a layer's pair; 1 for a scalar. `check_lora` names half a pair later."""
    shape = header.tensors[own.get("lora_A") or own["lora_B"]].shape
    return max(1, (shape if "lora_A" in own else shape[::-1])[0]) if shape else 1


def _left_out(keys: list[str]) -> str:
    return f"{len(keys)} tensors of the connectors: the prompt is encoded before the LoRA is switched on"


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")


Scales = dict[str, float]

METADATA_KEY = "lora_adapter_metadata"  # in diffusers' files
_CONFIG_FILE = "adapter_config.json"  # in PEFT's folders
# Alphas that scripts write as notes; libraries ignore them, and kohya's scripts read the `.alpha` beside the weights.
_NOTED = ("lora_alpha", "ss_network_alpha", "network_alpha")
_USED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
# Options that describe how a LoRA was made and which layers it updates, which its keys show; they change no value.
_DESCRIPTIVE = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "layers_to_transform"),
    *("layers_pattern", "megatron_core", "eva_config", "qalora_group_size", "ensure_weight_tying"),
}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # other starts change the base weights
# Names, dots and anchors, as PEFT and diffusers write them; a richer pattern could take very long to match.
_PLAIN_PATTERN = re.compile(r"\^?[\w.\\]+\$?")


def adapter_options(path: Path, metadata: Mapping[str, str], *, is_pefts: bool) -> LoraConfig | None:
    """Return the adapter's configuration from the metadata or from the file's folder; None where there is none.

    Raises:
        ValueError: The configuration is damaged or missing, or has an option that is not applied.
    """
    if METADATA_KEY in metadata:
        return _options(_transformers_own(_parsed(metadata[METADATA_KEY])), METADATA_KEY)
    if not is_pefts:
        return None
    beside = path.parent / _CONFIG_FILE
    if not beside.is_file():
        raise ValueError(f"PEFT, which its keys are named by, keeps alpha in {_CONFIG_FILE}; put that beside it.")
    return _options(read_json(beside, str(beside)), _CONFIG_FILE)


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its metadata's {METADATA_KEY} is no JSON ({error}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"its metadata's {METADATA_KEY} is no JSON object.")
    return found


def _transformers_own(found: dict[str, Any]) -> dict[str, Any] | None:
    """Return the options of the transformer's adapter; diffusers' pipelines prefix them, its modules do not."""
    if not any(key.startswith(("transformer.", "connectors.")) for key in found):
        return found
    return {key.removeprefix("transformer."): found[key] for key in found if key.startswith("transformer.")} or None


def _options(given: dict[str, Any] | None, place: str) -> LoraConfig | None:
    if given is None:
        return None
    _check_plain(given, place)
    for key in ("r", "lora_alpha"):
        _check_number(given.get(key, 1), f"{place}: {key}")
    for key in ("rank_pattern", "alpha_pattern"):
        _check_pattern(given.get(key) or {}, f"{place}: {key}")
    return LoraConfig(**{key: given[key] for key in _USED if given.get(key) is not None})


def _check_plain(given: Mapping[str, Any], place: str) -> None:
    """Check that only the scale differs from a plain LoRA."""
    if given.get("use_dora"):
        raise ValueError(f"{place} has use_dora=True: DoRA is not applied; save it as a plain LoRA.")
    if str(given.get("peft_type", "LORA")).upper() != "LORA":
        raise ValueError(f"{place} has peft_type={given['peft_type']!r}, which is no LoRA.")
    if given.get("init_lora_weights", True) not in _PLAIN_STARTS and given["init_lora_weights"] is not None:
        start = given["init_lora_weights"]
        raise ValueError(
            f"{place} has init_lora_weights={start!r}, which changes the base weights; convert it to LoRA."
        )
    usual = LoraConfig().to_dict()
    for key, value in given.items():
        known = key in _USED or key in _DESCRIPTIVE or key == "init_lora_weights"
        if not known and value and value != usual.get(key):
            raise ValueError(f"{place} has {key}={value!r}, which is not applied; save it as a plain LoRA.")


def _check_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{what} is {value!r}, not a positive number.")


def _check_pattern(found: Any, what: str) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} is {found!r}, not an object of layers and numbers.")
    for pattern, value in found.items():
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise ValueError(f"{what} has {pattern!r}, which is no layer's name.")
        _check_number(value, f"{what} of {pattern!r}")


def scale_of(options: LoraConfig, layer: str, rank: int) -> float:
    """Return the scale that PEFT gives a layer; a ValueError says that the options have another rank."""
    said = options.rank_pattern.get(get_pattern_key(options.rank_pattern, layer), options.r)
    if said != rank:
        raise ValueError(f"for {layer!r} its metadata say rank {said}, and its weights have rank {rank}.")
    alpha = options.alpha_pattern.get(get_pattern_key(options.alpha_pattern, layer), options.lora_alpha)
    return float(alpha) / (math.sqrt(rank) if options.use_rslora else rank)


def scale_of_alpha(key: str, alpha: torch.Tensor, rank: int) -> float:
    """Return the scale that an `.alpha` tensor means; a ValueError says that it is no single positive number."""
    if alpha.numel() != 1:
        raise ValueError(f"{key!r} has {alpha.numel()} values, not one positive number.")
    value = alpha.item()
    _check_number(value, repr(key))
    return float(value) / rank


def check_flat_alpha(metadata: Mapping[str, str], ranks: set[int]) -> None:
    """Check that an alpha that only the metadata note equals the rank, so that the scale is 1 in every reading.

    The file does not show whether another alpha was folded into the weights already, and libraries ignore the note.

    Raises:
        ValueError: The alpha differs from the rank; the message says where to store it.
    """
    for key in _NOTED:
        text = metadata.get(key, "None")
        if text != "None" and not all(_as_number(text) == rank for rank in ranks):
            raise ValueError(
                f"its metadata note {key}={text!r} at rank {', '.join(map(str, sorted(ranks)))}, and nothing says "
                "whether the weights are scaled by it already; store it as a tensor '<layer>.alpha' for each layer, or "
                "remove the note."
            )


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
