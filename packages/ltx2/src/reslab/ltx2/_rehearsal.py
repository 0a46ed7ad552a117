"""Rehearsals of LTX-2: those of the common sizes ship as data, any other is made.

    rehearsal("LTX-2.3 distilled", width=1536, height=1024, num_frames=121)     # read from a file: no torch needed
    rehearsal("LTX-2.3", width=1024, height=768, num_frames=97)                 # made: a few seconds

Shipped are the two-stage pipelines from text, with their default settings, at the sizes of `SIZES`. They are made by
`python -m reslab.ltx2._rehearsal FOLDER`, and a test holds them to what rehearsing says.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from reslab.ltx2._rehearsal_code import CODE, loading_code
from reslab.ltx2._variants import Variant, variant, variants
from reslab.residency import Rehearsal

#: Width, height and frames of the shipped rehearsals: those of published measurements, the default, and two larger.
SIZES = ((768, 512, 25), (768, 512, 121), (1280, 832, 121), (1536, 1024, 121), (1920, 1088, 121))
_FOLDER = "_rehearsals"
_PROMPT = "a heron over a weir"  # prompts are padded to one length, so its words do not matter


def rehearsal(
    name: str,
    *,
    width: int | None = None,
    height: int | None = None,
    num_frames: int | None = None,
    stages: str = "two",
    image: bool = False,
    num_inference_steps: int | None = None,
    **settings: Any,
) -> Rehearsal:
    """Return the rehearsal of a variant at its full size: the shipped one, else one made now.

    >>> rehearsal("LTX-2.3 distilled", width=1536, height=1024, num_frames=121)
    Rehearsal('LTX-2.3 distilled, two stages': 18 calls, 9 of them distinct, 5.68 PFLOP, 66.60 GiB of weights)

    Args:
        name: The variant's name.
        width: Pixels; by default the variant's.
        height: Pixels; by default the variant's.
        num_frames: Frames, 8k+1; by default the variant's.
        stages: "two" or "one".
        image: Whether the video starts from an image.
        num_inference_steps: Denoising steps of the first stage; by default the variant's.
        **settings: As for `one_stage` or `two_stage`.

    Raises:
        ValueError: There is no such variant, or the size is against the rules of the model; it names the nearest.
    """
    chosen = variant(name)
    size = width or chosen.width, height or chosen.height, num_frames or chosen.num_frames
    if stages not in ("one", "two"):
        raise ValueError(f"stages is 'one' or 'two', got {stages!r}")
    shipped = resources.files("reslab.ltx2").joinpath(_FOLDER, _file(chosen, size))
    plain = stages == "two" and not image and num_inference_steps is None and not settings
    if plain and shipped.is_file():
        with resources.as_file(shipped) as path:
            found = Rehearsal.load(path)
    else:
        found = made(chosen, size, stages=stages, image=image, num_inference_steps=num_inference_steps, **settings)
    asked: dict[str, Any] = {"stages": stages} if stages != "two" else {}
    asked |= {"image": True} if image else {}
    asked |= {"num_inference_steps": num_inference_steps} if num_inference_steps is not None else {}
    return replace(found, meta={**found.meta, CODE: loading_code(chosen, size, asked, settings)})


def made(
    chosen: Variant,
    size: tuple[int, int, int],
    *,
    stages: str = "two",
    image: bool = False,
    num_inference_steps: int | None = None,
    **settings: Any,
) -> Rehearsal:
    """Rehearse a variant at its full size, whether or not a rehearsal of it ships; arguments as of `rehearsal`."""
    import numpy as np

    from reslab.ltx2._blank import blank
    from reslab.ltx2._compose import one_stage, two_stage
    from reslab.residency import rehearse

    pipe = (two_stage if stages == "two" else one_stage)(blank(chosen.name), **settings)
    width, height, num_frames = size
    request: dict[str, Any] = {"prompt": _PROMPT, "width": width, "height": height, "num_frames": num_frames}
    if image:
        request["image"] = np.zeros((height, width, 3), np.uint8)
    if num_inference_steps is not None:
        request["num_inference_steps"] = num_inference_steps
    return rehearse(pipe, **request)


def _file(chosen: Variant, size: tuple[int, int, int]) -> str:
    return f"{chosen.name.lower().replace(' ', '-')}_{'x'.join(map(str, size))}.parquet"


def _ship(folder: Path) -> None:
    """Write the shipped rehearsals."""
    for chosen in variants():
        for size in SIZES:
            made(chosen, size).save(folder / _file(chosen, size))


if __name__ == "__main__":
    _ship(Path(sys.argv[1]))
