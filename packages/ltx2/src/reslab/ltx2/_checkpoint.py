"""A checkpoint: the components of one LTX-2 model, where they came from, and how they are written to disk.

    checkpoint = ltx2.load("tiny", variant="LTX-2.3")
    checkpoint.components["transformer"]       # diffusers' own module
    checkpoint                                 # a table of components, parameters and bytes
    ltx2.write(checkpoint, "folder")           # diffusers layout, safetensors only; load("folder") reads it back

Component names are diffusers': tokenizer, text_encoder, connectors, scheduler, transformer, vae, audio_vae, vocoder,
latent_upsampler.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from reslab.ltx2._classes import library_name, quiet_transformers
from reslab.ltx2._variants import Variant
from reslab.ltx2._video import NOISE

LORA_FILE = "distilled_lora.safetensors"  # of a folder that `write` made
MARK_FILE = "reslab.json"  # says what the configurations cannot: the variant, and whether weights were ever trained
RELEASED_DEPTH = 48  # transformer blocks of every release so far
RELEASED_PROMPT_LENGTH = 1024  # diffusers 0.42.1, LTX2TextEncoderStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Hold the components of one model; `untrained` marks weights whose output is noise by design."""

    variant: Variant
    components: Mapping[str, Any]
    distilled_lora: Mapping[str, torch.Tensor] | None = field(repr=False)
    source: str
    revision: str | None = None
    untrained: bool = False

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the components that hold weights, by name."""
        return {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}

    @property
    def stg_blocks(self) -> tuple[int, ...]:
        """Return the blocks that STG perturbs: the variant's, at the same relative depth where the model is shallower.

        Block 28 of the released 48 is block 2 of 4.
        """
        depth = self.components["transformer"].config.num_layers
        return tuple(block * depth // RELEASED_DEPTH for block in self.variant.stg_blocks)

    @property
    def num_registers(self) -> int:
        """Return the count of learnable registers, which a prompt's sequence length has to divide by."""
        return self.components["connectors"].config.video_connector_num_learnable_registers

    @property
    def max_sequence_length(self) -> int:
        """Return the length to which prompts are padded: 1024 tokens, or what the tokenizer allows if that is less."""
        return min(RELEASED_PROMPT_LENGTH, self.components["tokenizer"].model_max_length)

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights and buffers, the LoRA apart."""
        return sum(_weight_bytes(module) for module in self.modules.values())

    def rows(self) -> list[tuple[str, str, int, int]]:
        """List component, class, parameters and bytes, in the order of use; a tokenizer and a scheduler have none."""
        rows = []
        for name, part in self.components.items():
            module = part if isinstance(part, torch.nn.Module) else torch.nn.Module()
            parameters = sum(parameter.numel() for parameter in module.parameters())
            rows.append((name, type(part).__name__, parameters, _weight_bytes(module)))
        return rows

    def __repr__(self) -> str:
        note = f", {NOISE}" if self.untrained else ""
        return f"Checkpoint({self.variant.name!r} from {self.source!r}, {_mib(self.weight_bytes)}{note})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(kind)}</td>"
            f"<td style='text-align:right'>{parameters:,}</td><td style='text-align:right'>{_mib(nbytes)}</td></tr>"
            for name, kind, parameters, nbytes in self.rows()
        )
        caption = html.escape(repr(self))
        head = "<tr><th>component</th><th>class</th><th>parameters</th><th>weights</th></tr>"
        return f"<table><caption>{caption}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _weight_bytes(module: torch.nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.2f} MiB"


def write(checkpoint: Checkpoint, folder: str | os.PathLike[str]) -> Path:
    """Write a checkpoint in diffusers' layout, safetensors only, so that `load(folder)` reads it back.

    The folder appears under its name when everything is in it, not before; what it held is an error, not overwritten.
    Returns its path.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{str(target)!r} is not empty; choose a new folder or empty it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
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
    """Write a diffusers module under its own key names: `save_pretrained` would write PEFT's `*.base_layer.*`.

    Loading those leaves parameters on the meta device, silently (diffusers 0.42.1).
    """
    module.save_config(folder)
    own = {key.replace(".base_layer.", "."): value for key, value in module.state_dict().items() if ".lora_" not in key}
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(own, folder, filename_pattern=pattern, max_shard_size="5GB")


def _index(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return model_index.json as `LTX2Pipeline.save_pretrained` writes it; that pipeline has no upsampler."""
    index: dict[str, Any] = {"_class_name": "LTX2Pipeline", "_diffusers_version": diffusers.__version__}
    for name, part in sorted(checkpoint.components.items()):
        if name != "latent_upsampler":
            index[name] = [library_name(type(part)), type(part).__name__]
    return index
