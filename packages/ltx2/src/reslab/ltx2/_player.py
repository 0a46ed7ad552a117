"""Show a video in a notebook: a player, and a still picture for those who read the notebook where video is dropped.

Web viewers and printed pages drop the player, so a strip of frames over the waveform stands under it. What is
compared when a notebook is tested is the text: pictures and sound differ between processors, and their payloads are
left out.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from reslab.ltx2._mp4 import encode

if TYPE_CHECKING:
    from reslab.ltx2._video import Video

_STRIP_FRAMES = 6
_STRIP_WIDTH = 768
_WAVE_HEIGHT = 64
_WAVE_COLOR = (0, 114, 178)  # blue of Okabe and Ito's colour-blind-safe palette; reads on white and on black


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
    frames = strip(video.frames)
    wave = waveform(video.audio, width=frames.width)
    sheet = Image.new("RGBA", (frames.width, frames.height + wave.height))
    sheet.paste(frames, (0, 0))
    sheet.paste(wave, (0, frames.height))
    return sheet


def strip(frames: np.ndarray) -> Image.Image:
    """Draw up to six frames of (frames, height, width, 3), evenly spaced from first to last, side by side."""
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
