"""Decoding: latents to pixels and a waveform, put together on the host as a `Video`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from reslab.ltx2._video import Video
from reslab.stages import BlockStage, Signature


class LTX2AVDecodingStage(BlockStage):
    """Decode video and audio, tiled where that is due, and put them together on the host.

    Args:
        blocks: diffusers' video and audio decoders.
        decoder: The component that decodes video.
        tile_above_pixels: Pixels × frames above which it decodes in tiles; below, as the user set it.
        untrained: Whether the weights are random, so that the result is noise by design.
    """

    def __init__(self, *blocks: Any, decoder: str, tile_above_pixels: float, untrained: bool) -> None:
        super().__init__(*blocks, stage_class=type(self).__name__)
        self.decoder, self.tile_above_pixels, self.untrained = decoder, tile_above_pixels, untrained

    def signature(self, available: Collection[str] = ()) -> Signature:
        own = super().signature(available)
        return Signature(components=own.components, reads=own.reads, writes=("video",))

    def prepare(self, bind: Any) -> Callable[[Any], None]:
        decode = super().prepare(bind)

        def call(values: Any) -> None:
            pixels = values["width"] * values["height"] * values["num_frames"]
            with tiled(bind.component(self.decoder), pixels > self.tile_above_pixels):
                decode(values)
            values["video"] = Video(
                frames=to_uint8(values.pop("videos")),
                audio=values.pop("audio")[0].float().cpu().numpy().T,
                frame_rate=values["frame_rate"],
                sample_rate=bind.component("vocoder").config.output_sampling_rate,
                untrained=self.untrained,
            )

        return call


@contextmanager
def tiled(decoder: Any, due: bool) -> Iterator[None]:
    """Let a video decoder work in tiles where that is due, then be set as it was."""
    before = decoder.use_tiling
    decoder.use_tiling = before or due
    try:
        yield
    finally:
        decoder.use_tiling = before


def to_uint8(videos: torch.Tensor) -> np.ndarray:
    """Turn decoded videos (1, F, 3, H, W) in [0, 1] into frames (F, H, W, 3) on the host, rounded as diffusers does."""
    frames = (videos[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    return frames.cpu().numpy()
