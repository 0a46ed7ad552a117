"""How small and how large a request may be: bounds of the model, read from its configurations, and why each holds.

    limits = Limits.released(variant("LTX-2"), stages="one")        # no torch, no weights
    limits.least.width, limits.least.why                            # 64, "… which pads by reflection"

`_size_rules` and `_rules` turn them into sentences. Upper bounds keep a slip of the keyboard from asking for more
memory than there is: the model places pixels as fractions of 2048 and seconds as fractions of 20 (`base_width` and
`pos_embed_max_pos` of every released configuration), and four times that is the most a request may ask for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from reslab.ltx2._checkpoint._configs import components as component_names
from reslab.ltx2._checkpoint._configs import config
from reslab.ltx2._variants import Variant

#: Pixels of a side: four times the 2048 that positions are fractions of.
MAX_SIDE = 8192
#: Seconds of a video: four times the 20 that positions are fractions of.
MAX_SECONDS = 80
#: Tokens of a video: 20 s of 3840×2176 at 24 frames a second are 497,760.
MAX_TOKENS = 2**19
#: Frames a second: the clock of an mp4 file counts milliseconds.
MAX_FRAME_RATE = 1000
#: Denoising steps: `num_train_timesteps` of the released schedulers.
MAX_STEPS = 1000

_NORM_GROUPS = 32  # of the latent upsampler's GroupNorm: diffusers 0.42.1, `pipelines/ltx2/latent_upsampler.py`


class Least(NamedTuple):
    """The least size that the video decoder can make, and what it is less than where it is smaller."""

    width: int = 1
    height: int = 1
    num_frames: int = 1
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a composition allows.

    Attributes:
        variant: The model's variant.
        stages: "one" or "two".
        registers: What the sequence length divides by: the connectors' learnable registers.
        positions: Tokens of a prompt at most: what the connectors' positions are fractions of.
        depth: Transformer blocks.
        least: Width, height and frames that the video decoder needs at least.
        upsampler_channels: Channels in each group of the latent upsampler's normalisation; 0 where there is none.
        stg: Whether video or sound is guided by perturbed blocks.
        stg_blocks: Those blocks.
        perturbs: Whether the transformer can be perturbed.
        scheduler: What makes the sigmas of the first stage; None where the variant has its own.
        tile: Width and height in pixels of the tiles that the user set, where the decoder cannot make them.
    """

    variant: Variant
    stages: str
    registers: int
    positions: int
    depth: int
    least: Least
    upsampler_channels: int
    stg: bool = False
    stg_blocks: tuple[int, ...] = ()
    perturbs: bool = True
    scheduler: Any = None
    tile: int | None = None

    @property
    def multiple(self) -> int:
        """What width and height divide by: for two stages twice a latent, since the first runs at half size."""
        return 64 if self.stages == "two" else 32

    @classmethod
    def released(cls, variant: Variant, *, stages: str) -> Limits:
        """Read the limits of a variant at its released size from configurations alone."""
        return cls(**_of_configs({name: config(variant.name, name) for name in _read(variant)}, variant, stages))

    @classmethod
    def of(cls, components: Mapping[str, Any], *, variant: Variant, stages: str) -> Limits:
        """Read from the components what the variant leaves open."""
        configs = {name: components[name].config for name in _read(variant) if name in components}
        guiders = components["guider"], components["audio_guider"]
        return cls(
            **_of_configs(configs, variant, stages),
            stg=any(guider.is_stg_enabled() for guider in guiders),
            stg_blocks=tuple(guiders[0].spatio_temporal_guidance_blocks or ()),  # diffusers reads those of the video's
            perturbs=components["transformer"].config.perturbed_attn,
            scheduler=None if variant.sigmas else components["scheduler"],
            tile=_impossible_tile(components["vae"]) if "diffusion_decoder" not in components else None,
        )

    def most_frames(self, frame_rate: float) -> int:
        """Return how many frames last no longer than a video may, of the form 8k+1."""
        return max(1, (math.floor(MAX_SECONDS * frame_rate) - 1) // 8 * 8 + 1)


def _read(variant: Variant) -> tuple[str, ...]:
    """Name the components whose configurations hold limits."""
    wanted = ("connectors", "transformer", "vae", "diffusion_decoder", "latent_upsampler")
    return tuple(name for name in wanted if name in component_names(variant.name))


def _of_configs(configs: Mapping[str, Mapping[str, Any]], variant: Variant, stages: str) -> dict[str, Any]:
    upsampler, decoder = configs.get("latent_upsampler") if stages == "two" else None, configs.get("diffusion_decoder")
    return {
        "variant": variant,
        "stages": stages,
        "registers": configs["connectors"]["video_connector_num_learnable_registers"],
        "positions": configs["connectors"]["connector_rope_base_seq_len"],
        "depth": configs["transformer"]["num_layers"],
        "least": _least_of_padding(configs["vae"], variant) if decoder is None else _least_of_windows(decoder),
        "upsampler_channels": upsampler["mid_channels"] // _NORM_GROUPS if upsampler is not None else 0,
    }


def least_latents(vae_config: Mapping[str, Any]) -> int:
    """Return how many latents wide and high a picture, or a tile of it, has to be for a video VAE to decode it.

    A convolution of width 3 that pads by reflection copies the neighbour of each border: it needs two.

    >>> least_latents(config("LTX-2", "vae")), least_latents(config("LTX-2.3", "vae"))
    (2, 1)
    """
    return 2 if vae_config["decoder_spatial_padding_mode"] == "reflect" else 1


def _least_of_padding(vae_config: Mapping[str, Any], variant: Variant) -> Least:
    least = least_latents(vae_config)
    if least == 1:
        return Least()
    side = least * vae_config["spatial_compression_ratio"]
    why = f"the {side} pixels that {variant.name}'s video decoder needs, which pads by reflection"
    return Least(side, side, 1, why)


def _least_of_windows(decoder: Mapping[str, Any]) -> Least:
    width, height, frames = least_size(decoder)
    return Least(width, height, frames, "a window of the video decoder, {least}")


def least_size(decoder_config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the least width, height and frames of a video in which every window of a denoising decoder fits.

    >>> least_size(config("LTX-2.5", "diffusion_decoder"))
    (224, 224, 11)
    """
    scale, rows, columns = decoder_config["spatial_compression_ratio"], 1, 1
    width = height = 0
    # earlier windows are of fewer frames than are put at the end
    frames, *_ = last = decoder_config["decoder_stage5_kernel"]
    for (_, high, wide), (_, up, across) in zip(
        (*decoder_config["decoder_stage_kernels"], last),
        (*decoder_config["decoder_upsample_strides"], (1, 1, 1)),
        strict=True,
    ):
        height, width = max(height, math.ceil(high / rows) * scale), max(width, math.ceil(wide / columns) * scale)
        rows, columns = rows * up, columns * across
    return width, height, frames


def fitting_stride(latents: int, *, tile: int, stride: int, least: int) -> int | None:
    """Return the longest stride up to `stride` at which no tile of a side is narrower than `least`, all in latents.

    A side of 29 latents in tiles of 16, 14 apart, would end in a tile of one; 13 apart it ends in one of three.

    >>> fitting_stride(28, tile=16, stride=14, least=2), fitting_stride(29, tile=16, stride=14, least=2)
    (14, 13)
    >>> fitting_stride(3, tile=1, stride=1, least=2)

    None where there is no such stride.
    """
    if min(tile, latents) < least:
        return None
    return next((each for each in range(stride, 0, -1) if (latents - 1) % each + 1 >= least), None)


def _impossible_tile(vae: Any) -> int | None:
    """Return the side in pixels of tiles that the user set and no stride makes wide enough, if they are."""
    least, scale = least_latents(vae.config), vae.config.spatial_compression_ratio
    sides = (
        (vae.tile_sample_min_width, vae.tile_sample_stride_width),
        (vae.tile_sample_min_height, vae.tile_sample_stride_height),
    )
    narrow = [tile for tile, stride in sides if min(tile, stride) < least * scale]
    return min(narrow) if vae.use_tiling and narrow else None
