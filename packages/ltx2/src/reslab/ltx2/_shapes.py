"""Sizes of video and sound, in pixels and samples, as latents and as tokens.

The video VAE turns 8 frames of 32×32 pixels into one latent position, and the first frame alone into one as well; the
audio VAE makes 25 latents a second. The transformer reads one token per latent position.

    VideoShape.from_pixel_shape(width=768, height=512, num_frames=121).token_count      # 6144
    AudioShape.from_video(num_frames=121, frame_rate=24.0).token_count                  # 126

Axes: C channels, F latent frames, H and W latent rows and columns, L audio latents, M latent mel bins. Sources:
`_checkpoint/_configs` (vae_scale_factors, sample_rate, mel_hop_length) and LTX2_AUDIO latent downsampling of diffusers
0.42.1.
"""

from __future__ import annotations

from typing import NamedTuple

from reslab.ltx2._legal_numbers import nearest_legal

SPATIAL_COMPRESSION = 32  # vae.spatial_compression_ratio: pixels a latent, each way
TEMPORAL_COMPRESSION = 8  # vae.temporal_compression_ratio: frames a latent, after the first
AUDIO_SAMPLE_RATE = 16000  # audio_vae.sample_rate
AUDIO_HOP_LENGTH = 160  # audio_vae.mel_hop_length: samples a mel frame
AUDIO_COMPRESSION = 4  # audio_vae.temporal_compression_ratio: mel frames a latent
AUDIO_LATENTS_PER_SECOND = AUDIO_SAMPLE_RATE / AUDIO_HOP_LENGTH / AUDIO_COMPRESSION


class VideoShape(NamedTuple):
    """Hold the latent size of one video; `batch` counts videos."""

    batch: int
    channels: int
    frames: int
    height: int
    width: int

    @classmethod
    def from_pixel_shape(
        cls, *, width: int, height: int, num_frames: int, channels: int = 128, batch: int = 1
    ) -> VideoShape:
        """Return the latent shape of a video given in pixels and frames.

        >>> VideoShape.from_pixel_shape(width=1536, height=1024, num_frames=121)
        VideoShape(batch=1, channels=128, frames=16, height=32, width=48)

        Raises:
            ValueError: Width or height is no multiple of 32, or the frames are not 8k+1; the message names the nearest
                legal sizes.
        """
        for name, pixels in (("width", width), ("height", height)):
            if pixels <= 0 or pixels % SPATIAL_COMPRESSION:
                best = nearest_legal(pixels, SPATIAL_COMPRESSION)
                raise ValueError(f"{name}={pixels} is not a multiple of {SPATIAL_COMPRESSION}{best}.")
        if num_frames <= 0 or num_frames % TEMPORAL_COMPRESSION != 1:
            best = nearest_legal(num_frames, TEMPORAL_COMPRESSION, 1)
            raise ValueError(f"num_frames={num_frames} is not 8k+1{best}.")
        frames = (num_frames - 1) // TEMPORAL_COMPRESSION + 1
        return cls(batch, channels, frames, height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION)

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Return width, height and number of frames.

        >>> VideoShape.from_pixel_shape(width=768, height=512, num_frames=121).pixel_shape
        (768, 512, 121)
        """
        num_frames = (self.frames - 1) * TEMPORAL_COMPRESSION + 1
        return self.width * SPATIAL_COMPRESSION, self.height * SPATIAL_COMPRESSION, num_frames

    @property
    def token_count(self) -> int:
        """Return the number of tokens that the transformer reads for one video.

        >>> VideoShape.from_pixel_shape(width=1920, height=1088, num_frames=121).token_count
        32640
        """
        return self.frames * self.height * self.width

    @property
    def packed(self) -> tuple[int, int, int]:
        """Return the shape in which the transformer reads the latents: batch, tokens, channels."""
        return self.batch, self.token_count, self.channels


class AudioShape(NamedTuple):
    """Hold the latent size of one soundtrack; `batch` counts soundtracks."""

    batch: int
    channels: int
    frames: int
    mel_bins: int

    @classmethod
    def from_seconds(cls, seconds: float, *, channels: int = 8, mel_bins: int = 16, batch: int = 1) -> AudioShape:
        """Return the latent shape of a soundtrack of a length in seconds.

        >>> AudioShape.from_seconds(2.0).frames
        50
        """
        return cls(batch, channels, round(seconds * AUDIO_LATENTS_PER_SECOND), mel_bins)

    @classmethod
    def from_video(
        cls, *, num_frames: int, frame_rate: float, channels: int = 8, mel_bins: int = 16, batch: int = 1
    ) -> AudioShape:
        """Return the latent shape of the sound of a video.

        >>> AudioShape.from_video(num_frames=121, frame_rate=24.0)
        AudioShape(batch=1, channels=8, frames=126, mel_bins=16)
        """
        return cls.from_seconds(num_frames / frame_rate, channels=channels, mel_bins=mel_bins, batch=batch)

    @property
    def seconds(self) -> float:
        """Return the length of the soundtrack.

        >>> AudioShape.from_seconds(2.0).seconds
        2.0
        """
        return self.frames / AUDIO_LATENTS_PER_SECOND

    @property
    def token_count(self) -> int:
        """Return the number of tokens that the transformer reads for one soundtrack."""
        return self.frames

    @property
    def packed(self) -> tuple[int, int, int]:
        """Return the shape in which the transformer reads the latents: batch, tokens, channels."""
        return self.batch, self.frames, self.channels * self.mel_bins
