"""A video with its sound in host memory, as a pipeline returns it.

    result = pipe.run(prompt="a heron over a weir", seed=7)
    result.show()                 # plays in the notebook, sound muted at first
    result.save("heron.mp4")      # H.264 with AAC sound

Frames are uint8 (frames, height, width, 3), sound is float32 in ±1 (samples, channels). Web viewers and printed pages
drop a player, so a strip of frames over the waveform stands under it. Notebook tests compare the text alone: pictures
and sound differ between processors.

Functions that encode or draw import PyAV and Pillow themselves, so that a `Video` needs neither.
"""

from __future__ import annotations

import base64
import html
import io
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reslab.stages.support import Compared, output_path

if TYPE_CHECKING:
    import av
    from PIL import Image

_CRF = "18"  # x264's quality, 0 lossless to 51; 18 is about where differences stop being seen
_LAYOUTS = {1: "mono", 2: "stereo"}
_STRIP_FRAMES = 6
_STRIP_WIDTH = 768
_WAVE_HEIGHT = 64
_WAVE_COLOR = (0, 114, 178)  # blue of Okabe and Ito's colour-blind-safe palette; reads on white and on black

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
    untrained: bool = False  # whether the weights were never trained, so that the video is noise by design

    @property
    def seconds(self) -> float:
        """Return the length of the video; its sound may be up to a latent, 40 ms, longer or shorter."""
        return len(self.frames) / self.frame_rate

    def show(self) -> Player:
        """Return a player for the notebook: sound muted at first, a strip of frames and the waveform below."""
        return Player(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an mp4 with H.264 video and AAC sound, and return its path.

        A side of odd length is extended by its last row or column, since H.264 stores colour for pairs of pixels.
        Missing parent folders are made.

        Raises:
            ValueError: The path has another suffix than .mp4, or the sound has more than two channels.
        """
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


class Player:
    """Show a video as a player over a strip of frames and the waveform."""

    def __init__(self, video: Video) -> None:
        self.video = video

    def __repr__(self) -> str:
        return repr(self.video)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        caption = html.escape(repr(self.video).removeprefix("Video(").removesuffix(")"))
        movie, still = _base64(encode(self.video)), _base64(_png(picture(self.video)))
        page = (
            "<figure style='margin:0'>"
            f"<video controls muted loop style='max-width:100%;min-width:256px;image-rendering:pixelated' "
            f'src="data:video/mp4;base64,{movie}"></video><br>'
            f'<img style="max-width:100%" alt="Frames from first to last, over the waveform: {caption}" '
            f'src="data:image/png;base64,{still}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
        return {"text/plain": repr(self), "text/html": page, "image/png": still}


def picture(video: Video) -> Image.Image:
    """Draw a strip of frames from first to last, over the waveform of the sound."""
    from PIL import Image

    frames = strip(video.frames)
    wave = waveform(video.audio, width=frames.width)
    sheet = Image.new("RGBA", (frames.width, frames.height + wave.height))
    sheet.paste(frames, (0, 0))
    sheet.paste(wave, (0, frames.height))
    return sheet


def strip(frames: np.ndarray) -> Image.Image:
    """Draw up to six frames of (frames, height, width, 3), evenly spaced from first to last, side by side."""
    from PIL import Image

    count = min(_STRIP_FRAMES, len(frames))
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    width = _STRIP_WIDTH // count
    height = max(1, round(width * frames.shape[1] / frames.shape[2]))
    sheet = Image.new("RGB", (width * count, height))
    for place, frame in enumerate(chosen):
        sheet.paste(Image.fromarray(frame).resize((width, height)), (place * width, 0))
    return sheet


def waveform(audio: np.ndarray, *, width: int) -> Image.Image:
    """Draw the range of sound (samples, channels) in each column of the picture, on a transparent ground."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (width, _WAVE_HEIGHT))
    pen, middle = ImageDraw.Draw(image), (_WAVE_HEIGHT - 1) / 2
    for x, part in enumerate(np.array_split(np.clip(audio, -1, 1), width)):
        low, high = (part.min(), part.max()) if part.size else (0.0, 0.0)
        pen.line([(x, middle - high * middle), (x, middle - low * middle)], fill=_WAVE_COLOR)
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def encode(video: Video) -> bytes:
    """Return the video as the bytes of an mp4 file.

    Raises:
        ValueError: The sound has other than one or two channels.
    """
    channels = video.audio.shape[1]
    if channels not in _LAYOUTS:
        raise ValueError(f"Sound has one or two channels, got {channels}; mix it down first.")
    import av

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
    import av

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
