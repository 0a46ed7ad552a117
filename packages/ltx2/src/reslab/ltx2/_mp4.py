"""Encode a video and its sound as mp4, through PyAV.

data = encode(video)      # bytes of an mp4: H.264 in yuv420p, which every browser plays, and AAC
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from reslab.ltx2._video import Video

_CRF = "18"  # x264's quality, 0 lossless to 51; 18 is about where differences stop being seen
_LAYOUTS = {1: "mono", 2: "stereo"}


def encode(video: Video) -> bytes:
    """Return the video as the bytes of an mp4 file.

    A ValueError tells of sound with other than one or two channels.
    """
    channels = video.audio.shape[1]
    if channels not in _LAYOUTS:
        raise ValueError(f"Sound has one or two channels, got {channels}; mix it down first.")
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        picture = _picture_stream(container, video)
        sound = container.add_stream("aac", rate=video.sample_rate, layout=_LAYOUTS[channels])
        for image in _even(video.frames):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode())
        if len(video.audio):
            container.mux(sound.encode(_sound_frame(video)))
        container.mux(sound.encode())
    return buffer.getvalue()


def _picture_stream(container: Any, video: Video) -> Any:
    stream = container.add_stream("libx264", rate=Fraction(video.frame_rate).limit_denominator(1001))
    _, stream.height, stream.width, _ = _even(video.frames).shape
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": _CRF}
    return stream


def _sound_frame(video: Video) -> av.AudioFrame:
    samples = np.ascontiguousarray(np.clip(video.audio.T, -1.0, 1.0), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=_LAYOUTS[len(samples)])
    frame.sample_rate = video.sample_rate
    # With a time of its own the file says how many samples are the encoder's priming; without one, players play
    # those first, and the sound is 1024 samples late.
    frame.pts, frame.time_base = 0, Fraction(1, video.sample_rate)
    return frame


def _even(frames: np.ndarray) -> np.ndarray:
    """Repeat the last row or column of frames (frames, height, width, 3) with an odd side.

    >>> _even(np.zeros((1, 3, 5, 3), dtype=np.uint8)).shape
    (1, 4, 6, 3)
    """
    _, height, width, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
