"""Lower and upper bounds of a request, read from the model's configurations, and the reason for each.

    limits = Limits.released(variant("LTX-2"), stages="one")        # no torch, no weights
    limits.least.width, limits.least.why                            # 64, "… which pads by reflection"

`_size_rules` and `_request_rules` turn the bounds into sentences. Upper bounds keep a typing error from asking for more
memory than exists: the model places pixels as fractions of 2048 and seconds as fractions of 20 (`base_width` and
`pos_embed_max_pos` of every released configuration), and a request may ask for four times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from reslab.ltx2._checkpoint._configs import components as component_names
from reslab.ltx2._checkpoint._configs import config
from reslab.ltx2._variants import Variant

#: Largest side in pixels: four times 2048, of which positions are fractions.
MAX_SIDE = 8192
#: Longest video in seconds: four times 20, of which positions are fractions.
MAX_SECONDS = 80
#: Most tokens of a video: 20 s of 3840×2176 at 24 frames a second are 497,760.
MAX_TOKENS = 2**19
#: Most frames a second: the clock of an mp4 file counts milliseconds.
MAX_FRAME_RATE = 1000
#: Most denoising steps: `num_train_timesteps` of the released schedulers.
MAX_STEPS = 1000

_NORM_GROUPS = 32  # of the latent upsampler's GroupNorm: diffusers 0.42.1, `pipelines/ltx2/latent_upsampler.py`


class LeastSize(NamedTuple):
    """Hold the least size that the video decoder can make.

    `why` completes the sentence "… is less than" in an error.
    """

    width: int = 1
    height: int = 1
    num_frames: int = 1
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hold the bounds of a pipeline's requests.

    Attributes:
        variant: The model's variant.
        stages: "one" or "two".
        registers: The number of the connectors' learnable registers, of which a sequence length is a multiple.
        positions: The most tokens of a prompt, of which the connectors' positions are fractions.
        depth: The number of transformer blocks.
        least: The least width, height and number of frames that the video decoder can make.
        upsampler_channels: Channels in each group of the latent upsampler's normalisation; 0 where there is none.
        stg: Whether perturbed blocks guide video or sound.
        stg_blocks: The perturbed blocks.
        perturbs: Whether the transformer can be perturbed.
        scheduler: The scheduler that makes the sigmas of the first stage; None where the variant has its own.
        tile: The side in pixels of tiles that the user set and the decoder cannot make; None where there are none.
    """

    variant: Variant
    stages: str
    registers: int
    positions: int
    depth: int
    least: LeastSize
    upsampler_channels: int
    stg: bool = False
    stg_blocks: tuple[int, ...] = ()
    perturbs: bool = True
    scheduler: Any = None
    tile: int | None = None

    @property
    def multiple(self) -> int:
        """Return the number of which width and height are multiples: 64 where the first stage runs at half size."""
        return 64 if self.stages == "two" else 32

    @classmethod
    def released(cls, variant: Variant, *, stages: str) -> Limits:
        """Return the limits of a variant at its released size, from configurations alone."""
        return cls(**_of_configs({name: config(variant.name, name) for name in _read(variant)}, variant, stages))

    @classmethod
    def of(cls, components: Mapping[str, Any], *, variant: Variant, stages: str) -> Limits:
        """Return the limits of a pipeline with these components."""
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
        """Return the most frames, of the form 8k+1, that a video at this frame rate may have."""
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
    """Return the least width and height, in latents, of a picture or tile that a video VAE can decode.

    A convolution of width 3 that pads by reflection copies the neighbour of each border, so it needs two latents.

    >>> least_latents(config("LTX-2", "vae")), least_latents(config("LTX-2.3", "vae"))
    (2, 1)
    """
    return 2 if vae_config["decoder_spatial_padding_mode"] == "reflect" else 1


def _least_of_padding(vae_config: Mapping[str, Any], variant: Variant) -> LeastSize:
    least = least_latents(vae_config)
    if least == 1:
        return LeastSize()
    side = least * vae_config["spatial_compression_ratio"]
    why = f"the {side} pixels that {variant.name}'s video decoder needs, which pads by reflection"
    return LeastSize(side, side, 1, why)


def _least_of_windows(decoder: Mapping[str, Any]) -> LeastSize:
    width, height, frames = least_size(decoder)
    return LeastSize(width, height, frames, "a window of the video decoder, {least}")


def least_size(decoder_config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the least width, height and frames of a video in which every window of a denoising decoder fits.

    >>> least_size(config("LTX-2.5", "diffusion_decoder"))
    (224, 224, 11)
    """
    scale, rows, columns = decoder_config["spatial_compression_ratio"], 1, 1
    width = height = 0
    # earlier stages' windows have fewer frames than the decoder appends at the end, so the last stage's alone counts
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
    """Return the longest stride, at most `stride`, that leaves no tile of a side narrower than `least`; all in latents.

    A side of 29 latents in tiles of 16 at a stride of 14 would end in a tile of one latent; at 13 it ends in three.

    >>> fitting_stride(28, tile=16, stride=14, least=2), fitting_stride(29, tile=16, stride=14, least=2)
    (14, 13)
    >>> fitting_stride(3, tile=1, stride=1, least=2)

    Returns:
        The stride, or None where every stride leaves a tile that is too narrow.
    """
    if min(tile, latents) < least:
        return None
    return next((each for each in range(stride, 0, -1) if (latents - 1) % each + 1 >= least), None)


def _impossible_tile(vae: Any) -> int | None:
    """Return the side in pixels of the user's tiles that are too narrow for any stride; None where there are none."""
    least, scale = least_latents(vae.config), vae.config.spatial_compression_ratio
    sides = (
        (vae.tile_sample_min_width, vae.tile_sample_stride_width),
        (vae.tile_sample_min_height, vae.tile_sample_stride_height),
    )
    narrow = [tile for tile, stride in sides if min(tile, stride) < least * scale]
    return min(narrow) if vae.use_tiling and narrow else None
