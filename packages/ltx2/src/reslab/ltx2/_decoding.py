"""Decoding: latents to pixels and a waveform, put together on the host as a `Video`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from reslab.ltx2._limits import fitting_stride, least_latents
from reslab.ltx2._video import Video
from reslab.stages import BlockStage, Signature


class LTX2AVDecodingStage(BlockStage):
    """Decode video and audio, tiled where that is due, and put them together on the host.

    LTX-2.3's sound passes two networks: a vocoder, and one that extends its bandwidth. As diffusers and the released
    configuration have it, what passes between them is not limited; Lightricks' code cuts it to ±1, which is audible
    where it is louder. `vocoder.vocoder.final_act_fn = "clamp"` does the same here.

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
            width, height = values["width"], values["height"]
            due = width * height * values["num_frames"] > self.tile_above_pixels
            with tiled(bind.component(self.decoder), due, width=width, height=height):
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
def tiled(decoder: Any, due: bool, *, width: int = 0, height: int = 0) -> Iterator[None]:
    """Let a video decoder work in tiles where that is due, then be set as it was.

    Tiles of a decoder that pads by reflection overlap a little more where the last would be too narrow for it.
    """
    wanted = {"use_tiling": decoder.use_tiling or due, **_strides(decoder, width=width, height=height)}
    before = {name: getattr(decoder, name) for name in wanted}
    try:
        _set(decoder, wanted)
        yield
    finally:
        _set(decoder, before)


def _set(decoder: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(decoder, name, value)


def _strides(decoder: Any, **sides: int) -> dict[str, int]:
    """The strides in pixels that have to move for a picture of these sides, by the decoder's names for them."""
    least = least_latents(decoder.config) if "decoder_spatial_padding_mode" in decoder.config else 1
    scale, moved = decoder.config.spatial_compression_ratio, {}
    for side, pixels in sides.items():
        tile, stride = (getattr(decoder, f"tile_sample_{kind}_{side}") // scale for kind in ("min", "stride"))
        fitting = fitting_stride(pixels // scale, tile=tile, stride=stride, least=least) if least > 1 else None
        if fitting is not None and fitting != stride:
            moved[f"tile_sample_stride_{side}"] = fitting * scale
    return moved


def to_uint8(videos: torch.Tensor) -> np.ndarray:
    """Turn decoded videos (1, F, 3, H, W) in [0, 1] into frames (F, H, W, 3) on the host, rounded as diffusers does."""
    frames = (videos[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    return frames.cpu().numpy()
