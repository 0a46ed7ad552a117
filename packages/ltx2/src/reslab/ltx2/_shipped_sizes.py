"""The legal sizes of a video and the sizes whose rehearsals ship, both known without torch.

    check_size(variant("LTX-2.3"), "two", height=720)            # ValueError: nearest legal, and nearest shipped size
    nearest_shipped(variant("LTX-2.3"), (1280, 720, 121))        # (1280, 704, 121)

A size that cannot be rehearsed is refused at once, before torch and diffusers are imported. The rules are those of
`_pipeline/_size_rules`, which a pipeline checks before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from typing import Any

from reslab.ltx2._legal_numbers import is_number
from reslab.ltx2._pipeline import _size_rules
from reslab.ltx2._variants import Variant
from reslab.stages import PipelineError

Size = tuple[int, int, int]
FOLDER = "_rehearsals"


def file_name(chosen: Variant, size: Size) -> str:
    """Return the name that the file of a shipped rehearsal has for a variant and a size."""
    return f"{_stem(chosen)}{'x'.join(map(str, size))}.parquet"


def shipped_sizes(chosen: Variant) -> list[Size]:
    """Return width, height and frames of a variant's shipped rehearsals, the smallest first."""
    names = [path.name for path in resources.files("reslab.ltx2").joinpath(FOLDER).iterdir()]
    own = [
        name.removeprefix(_stem(chosen)).removesuffix(".parquet") for name in names if name.startswith(_stem(chosen))
    ]
    sizes = [tuple(map(int, axes)) for axes in (name.split("x") for name in own) if len(axes) == 3]
    return sorted(((width, height, frames) for width, height, frames in sizes), key=math.prod)


def nearest_shipped(chosen: Variant, size: tuple[float, ...]) -> Size | None:
    """Return the shipped size nearest in width, height and frames, by ratio; None where the variant ships none."""

    def distance(other: Size) -> float:
        ratios = [math.log(mine / theirs) for mine, theirs in zip(size, other, strict=True)]
        return math.hypot(*ratios)

    return min(shipped_sizes(chosen), key=distance, default=None)


def check_size(chosen: Variant, stages: str, **asked: Any) -> None:
    """Refuse a size that the model cannot make.

    Args:
        chosen: The variant.
        stages: "two" or "one".
        **asked: width, height, num_frames, num_inference_steps; None for the variant's own.

    Raises:
        PipelineError: The message names the nearest legal size and the nearest shipped one.
    """
    try:
        _size_rules.check_size(chosen, stages, **asked)
    except PipelineError as error:
        width, height = chosen.size(stages)
        usual = {"width": width, "height": height, "num_frames": chosen.num_frames}
        size = tuple(default if asked.get(name) is None else asked[name] for name, default in usual.items())
        raise PipelineError(" ".join([str(error), *_ships(chosen, size)])) from None


def check_torch(chosen: Variant, size: Size, *, plain: bool) -> None:
    """Check that torch and diffusers, which make a rehearsal that does not ship, are installed.

    Args:
        chosen: The variant.
        size: Width, height and frames.
        plain: Whether the rehearsal has the settings that ship.

    Raises:
        PipelineError: One of the two is missing; the message names the nearest shipped size.
    """
    if find_spec("torch") is None or find_spec("diffusers") is None:
        what = "×".join(map(str, size)) if plain else "with these settings"
        problem = f"no rehearsal of {chosen.name} {what} ships, and making one needs torch and diffusers."
        raise PipelineError(" ".join([problem, *_ships(chosen, size)]))


def _ships(chosen: Variant, size: tuple[Any, ...]) -> Iterator[str]:
    """Yield a sentence naming the nearest shipped size, or the smallest where the size is not of positive numbers."""
    plain = all(is_number(axis) and axis > 0 for axis in size)
    near = nearest_shipped(chosen, size) if plain else next(iter(shipped_sizes(chosen)), None)
    if near is not None:
        width, height, frames = near
        yield f"The nearest that ships is width={width}, height={height}, num_frames={frames}."


def _stem(chosen: Variant) -> str:
    return f"{chosen.name.lower().replace(' ', '-')}_"
