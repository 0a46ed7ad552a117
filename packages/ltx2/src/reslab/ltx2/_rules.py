"""The rules of LTX-2 that a request must keep, each with the nearest legal value.

diffusers declares none of these and rounds, ignores or computes NaN in silence; `tests/ltx2/test_rules.py` shows what
it would have done for each. They are checked by the first stage before anything runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from reslab.ltx2._checkpoint import RELEASED_DEPTH
from reslab.ltx2._neighborhood import least_size
from reslab.ltx2._numbers import is_count, is_number, is_whole, nearest
from reslab.ltx2._shapes import AUDIO_LATENTS_PER_SECOND, TEMPORAL_COMPRESSION, AudioShape
from reslab.ltx2._variants import Variant, variant
from reslab.stages import PipelineError

MAX_SEED = 2**64 - 1  # torch.Generator.manual_seed
MAX_CRF = 51  # H.264 with 8 bits a sample
_HALF = re.compile("[\ud800-\udfff]")  # one of the two halves of a character beyond 16 bits, as cut texts have


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a composition allows.

    Attributes:
        variant: The model's variant.
        multiple: What width and height divide by: 32 for one stage, 64 for two, since the first runs at half size.
        registers: What the sequence length divides by: the connectors' learnable registers.
        depth: Transformer blocks.
        stg: Whether video or sound is guided by perturbed blocks.
        stg_blocks: Those blocks.
        perturbs: Whether the transformer can be perturbed.
        least: Width, height and frames that the video decoder needs at least.
    """

    variant: Variant
    multiple: int
    registers: int
    depth: int
    stg: bool
    stg_blocks: tuple[int, ...]
    perturbs: bool
    least: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def of(cls, components: Mapping[str, Any], *, variant: Variant, multiple: int) -> Limits:
        """Read from the components what the variant leaves open."""
        transformer, decoder = components["transformer"].config, components.get("diffusion_decoder")
        guiders = components["guider"], components["audio_guider"]
        return cls(
            variant=variant,
            multiple=multiple,
            registers=components["connectors"].config.video_connector_num_learnable_registers,
            depth=transformer.num_layers,
            stg=any(guider.is_stg_enabled() for guider in guiders),
            stg_blocks=tuple(guiders[0].spatio_temporal_guidance_blocks or ()),  # diffusers reads those of the video's
            perturbs=transformer.perturbed_attn,
            least=(1, 1, 1) if decoder is None else least_size(decoder.config),
        )


def check_request(values: Mapping[str, Any], limits: Limits) -> None:
    """Raise one `PipelineError` naming every rule that the request breaks."""
    problems = [problem for rule in RULES for problem in rule(values, limits)]
    if problems:
        raise PipelineError(
            " ".join(problems) if len(problems) == 1 else "\n- ".join(["this request cannot run:", *problems])
        )


def _sizes(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    for name in ("width", "height"):
        size = values.get(name)
        if size is not None and not (is_count(size) and size % limits.multiple == 0):
            why = " (the first stage runs at half size)" if limits.multiple == 64 else ""
            yield f"{name}={size!r} is not a multiple of {limits.multiple}{why}{nearest(size, limits.multiple)}."


def _frames(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    frames = values.get("num_frames")
    if frames is not None and not (is_count(frames) and frames % TEMPORAL_COMPRESSION == 1):
        yield f"num_frames={frames!r} is not 8k+1{nearest(frames, TEMPORAL_COMPRESSION, 1)}."


def _least(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    forms = {"width": (limits.multiple, 0), "height": (limits.multiple, 0), "num_frames": (TEMPORAL_COMPRESSION, 1)}
    for (name, (of, offset)), least in zip(forms.items(), limits.least, strict=True):
        size = values.get(name)
        if size is not None and is_count(size) and size < least:
            legal = math.ceil((least - offset) / of) * of + offset
            yield f"{name}={size!r} is less than a window of the video decoder, {least}; the nearest is {legal}."


def _steps(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    steps, fixed = values.get("num_inference_steps"), limits.variant.sigmas
    if steps is None:
        return
    if fixed is not None and steps != len(fixed):
        yield f"num_inference_steps={steps!r}: {limits.variant.name} runs {len(fixed)} fixed steps; leave it out."
    elif not is_whole(steps):
        yield f"num_inference_steps={steps!r} is not a whole number from 2 up."
    elif steps < 2:
        why = "with one, the schedule divides 0 by 0"
        yield f"num_inference_steps={steps!r}: at least 2 are needed ({why}); the nearest is 2."


def _frame_rate(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    rate, default = values.get("frame_rate"), limits.variant.frame_rate
    if rate is not None and not (is_number(rate) and rate > 0):
        yield f"frame_rate={rate!r} is not a positive number of frames a second; the default is {default:g}."


def _duration(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    asked, rate = values.get("num_frames"), values.get("frame_rate")
    frames = limits.variant.num_frames if asked is None else asked
    if rate is None or not (is_count(frames) and is_number(rate) and rate > 0):
        return
    if AudioShape.from_video(num_frames=int(frames), frame_rate=float(rate)).frames == 0:
        fastest = math.ceil(2 * AUDIO_LATENTS_PER_SECOND * frames) - 1  # half an audio latent is rounded down
        yield (
            f"num_frames={frames} at frame_rate={rate!r} is too short for sound, whose latents are "
            f"{1000 / AUDIO_LATENTS_PER_SECOND:g} ms long; the nearest whole frame_rate is {fastest}."
        )


def _sequence_length(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    length = values.get("max_sequence_length")
    if length is not None and not (is_count(length) and length % limits.registers == 0):
        yield (
            f"max_sequence_length={length!r} is not a multiple of the connectors' {limits.registers} registers"
            f"{nearest(length, limits.registers)}."
        )


def _stg(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    if not limits.stg:
        return
    outside = [block for block in limits.stg_blocks if not 0 <= block < limits.depth]
    if not limits.perturbs:
        yield (
            "spatio-temporal guidance would change nothing: this transformer was built with perturbed_attn=False; "
            "build it with LTX2VideoTransformer3DModel.from_pretrained(…, perturbed_attn=True), load it with "
            "ltx2.load, or leave stg=0."
        )
    elif not limits.stg_blocks:
        usual = variant("LTX-2.3").stg_blocks[0] * limits.depth // RELEASED_DEPTH
        yield (
            f"spatio-temporal guidance has no block to perturb, since {limits.variant.name} names none; set "
            f"pipeline.components['guider'].spatio_temporal_guidance_blocks = [{usual}], or leave stg=0."
        )
    elif outside:
        yield (
            f"spatio-temporal guidance perturbs block {outside[0]}, but the transformer has {limits.depth} blocks "
            f"(0 to {limits.depth - 1}); the nearest is {min(max(outside[0], 0), limits.depth - 1)}."
        )


def _prompts(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    for name in ("prompt", "negative_prompt"):
        text = values.get(name)
        if isinstance(text, str) and (half := _HALF.search(text)):
            yield f"{name} has half a character ({half[0]!a}) at position {half.start()}; write the whole one, or none."
        elif text is not None and not isinstance(text, str):
            yield f"{name} is one text for one video, got {type(text).__name__}; run the pipeline once for each."


def _image(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    image = values.get("image")
    if image is not None and not is_image(image):
        array = f" of shape {tuple(image.shape)} and {image.dtype}" if hasattr(image, "dtype") else ""
        yield (
            "image is a PIL image or a uint8 array of shape (height, width, 3), "
            f"got {type(image).__name__}{array}; open a file with PIL.Image.open."
        )
    elif image is not None and min(width_and_height(image)) < 2:
        width, height = width_and_height(image)
        yield f"image is {width}×{height}, and H.264, which compresses it first, needs at least 2×2 pixels."
    strength, crf = values.get("image_strength"), values.get("image_crf")
    if strength is not None and not (is_number(strength) and 0 <= strength <= 1):
        yield f"image_strength={strength!r} is not between 0 and 1."
    if crf is not None and not (is_whole(crf) and 0 <= crf <= MAX_CRF):
        yield f"image_crf={crf!r} is not a whole number from 0 to {MAX_CRF}, H.264's range."


def _noise(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    seed, generator = values.get("seed"), values.get("generator")
    if seed is not None and generator is not None:
        yield "seed and generator both say where the noise comes from; give one of them."
    if seed is not None and not (is_whole(seed) and 0 <= seed <= MAX_SEED):
        yield f"seed={seed!r} is not a whole number from 0 to 2⁶⁴−1."
    if generator is not None and not isinstance(generator, torch.Generator):
        yield f"generator is a torch.Generator, got {type(generator).__name__}; for a number use seed=."


RULES: tuple[Callable[[Mapping[str, Any], Limits], Iterator[str]], ...] = (
    _prompts,
    _sizes,
    _frames,
    _least,
    _frame_rate,
    _duration,
    _steps,
    _sequence_length,
    _stg,
    _image,
    _noise,
)


def is_image(image: Any) -> bool:
    """Tell whether this is one RGB image: a PIL image, or a uint8 array of shape (height, width, 3)."""
    array = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8
    return array or isinstance(image, Image.Image)


def width_and_height(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """Return the pixels of an image, across and down."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
