"""The bridge between the two denoising stages: the latent upsampler, and latents in the form that each side takes.

No model mathematics is here: tensors are handed from one convention to the other by diffusers' own functions.
Axes: B videos, C channels, F latent frames, H and W latent rows and columns, L audio latents, M latent mel bins.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

from reslab.stages import Stage


class LTX2UpsampleStage(Stage):
    """Double the width and height of the video latents, and hand both latents over in the form the second stage takes.

    The upsampler works on de-normalised latents (B, C, F, H, W). The second stage takes video in that form and audio as
    de-normalised (B, C, L, M): it normalises audio whatever its rank, so packed, normalised audio would be a silent
    error.
    """

    components = ("latent_upsampler", "vae", "audio_vae", "transformer")
    writes = ("refine_latents", "refine_audio_latents")

    @torch.no_grad()
    def run(
        self,
        latents: torch.Tensor,
        audio_latents: torch.Tensor,
        audio_num_frames: int,
        num_frames: int,
        height: int,
        width: int,
        latent_upsampler: Any,
        vae: Any,
        audio_vae: Any,
        transformer: Any,
    ) -> dict[str, torch.Tensor]:
        video = denormalised_video(latents, num_frames, height, width, vae, transformer)
        return {
            "refine_latents": latent_upsampler(video.to(latent_upsampler.dtype)),
            "refine_audio_latents": denormalised_audio(audio_latents, audio_num_frames, audio_vae),
        }


def denormalised_video(
    latents: torch.Tensor, num_frames: int, height: int, width: int, vae: Any, transformer: Any
) -> torch.Tensor:
    """Turn packed, normalised video latents (B, tokens, C) into de-normalised ones (B, C, F, H, W)."""
    frames = (num_frames - 1) // vae.temporal_compression_ratio + 1
    rows, columns = height // vae.spatial_compression_ratio, width // vae.spatial_compression_ratio
    patch = transformer.config.patch_size, transformer.config.patch_size_t
    unpacked = LTX2Pipeline._unpack_latents(latents, frames, rows, columns, *patch)
    return LTX2Pipeline._denormalize_latents(unpacked, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


def denormalised_audio(audio_latents: torch.Tensor, audio_num_frames: int, audio_vae: Any) -> torch.Tensor:
    """Turn packed, normalised audio latents (B, L, C×M) into de-normalised ones (B, C, L, M)."""
    mel_bins = audio_vae.config.mel_bins // audio_vae.mel_compression_ratio
    packed = LTX2Pipeline._denormalize_audio_latents(audio_latents, audio_vae.latents_mean, audio_vae.latents_std)
    return LTX2Pipeline._unpack_audio_latents(packed, audio_num_frames, num_mel_bins=mel_bins)
