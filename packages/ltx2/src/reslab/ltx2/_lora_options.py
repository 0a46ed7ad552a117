"""The scale of a LoRA: alpha / rank of each layer, as the file that holds it says.

PEFT adds `lora_B(lora_A(x)) * alpha / rank` (`/ sqrt(rank)` with rank-stabilised LoRA). Where alpha is kept differs:
diffusers writes PEFT's whole configuration into the file's metadata, PEFT into a file beside it, kohya's scripts write
a number a layer. Options that would change the computation in another way are refused by name.

    options = adapter_options(path, metadata, is_pefts=False)
    scale_of(options, "transformer_blocks.0.attn1.to_q", rank=4)      # 4.0 for r=4, lora_alpha=16
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from reslab.ltx2._files import read_json

Scales = dict[str, float]

METADATA_KEY = "lora_adapter_metadata"  # diffusers' own
_CONFIG_FILE = "adapter_config.json"  # PEFT's own
# Alphas that scripts note for the reader; libraries pass over them, kohya's take the `.alpha` beside the weights.
_NOTED = ("lora_alpha", "ss_network_alpha", "network_alpha")
_USED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
# Options that say how a LoRA was made and where it goes, which its keys say as well; they change no value.
_DESCRIPTIVE = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "layers_to_transform"),
    *("layers_pattern", "megatron_core", "eva_config", "qalora_group_size", "ensure_weight_tying"),
}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # others begin by changing the base weights
# A dot that means any character, the beginning and the end: what PEFT and diffusers write. More could take for ever.
_PLAIN_PATTERN = re.compile(r"\^?[\w.\\]+\$?")


def adapter_options(path: Path, metadata: Mapping[str, str], *, is_pefts: bool) -> LoraConfig | None:
    """Return the adapter's configuration from the metadata or from beside the file; None where there is none.

    A ValueError says that the configuration is damaged or missing, or names an option that cannot be kept to.
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
    """Return the options of the transformer's adapter: diffusers' pipelines prefix them, its modules do not."""
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
    """Check that nothing but the scale differs from a plain LoRA."""
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
    """Return the factor that PEFT gives a layer; a ValueError says that the options are of another rank."""
    said = options.rank_pattern.get(get_pattern_key(options.rank_pattern, layer), options.r)
    if said != rank:
        raise ValueError(f"for {layer!r} its metadata say rank {said}, and its weights have rank {rank}.")
    alpha = options.alpha_pattern.get(get_pattern_key(options.alpha_pattern, layer), options.lora_alpha)
    return float(alpha) / (math.sqrt(rank) if options.use_rslora else rank)


def scale_of_alpha(key: str, alpha: torch.Tensor, rank: int) -> float:
    """Return the factor that a number beside the weights means; a ValueError says that it is none."""
    if alpha.numel() != 1:
        raise ValueError(f"{key!r} has {alpha.numel()} values, not one positive number.")
    value = alpha.item()
    _check_number(value, repr(key))
    return float(value) / rank


def check_flat_alpha(metadata: Mapping[str, str], ranks: set[int]) -> None:
    """Check that an alpha which the metadata note alone is the rank, so that it means 1 in either reading.

    Whether another one was folded into the weights already cannot be seen, and libraries pass over it: a ValueError
    says where to put it.
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
