"""The rules for the size of a video, each with the nearest size that the model can make.

The rules need no torch, so that a rehearsal is refused before torch is imported and a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reslab.ltx2._legal_numbers import is_count, is_number, is_whole, nearest_legal
from reslab.ltx2._pipeline._limits import MAX_FRAME_RATE, MAX_SECONDS, MAX_SIDE, MAX_STEPS, MAX_TOKENS, Limits
from reslab.ltx2._shapes import AUDIO_LATENTS_PER_SECOND, SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, AudioShape
from reslab.ltx2._variants import Variant
from reslab.stages import PipelineError

Rule = Callable[[Mapping[str, Any], Limits], Iterator[str]]


def check_size(variant: Variant, stages: str, **values: Any) -> None:
    """Check the size of a request for the released model; one `PipelineError` names every rule that it breaks.

    >>> from reslab.ltx2 import variant
    >>> check_size(variant("LTX-2.3"), "two", width=1280, height=720)
    Traceback (most recent call last):
    reslab.stages._names.PipelineError: height=720 is not a multiple of 64 (the first stage runs at half size); the nearest is 704, then 768.
    """  # noqa: E501
    require(SIZE_RULES, values, Limits.released(variant, stages=stages))


def require(rules: tuple[Rule, ...], values: Mapping[str, Any], limits: Limits) -> None:
    """Check a request against rules; one `PipelineError` names every rule that it breaks."""
    problems = [problem for rule in rules for problem in rule(values, limits)]
    if problems:
        raise PipelineError(
            " ".join(problems) if len(problems) == 1 else "\n- ".join(["this request cannot run:", *problems])
        )


def size_of(values: Mapping[str, Any], limits: Limits) -> tuple[int, int, int] | None:
    """Return width, height and frames of a request, with defaults filled in; None where one of them breaks a rule."""
    if any(True for rule in (_sides, _frames) for _ in rule(values, limits)):
        return None
    width, height = limits.variant.size(limits.stages)
    given = (
        (values.get("width"), width),
        (values.get("height"), height),
        (values.get("num_frames"), limits.variant.num_frames),
    )
    wide, high, frames = (int(default if asked is None else asked) for asked, default in given)
    return wide, high, frames


def tokens_of(width: int, height: int, num_frames: int) -> int:
    """Return the tokens of a video; of a size that is no multiple, only whole latents count."""
    frames = (num_frames - 1) // TEMPORAL_COMPRESSION + 1
    return frames * (width // SPATIAL_COMPRESSION) * (height // SPATIAL_COMPRESSION)


def _sides(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    multiple, half = limits.multiple, " (the first stage runs at half size)" if limits.stages == "two" else ""
    for name, least in (("width", limits.least.width), ("height", limits.least.height)):
        size = values.get(name)
        if size is None:
            continue
        best = nearest_legal(size, multiple, least=least, most=MAX_SIDE)
        if not is_whole(size):
            yield f"{name}={size!r} is not a whole number of pixels{best}."
        elif size > MAX_SIDE:
            four = f"four times the {MAX_SIDE // 4} that the model's positions are made for"
            yield f"{name}={size} is more than {MAX_SIDE} pixels, {four}{best}."
        elif size < 1 or size % multiple:
            yield f"{name}={size} is not a multiple of {multiple}{half}{best}."
        elif size < least:
            yield f"{name}={size} is less than {limits.least.why.format(least=least)}{best}."


def _frames(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    frames, least = values.get("num_frames"), limits.least.num_frames
    if frames is None:
        return
    most = limits.most_frames(_rate(values, limits) or limits.variant.frame_rate)
    best = nearest_legal(frames, TEMPORAL_COMPRESSION, 1, least=least, most=most)
    if not is_whole(frames):
        yield f"num_frames={frames!r} is not a whole number of frames{best}."
    elif frames < 1 or frames % TEMPORAL_COMPRESSION != 1:
        yield f"num_frames={frames} is not 8k+1{best}."
    elif frames < least:
        yield f"num_frames={frames} is less than {limits.least.why.format(least=least)}{best}."


def _rate(values: Mapping[str, Any], limits: Limits) -> float | None:
    """Return the frame rate of a request; None where it is not a legal one."""
    rate = values.get("frame_rate")
    if rate is None:
        return limits.variant.frame_rate
    return float(rate) if is_number(rate) and 0 < rate <= MAX_FRAME_RATE else None


def _frame_rate(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    rate, default = values.get("frame_rate"), limits.variant.frame_rate
    if rate is None:
        return
    if not (is_number(rate) and rate > 0):
        yield f"frame_rate={rate!r} is not a positive number of frames a second; the default is {default:g}."
    elif rate > MAX_FRAME_RATE:
        most = f"{MAX_FRAME_RATE} frames a second, the finest that the milliseconds of an mp4 show"
        yield f"frame_rate={rate} is more than {most}; the nearest is {MAX_FRAME_RATE}."


def _duration(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    asked, rate = values.get("num_frames"), _rate(values, limits)
    frames = limits.variant.num_frames if asked is None else asked
    if rate is None or not is_count(frames):
        return
    said = f"num_frames={frames} at frame_rate={values.get('frame_rate') or f'{rate:g}'}"
    if frames > MAX_SECONDS * rate:
        seconds = f"{frames / rate:.2f}" if frames / rate < 1e6 else f"{frames / rate:.0e}"
        enough = -(-int(frames) // MAX_SECONDS)
        given = values.get("frame_rate") is not None and enough <= MAX_FRAME_RATE
        best = f"whole frame_rate is {enough}" if given else f"num_frames is {limits.most_frames(rate)}"
        four = f"four times the {MAX_SECONDS // 4} s that the model's positions are made for"
        yield f"{said} lasts {seconds} s, more than {MAX_SECONDS} s, {four}; the nearest {best}."
    elif values.get("frame_rate") is not None and not _sound_latents(frames, rate):
        fastest = -int(-2 * AUDIO_LATENTS_PER_SECOND * frames) - 1  # half an audio latent is rounded down
        yield (
            f"{said} is too short for sound, whose latents are {1000 / AUDIO_LATENTS_PER_SECOND:g} ms long; "
            f"the nearest whole frame_rate is {fastest}."
        )


def _sound_latents(frames: Any, rate: float) -> int:
    return AudioShape.from_video(num_frames=int(frames), frame_rate=rate).frames


def _tokens(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    size = size_of(values, limits)
    if size is None or (tokens := tokens_of(*size)) <= MAX_TOKENS:
        return
    width, height, frames = size
    most = (MAX_TOKENS // tokens_of(width, height, 1) - 1) * TEMPORAL_COMPRESSION + 1
    yield (
        f"{width}×{height} pixels and num_frames={frames} are {tokens:,} tokens of video, more than {MAX_TOKENS:,} "
        f"(20 s of 3840×2176 are 497,760); the nearest num_frames is {most}."
    )


def _upsampled(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """Refuse a size that leaves the upsampler's normalisation one value in each group, as torch does."""
    size = size_of(values, limits)
    if size is not None and limits.upsampler_channels == 1 and tokens_of(size[0] // 2, size[1] // 2, size[2]) == 1:
        yield (
            f"{size[0]}×{size[1]} pixels and num_frames=1 leave one value in each group of the latent upsampler's "
            "normalisation; the nearest is num_frames=9 or width=128."
        )


def _steps(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    steps, fixed = values.get("num_inference_steps"), limits.variant.sigmas
    if steps is None:
        return
    if fixed is not None and not (is_whole(steps) and steps == len(fixed)):
        yield f"num_inference_steps={steps!r}: {limits.variant.name} runs {len(fixed)} fixed steps; leave it out."
    elif not is_whole(steps):
        yield f"num_inference_steps={steps!r} is not a whole number from 2 up."
    elif steps < 2:
        why = "with one, the schedule divides 0 by 0"
        yield f"num_inference_steps={steps!r}: at least 2 are needed ({why}); the nearest is 2."
    elif steps > MAX_STEPS:
        trained = f"the {MAX_STEPS} timesteps that the schedule is made of"
        yield f"num_inference_steps={steps} is more than {trained}; the nearest is {MAX_STEPS}."


SIZE_RULES: tuple[Rule, ...] = (_sides, _frames, _frame_rate, _duration, _tokens, _upsampled, _steps)
