"""Choices of a plan that change the bits of the output; nothing but a person, or a mode that says so, touches them.

Placement never changes a bit. These do: whether the distilled LoRA is added on the fly or merged beforehand, whether
guidance passes run one by one or as one batch, whether the VAE decodes in tiles, in which type weights are stored,
and which attention kernel computes.

    Numerics(vae_tiling="on")

Planning and bounding know them all; `apply` carries out what can be switched from outside (`vae_tiling="on"`), and
refuses the others with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from reslab.stages.support import Described

#: Ends the name of a component that has the LoRA merged in.
MERGED = "+lora"


class Lora(Described):
    """How a distilled LoRA reaches the transformer for refining."""

    DYNAMIC = "dynamic", "Added on the fly as a low-rank term: no second transformer, but more operations a forward."
    MERGED = "merged", "A second transformer with the LoRA merged in is put in the first one's place."


class PassBatching(Described):
    """How the guidance passes of one step are run."""

    SEPARATE = "separate", "One by one, as the modular denoiser does."
    BATCHED = "batched", "In one batch, so that streamed weights move once for all of them."


class VaeTiling(Described):
    """Whether the VAE decodes in tiles."""

    PIPELINE = "pipeline", "As the pipeline decides by size."
    ON = "on", "Always."
    OFF = "off", "Never."


class WeightDtype(Described):
    """In which type weights are stored, on the host and in slots."""

    CHECKPOINT = "checkpoint", "As the checkpoint has them."
    FLOAT8 = "float8", "8-bit floating point, cast to the compute type layer by layer: half the bytes to move."


class Attention(Described):
    """Which attention kernel computes."""

    PIPELINE = "pipeline", "The pipeline's own choice."
    FLASH = "flash", "FlashAttention."
    EFFICIENT = "efficient", "Memory-efficient attention."
    MATH = "math", "Plain matrix products, with the whole score matrix in memory."


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """Hold the choices that change bits, apart from `lora`; the defaults leave the pipeline as it is."""

    pass_batching: PassBatching = PassBatching.SEPARATE
    vae_tiling: VaeTiling = VaeTiling.PIPELINE
    weight_dtype: WeightDtype = WeightDtype.CHECKPOINT
    attention: Attention = Attention.PIPELINE

    def fields(self) -> dict[str, str]:
        """Return the choices as plain text.

        >>> Numerics().fields()["vae_tiling"]
        'pipeline'
        """
        return {name: str(getattr(self, name)) for name in NUMERICS}


#: The choices and the enum of each.
NUMERICS: dict[str, Any] = {field.name: type(field.default) for field in fields(Numerics)}
