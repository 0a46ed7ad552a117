"""Which sizes are legal and which rehearsals ship, known without torch: a size that cannot be had is answered at once.

    check_size(variant("LTX-2.3"), "two", height=720)            # ValueError: nearest legal, and nearest that ships
    nearest_shipped(variant("LTX-2.3"), (1280, 720, 121))        # (1280, 704, 121)

The rules are those of `_size_rules`, which a pipeline checks before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from typing import Any

from reslab.ltx2._pipeline import _size_rules
from reslab.ltx2._pipeline._numbers import is_number
from reslab.ltx2._variants import Variant
from reslab.stages import PipelineError

Size = tuple[int, int, int]
FOLDER = "_rehearsals"


def file_name(chosen: Variant, size: Size) -> str:
    """Return the name of the file in which the rehearsal of a variant at a size ships, if it does."""
    return f"{_stem(chosen)}{'x'.join(map(str, size))}.parquet"


def shipped_sizes(chosen: Variant) -> list[Size]:
    """Return width, height and frames of the rehearsals of a variant that ship, the smallest first."""
    names = [path.name for path in resources.files("reslab.ltx2").joinpath(FOLDER).iterdir()]
    own = [
        name.removeprefix(_stem(chosen)).removesuffix(".parquet") for name in names if name.startswith(_stem(chosen))
    ]
    sizes = [tuple(map(int, axes)) for axes in (name.split("x") for name in own) if len(axes) == 3]
    return sorted(((width, height, frames) for width, height, frames in sizes), key=math.prod)


def nearest_shipped(chosen: Variant, size: tuple[float, ...]) -> Size | None:
    """Return the shipped size whose pixels, shape and length are nearest; None where no rehearsal of it ships."""

    def distance(other: Size) -> float:
        ratios = [math.log(mine / theirs) for mine, theirs in zip(size, other, strict=True)]
        return math.hypot(*ratios)

    return min(shipped_sizes(chosen), key=distance, default=None)


def check_size(chosen: Variant, stages: str, **asked: Any) -> None:
    """Raise one `PipelineError` for a size that the model does not have: nearest legal, nearest that ships.

    Args:
        chosen: The variant.
        stages: "two" or "one".
        **asked: width, height, num_frames, num_inference_steps; None for the variant's own.
    """
    try:
        _size_rules.check_size(chosen, stages, **asked)
    except PipelineError as error:
        width, height = chosen.size(stages)
        usual = {"width": width, "height": height, "num_frames": chosen.num_frames}
        size = tuple(default if asked.get(name) is None else asked[name] for name, default in usual.items())
        raise PipelineError(" ".join([str(error), *_ships(chosen, size)])) from None


def check_torch(chosen: Variant, size: Size, *, plain: bool) -> None:
    """Raise one `PipelineError` where a rehearsal has to be made and there is no torch to make it with.

    Args:
        chosen: The variant.
        size: Width, height and frames.
        plain: Whether it is asked for with the settings that ship.
    """
    if find_spec("torch") is None or find_spec("diffusers") is None:
        what = "×".join(map(str, size)) if plain else "with these settings"
        problem = f"no rehearsal of {chosen.name} {what} ships, and making one needs torch and diffusers."
        raise PipelineError(" ".join([problem, *_ships(chosen, size)]))


def _ships(chosen: Variant, size: tuple[Any, ...]) -> Iterator[str]:
    """Yield which size ships: the nearest to a size of positive numbers, the smallest to anything else."""
    plain = all(is_number(axis) and axis > 0 for axis in size)
    near = nearest_shipped(chosen, size) if plain else next(iter(shipped_sizes(chosen)), None)
    if near is not None:
        width, height, frames = near
        yield f"The nearest that ships is width={width}, height={height}, num_frames={frames}."


def _stem(chosen: Variant) -> str:
    return f"{chosen.name.lower().replace(' ', '-')}_"
