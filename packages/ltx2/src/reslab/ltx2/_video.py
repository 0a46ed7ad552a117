"""A video with its sound, on the host: what a pipeline returns.

    result = pipe.run(prompt="a heron over a weir", seed=7)
    result.show()                 # plays in the notebook, sound muted at first
    result.save("heron.mp4")      # H.264 with AAC sound

Frames are uint8 (frames, height, width, 3), sound is float32 in ±1 (samples, channels). `_mp4` encodes, `_player`
shows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reslab.stages import Compared, output_path

if TYPE_CHECKING:
    from reslab.ltx2._player import Player

NOISE = "untrained weights: noise by design"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Video(Compared):
    """Hold the frames of a video and its sound.

    >>> still = np.zeros((9, 64, 128, 3), dtype=np.uint8)
    >>> silence = np.zeros((18_000, 2), dtype=np.float32)
    >>> Video(frames=still, audio=silence, frame_rate=24.0, sample_rate=48_000)
    Video(9 frames of 128×64 at 24 fps, 0.38 s; sound 0.38 s, 2 channels at 48000 Hz)
    """

    frames: np.ndarray = field(repr=False)  # uint8 (frames, height, width, 3)
    audio: np.ndarray = field(repr=False)  # float32 (samples, channels), in ±1
    frame_rate: float  # frames a second
    sample_rate: int  # samples a second
    untrained: bool = False  # made by weights that were never trained: noise by design

    @property
    def seconds(self) -> float:
        """Return the length of the video; its sound may be up to a latent, 40 ms, longer or shorter."""
        return len(self.frames) / self.frame_rate

    def show(self) -> Player:
        """Return a player for the notebook: sound muted at first, a strip of frames and the waveform below."""
        from reslab.ltx2._player import Player

        return Player(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an mp4 with H.264 video and AAC sound, and return its path.

        A side of odd length is extended by its last row or column, since H.264 stores colour for pairs of pixels.
        Folders on the way are made; another suffix than .mp4 is a ValueError.
        """
        from reslab.ltx2._mp4 import encode

        target = output_path(path, "a video", ".mp4")
        target.write_bytes(encode(self))
        return target

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        samples, channels = self.audio.shape
        picture = f"{count} frames of {width}×{height} at {self.frame_rate:g} fps, {self.seconds:.2f} s"
        sound = f"sound {samples / self.sample_rate:.2f} s, {channels} channels at {self.sample_rate} Hz"
        return f"Video({picture}; {sound}{'; ' + NOISE if self.untrained else ''})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.show()._repr_mimebundle_()
