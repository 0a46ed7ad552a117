"""The rules that a request for LTX-2 must keep, each with the nearest legal value.

diffusers declares none of these rules: it rounds, ignores or computes NaN without a message, as
`tests/ltx2/test_rules.py` shows for each. The first stage checks them before anything runs. `_size_rules` has those of
size, and `_limits` the bounds that the model sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift
from PIL import Image

from reslab.ltx2._checkpoint._checkpoint import RELEASED_DEPTH
from reslab.ltx2._legal_numbers import is_count, is_number, is_whole, nearest_legal
from reslab.ltx2._pipeline._limits import MAX_STEPS, Limits
from reslab.ltx2._pipeline._size_rules import SIZE_RULES, Rule, require, size_of, tokens_of
from reslab.ltx2._variants import variant

MAX_SEED = 2**64 - 1  # torch.Generator.manual_seed
MAX_CRF = 51  # H.264 with 8 bits a sample
_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, half of a character beyond 16 bits, as in a text that was cut


def check_request(values: Mapping[str, Any], limits: Limits) -> None:
    """Check a request; one `PipelineError` names every rule that it breaks."""
    require(RULES, values, limits)


def _schedule(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """Refuse a request whose schedule has sigmas that are not finite."""
    # The shift grows with the tokens; where it rounds every sigma to 1, stretching them divides 0 by 0.
    asked, size = values.get("num_inference_steps"), size_of(values, limits)
    steps = limits.variant.num_inference_steps if asked is None else asked
    if limits.scheduler is None or size is None or not (is_whole(steps) and 2 <= steps <= MAX_STEPS):
        return
    divisor = 2 if limits.stages == "two" else 1
    tokens = tokens_of(size[0] // divisor, size[1] // divisor, size[2])
    if not _has_sigmas(limits.scheduler, tokens, int(steps)):
        where = "the first stage" if limits.stages == "two" else "denoising"
        yield (
            f"{tokens:,} tokens in {where} shift diffusers' schedule of {steps} steps so far that its sigmas are no "
            'numbers; make the pipeline with sigma_schedule="reference", or ask for a smaller or shorter video.'
        )


def _has_sigmas(scheduler: Any, tokens: int, steps: int) -> bool:
    """Tell whether a scheduler has finite sigmas for a number of tokens and steps."""
    own, even = scheduler.config, np.linspace(1.0, 1 / steps, steps)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    shift = calculate_shift(tokens, *(own[name] for name in names)) if own.use_dynamic_shifting else None
    fresh = type(scheduler).from_config(own)
    try:
        with np.errstate(all="ignore"):
            fresh.set_timesteps(sigmas=even, mu=shift)
    except OverflowError:
        return False
    return bool(fresh.sigmas.isfinite().all())


def _tiles(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    if limits.tile is not None:
        yield (
            f"the VAE is set to tiles of {limits.tile} pixels, fewer than {limits.least.why or 'one latent'}; set it "
            "by vae.enable_tiling(tile_sample_min_width=512, tile_sample_stride_width=448), and the same for height, "
            "or by vae.disable_tiling()."
        )


def _motion(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    speed = values.get("motion_speed")
    if speed is not None and not (is_number(speed) and 0.01 <= speed <= 100):
        yield f"motion_speed={speed!r} is not a number from 0.01 to 100; real time is 1."


def _sequence_length(values: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    length = values.get("max_sequence_length")
    if length is None:
        return
    best = nearest_legal(length, limits.registers, most=limits.positions)
    if not (is_count(length) and length % limits.registers == 0):
        registers = f"the connectors' {limits.registers} registers"
        yield f"max_sequence_length={length!r} is not a multiple of {registers}{best}."
    elif length > limits.positions:
        yield f"max_sequence_length={length} is more than the {limits.positions} positions of the connectors{best}."


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
    if isinstance(image, (list, tuple)):
        yield (
            f"image is the first frame alone, got {len(image)} in a {type(image).__name__}; give one image, since no "
            "other frame or video can be held."
        )
    elif image is not None and not is_image(image):
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


RULES: tuple[Rule, ...] = (
    _prompts,
    *SIZE_RULES,
    _schedule,
    _tiles,
    _motion,
    _sequence_length,
    _stg,
    _image,
    _noise,
)


def is_image(image: Any) -> bool:
    """Tell whether a value is one RGB image: a PIL image, or a uint8 array of shape (height, width, 3)."""
    array = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8
    return array or isinstance(image, Image.Image)


def width_and_height(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """Return width and height of an image, in pixels."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
