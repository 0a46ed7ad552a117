"""Write a checkpoint to disk, in diffusers' layout and safetensors only.

write(checkpoint, "folder")      # load("folder") and diffusers' LTX2Pipeline.from_pretrained read it back
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from reslab.ltx2._checkpoint._checkpoint import LORA_FILE, MARK_FILE, Checkpoint
from reslab.ltx2._checkpoint._model_classes import library_name, quiet_transformers


def write(checkpoint: Checkpoint, folder: str | os.PathLike[str]) -> Path:
    """Write a checkpoint in diffusers' layout, safetensors only, so that `load(folder)` reads it back.

    The folder gets its name when it is complete, not before.

    Returns:
        The folder's path.

    Raises:
        ValueError: The folder exists and is not empty.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{str(target)!r} is not empty; choose a new folder or empty it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent / f".{target.name}-{os.getpid()}"
    staging.mkdir()
    try:
        _write_files(checkpoint, staging)
        if target.exists():
            target.rmdir()
        staging.replace(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def _write_files(checkpoint: Checkpoint, folder: Path) -> None:
    for name, part in checkpoint.components.items():
        if getattr(part, "peft_config", None):
            _write_without_adapters(part, folder / name)
        else:
            with quiet_transformers():
                part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(_index(checkpoint), indent=2), encoding="utf-8")
    mark = {"variant": checkpoint.variant.name, "untrained": checkpoint.untrained}
    (folder / MARK_FILE).write_text(json.dumps(mark, indent=2), encoding="utf-8")
    if checkpoint.distilled_lora is not None:
        lora = {key: tensor.contiguous() for key, tensor in checkpoint.distilled_lora.items()}
        save_file(lora, folder / LORA_FILE)


def _write_without_adapters(module: Any, folder: Path) -> None:
    """Write a diffusers module under its own key names, where `save_pretrained` would write PEFT's `*.base_layer.*`.

    Loading PEFT's names leaves parameters on the meta device without an error (diffusers 0.42.1).
    """
    module.save_config(folder)
    own = {key.replace(".base_layer.", "."): value for key, value in module.state_dict().items() if ".lora_" not in key}
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(own, folder, filename_pattern=pattern, max_shard_size="5GB")


def _index(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return model_index.json as `LTX2Pipeline.save_pretrained` writes it, which has no upsampler."""
    index: dict[str, Any] = {"_class_name": "LTX2Pipeline", "_diffusers_version": diffusers.__version__}
    for name, part in sorted(checkpoint.components.items()):
        if name != "latent_upsampler":
            index[name] = [library_name(type(part)), type(part).__name__]
    return index
