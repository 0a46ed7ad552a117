"""A video is shown and saved with its sound."""

import base64
import io
import re

import av
import numpy as np
import pytest
from PIL import Image

from reslab.ltx2._video import Video, encode, strip, waveform


def moving(count: int = 9, height: int = 64, width: int = 128, **given) -> Video:
    """A white bar that moves to the right over black, with a rising tone."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    for index in range(count):
        frames[index, :, index * width // count : (index + 1) * width // count] = 255
    seconds = np.arange(int(count / 24 * 48_000)) / 48_000
    tone = np.sin(2 * np.pi * 440 * seconds).astype(np.float32) * 0.5
    return Video(frames=frames, audio=np.stack([tone, -tone], axis=1), frame_rate=24.0, sample_rate=48_000, **given)


def test_a_saved_video_has_its_frames_and_its_sound(tmp_path):
    video = moving()
    with av.open(str(video.save(tmp_path / "bar.mp4"))) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        codecs = picture.codec_context.name, picture.pix_fmt, sound.codec_context.name, sound.rate, sound.channels
        assert codecs == ("h264", "yuv420p", "aac", 48_000, 2)
        assert picture.average_rate == 24
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(picture)])
    assert np.abs(frames.astype(int) - video.frames).mean() < 8  # of 255, through yuv420p and x264


def test_saved_sound_is_the_sound(tmp_path):
    video = moving(count=25)
    with av.open(str(video.save(tmp_path / "tone.mp4"))) as container:
        decoded = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    left, right = decoded[0, 4096:8192], decoded[1, 4096:8192]
    assert 0.45 < np.abs(left).max() < 0.55
    assert np.abs(left + right).max() < 0.05  # the channels were opposite
    peak = np.abs(np.fft.rfft(left)).argmax() * 48_000 / 4096
    assert abs(peak - 440) < 12


def clicking(*, count=121, frame_rate=24.0, sample_rate=24_000, channels=2, seconds=5.0, click=24_000) -> Video:
    """Black frames, and silence with a click of eight samples."""
    sound = np.zeros((round(seconds * sample_rate), channels), dtype=np.float32)
    sound[click : click + 8] = 0.9
    frames = np.zeros((count, 64, 64, 3), dtype=np.uint8)
    return Video(frames=frames, audio=sound, frame_rate=frame_rate, sample_rate=sample_rate)


def heard(movie: bytes) -> tuple[int, int]:
    """Decode the sound of an mp4; return how many samples there are and the first of the click."""
    with av.open(io.BytesIO(movie)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    return sound.shape[1], int((np.abs(sound[0]) > 0.3).argmax())


@pytest.mark.parametrize("sample_rate", [24_000, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_saved_sound_is_on_time(tmp_path, sample_rate, channels):
    file = clicking(sample_rate=sample_rate, channels=channels).save(tmp_path / "click.mp4")
    samples, click = heard(file.read_bytes())
    assert samples == -(-5 * sample_rate // 1024) * 1024  # 120,832 at 24 kHz: whole packets of AAC, and no packet more
    assert abs(click - 24_000) <= 2


@pytest.mark.parametrize("frame_rate", [23.976, 29.97, 24_000 / 1001, 25])
def test_pictures_and_sound_start_together_at_any_frame_rate(frame_rate):
    movie = encode(clicking(count=49, frame_rate=frame_rate, seconds=49 / frame_rate))
    with av.open(io.BytesIO(movie)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.start_time, sound.start_time) == (0, 0)
        assert float(picture.duration * picture.time_base) == pytest.approx(49 / frame_rate, abs=1e-4)
        assert float(sound.duration * sound.time_base) == pytest.approx(49 / frame_rate, abs=1e-3)
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(picture)]
    assert shown == pytest.approx([index / frame_rate for index in range(49)], abs=1e-4)


def test_one_frame_has_sound_that_is_on_time():
    samples, click = heard(encode(clicking(count=1, seconds=1 / 24, click=300)))
    assert samples == 1024  # of 1000
    assert abs(click - 300) <= 2


def test_the_player_plays_what_is_saved(tmp_path):
    video = clicking(count=9, seconds=0.375, click=4000)
    page = video.show()._repr_mimebundle_()["text/html"]
    movie = base64.b64decode(re.search(r"data:video/mp4;base64,([^\"]+)", page)[1])
    assert abs(heard(movie)[1] - 4000) <= 2


def test_odd_sides_are_extended_and_silence_without_samples_is_saved(tmp_path):
    video = Video(
        frames=np.full((2, 33, 17, 3), 90, dtype=np.uint8),
        audio=np.zeros((0, 1), dtype=np.float32),
        frame_rate=23.976,
        sample_rate=24_000,
    )
    with av.open(str(video.save(tmp_path / "odd.mp4"))) as container:
        picture = container.streams.video[0]
        assert (picture.width, picture.height) == (18, 34)
        assert float(picture.average_rate) == pytest.approx(23.976, abs=1e-3)


def test_a_path_that_cannot_be_saved_to_is_named_and_folders_are_made(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.mp4, got 'bar\.avi'; save it as 'bar\.mp4'"):
        moving().save(tmp_path / "none" / "bar.avi")
    assert not (tmp_path / "none").exists()
    assert moving().save(tmp_path / "new" / "folder" / "bar.mp4").stat().st_size > 0


def test_three_channels_of_sound_are_refused():
    video = moving()
    three = Video(frames=video.frames, audio=np.zeros((10, 3), dtype=np.float32), frame_rate=24.0, sample_rate=48_000)
    with pytest.raises(ValueError, match="one or two channels, got 3"):
        three.show()._repr_mimebundle_()


def test_the_player_is_muted_and_carries_video_strip_and_caption():
    bundle = moving(untrained=True).show()._repr_mimebundle_()
    page = bundle["text/html"]
    assert "<video controls muted" in page
    assert page.count("untrained weights: noise by design") == 2  # in the caption and for those who cannot see
    movie = base64.b64decode(re.search(r"data:video/mp4;base64,([^\"]+)", page)[1])
    with av.open(io.BytesIO(movie)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert still.size == (768, 64 + 64)


def test_trained_weights_are_not_called_noise():
    video = moving()
    assert "noise" not in repr(video) + video.show()._repr_mimebundle_()["text/html"]


def test_what_is_compared_between_machines_is_only_text():
    first, second = (
        re.sub(r"base64,[A-Za-z0-9+/=]+", "", v._repr_mimebundle_()["text/html"]) for v in (moving(), moving())
    )
    assert first == second
    assert "0x" not in first


def test_the_strip_goes_from_the_first_frame_to_the_last():
    pixels = np.asarray(strip(moving(count=25).frames))
    assert pixels.shape == (64, 768, 3)
    assert pixels[32, 2].mean() > 200  # the bar is at the left of the first
    assert pixels[32, 765].mean() > 200  # and at the right of the last
    assert pixels[32, 64].mean() < 60


def test_the_waveform_draws_the_range_of_the_sound():
    loud = np.concatenate([np.zeros((100, 1)), np.tile([[1.0], [-1.0]], (50, 1))])
    drawn = np.asarray(waveform(loud, width=20))[:, :, 3] > 0
    heights = drawn.sum(axis=0)
    assert heights[:10].max() <= 2
    assert heights[10:].min() >= 62
