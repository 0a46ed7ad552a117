"""A checkpoint: the components of one LTX-2 model and their source.

    checkpoint = ltx2.load("tiny", variant="LTX-2.3")
    checkpoint.components["transformer"]       # diffusers' own module
    checkpoint                                 # a table of components, parameters and bytes
    checkpoint.files                           # files of weights that a plan left on disk, for residency.apply
    ltx2.write(checkpoint, "folder")           # diffusers layout, safetensors only; load("folder") reads it back

Component names are diffusers': tokenizer, text_encoder, connectors, scheduler, transformer, vae, audio_vae, vocoder,
latent_upsampler.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from reslab.ltx2._variants import Variant
from reslab.ltx2._video import NOISE
from reslab.stages.support import html_table

LORA_FILE = "distilled_lora.safetensors"  # in a folder that `write` made
MARK_FILE = "reslab.json"  # the variant, and whether the weights were ever trained, which configurations do not say
_STYLES = ["text-align:left"] * 2 + ["text-align:right"] * 2  # two columns of names, two of numbers
RELEASED_DEPTH = 48  # transformer blocks of every release so far


#: The safetensors files of one component.
Files = tuple[str | os.PathLike[str], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Hold the components of one model. A checkpoint equals itself alone: weights are neither compared nor hashed.

    Attributes:
        variant: The variant.
        components: The components by name; modules, a tokenizer and a scheduler.
        distilled_lora: The state dictionary of the distilled LoRA; None where the checkpoint has none.
        source: The argument of `load`, or the origin of weights that were not loaded.
        revision: The commit on the Hub; None for other sources.
        untrained: Whether the weights were never trained, so that their output is noise by design.
        files: The files of components whose weights a plan left in them; those weights are on the meta device until
            `residency.apply` fetches them.
    """

    variant: Variant
    components: Mapping[str, Any]
    distilled_lora: Mapping[str, torch.Tensor] | None = field(repr=False)
    source: str
    revision: str | None = None
    untrained: bool = False
    files: Mapping[str, Files] = field(default_factory=dict, repr=False)

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the components that hold weights, by name."""
        return {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}

    @property
    def stg_blocks(self) -> tuple[int, ...]:
        """Return the blocks that STG perturbs: the variant's, moved to the same relative depth in a shallower model.

        Block 28 of the released 48 is block 2 of 4.
        """
        depth = self.components["transformer"].config.num_layers
        return tuple(block * depth // RELEASED_DEPTH for block in self.variant.stg_blocks)

    @property
    def num_registers(self) -> int:
        """Return the number of learnable registers; a prompt's sequence length has to be a multiple of it."""
        return self.components["connectors"].config.video_connector_num_learnable_registers

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights and buffers, without the LoRA."""
        return sum(_weight_bytes(module) for module in self.modules.values())

    @property
    def left_bytes(self) -> int:
        """Return the bytes of weights that a plan left in their files."""
        named = [each for name in self.files for each in self.modules[name].named_parameters()]
        return sum(tensor.nbytes for name, tensor in named if tensor.is_meta and ".lora_" not in name)

    def rows(self) -> list[tuple[str, str, int, int]]:
        """List component, class, parameters and bytes, in the order of use; a tokenizer and a scheduler have none."""
        rows = []
        for name, part in self.components.items():
            module = part if isinstance(part, torch.nn.Module) else torch.nn.Module()
            own = [tensor for key, tensor in module.named_parameters() if ".lora_" not in key]
            rows.append((name, type(part).__name__, sum(tensor.numel() for tensor in own), _weight_bytes(module)))
        return rows

    def __repr__(self) -> str:
        note = f", {_mib(self.left_bytes)} of it left in files" if self.files else ""
        note += f", {NOISE}" if self.untrained else ""
        return f"Checkpoint({self.variant.name!r} from {self.source!r}, {_mib(self.weight_bytes)}{note})"

    def _repr_html_(self) -> str:
        rows = ((name, kind, f"{count:,}", _mib(nbytes)) for name, kind, count, nbytes in self.rows())
        head = ("component", "class", "parameters", "weights")
        return html_table(head, rows, caption=repr(self), styles=_STYLES)


def _weight_bytes(module: torch.nn.Module) -> int:
    named = [*module.named_parameters(), *module.named_buffers()]
    return sum(tensor.nbytes for name, tensor in named if ".lora_" not in name)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.2f} MiB"
