"""Choices of a plan that change the bits of the output; only the user, or a mode that says so, sets them.

Placement never changes a bit. These choices do: whether the distilled LoRA is added on the fly or merged beforehand,
whether guidance passes run one by one or as one batch, whether the VAE decodes in tiles, in which type weights are
stored, and which attention kernel computes.

    Numerics(vae_tiling="on")

Plans and bounds take all of them into account. `apply` carries out the LoRA and `vae_tiling="on"`, and refuses the
others with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from reslab.stages.support import Described

#: Suffix of the name of a component that has the LoRA merged in.
MERGED = "+lora"


class Lora(Described):
    """How the distilled LoRA reaches the transformer for refining."""

    DYNAMIC = "dynamic", "Added on the fly as a low-rank term: no second transformer, but more operations a forward."
    MERGED = "merged", "A second transformer with the LoRA merged in takes the place of the first."


class PassBatching(Described):
    """How the guidance passes of one step run."""

    SEPARATE = "separate", "One by one, as the modular denoiser does."
    BATCHED = "batched", "In one batch, so that streamed weights move once for all of them."


class VaeTiling(Described):
    """Whether the VAE decodes in tiles."""

    PIPELINE = "pipeline", "The pipeline decides by the size of the video."
    ON = "on", "The VAE always decodes in tiles."
    OFF = "off", "The VAE never decodes in tiles."


class WeightDtype(Described):
    """The type in which weights are stored, on the host and in slots."""

    CHECKPOINT = "checkpoint", "The type of the checkpoint."
    FLOAT8 = "float8", "8-bit floating point, cast to the compute type layer by layer: half the bytes to move."


class Attention(Described):
    """The attention kernel that computes."""

    PIPELINE = "pipeline", "The pipeline's own choice."
    FLASH = "flash", "FlashAttention."
    EFFICIENT = "efficient", "Memory-efficient attention."
    MATH = "math", "Plain matrix products, with the whole score matrix in memory."


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """The choices that change bits, apart from `lora`; the defaults leave the pipeline as it is."""

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


#: The enum of each choice, by name.
NUMERICS: dict[str, Any] = {field.name: type(field.default) for field in fields(Numerics)}
