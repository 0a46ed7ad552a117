"""Rehearsals of LTX-2 at full size, shipped as data for common sizes and made on request for all others.

    rehearsal("LTX-2.3 distilled", width=1536, height=1024, num_frames=121)     # read from a file: no torch needed
    rehearsal("LTX-2.3", width=1024, height=768, num_frames=97)                 # made: a few seconds
    documented_recipe(workload(rehearsal("LTX-2.3")))                           # diffusers' two calls

The shipped rehearsals are those of the two-stage pipelines from text, with default settings, at the sizes of `SIZES`.
`python lab.py rehearsals` makes them in minutes, and a test compares them with new ones.

`documented_recipe` describes the recipe that diffusers documents for two stages: it calls the pipeline twice, so text
encoder and connectors run before each of the two denoising stages and move twice (diffusers 0.42.1,
`docs/source/en/api/pipelines/ltx2.md`).

The meta of each rehearsal has, under "code", the lines of Python that load and run its pipeline;
`residency.Answer.code` prints them. The lines use a variable `plan` and define a variable `pipe`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from reslab.ltx2._choices import StageCount, choose
from reslab.ltx2._shipped_sizes import FOLDER, check_size, check_torch, file_name
from reslab.ltx2._variants import Variant, variant, variants
from reslab.residency import Call, Rehearsal, Workload

#: Width, height and frames of the shipped rehearsals: the sizes of published measurements, the default, and the sizes
#: nearest to 540p, to 720p in portrait and landscape, and to 1080p.
SIZES = (
    (768, 512, 25),
    (768, 512, 121),
    (960, 576, 121),
    (1280, 704, 121),
    (704, 1280, 121),
    (1280, 768, 121),
    (1280, 832, 121),
    (1536, 1024, 121),
    (1920, 1088, 121),
)
_PROMPT = "a heron over a weir"  # prompts are padded to one length, so its words do not matter


def rehearsal(
    name: str,
    *,
    width: int | None = None,
    height: int | None = None,
    num_frames: int | None = None,
    stages: str = StageCount.TWO,
    image: bool = False,
    num_inference_steps: int | None = None,
    **settings: Any,
) -> Rehearsal:
    """Return the rehearsal of a variant at its full size, shipped or made now.

    >>> rehearsal("LTX-2.3 distilled", width=1536, height=1024, num_frames=121)
    Rehearsal('LTX-2.3 distilled, two stages': 18 calls, 9 of them distinct, 5.68 PFLOP, 66.60 GiB of weights)

    Args:
        name: The variant's name.
        width: Pixels; by default the variant's.
        height: Pixels; by default the variant's.
        num_frames: Frames, 8k+1; by default the variant's.
        stages: "two" or "one"; see `StageCount`.
        image: Whether the video starts from an image.
        num_inference_steps: Denoising steps of the first stage; by default the variant's.
        **settings: The settings of `one_stage` or `two_stage`.

    Raises:
        ValueError: The variant or the number of stages is unknown; the model cannot make the size, and the message
            names the nearest legal size and the nearest shipped one; or the rehearsal does not ship and torch, which
            is needed to make it, is missing.
    """
    chosen = variant(name)
    stages = choose(StageCount, "number of stages", stages)
    given = {"width": width, "height": height, "num_frames": num_frames, "num_inference_steps": num_inference_steps}
    check_size(chosen, stages, **given)  # before torch and diffusers are imported, which takes many seconds
    usual_width, usual_height = chosen.size(stages)
    size = int(width or usual_width), int(height or usual_height), int(num_frames or chosen.num_frames)
    shipped = resources.files("reslab.ltx2").joinpath(FOLDER, file_name(chosen, size))
    plain = stages == "two" and not image and num_inference_steps is None and not settings
    if plain and shipped.is_file():
        with resources.as_file(shipped) as path:
            found = Rehearsal.load(path)
    else:
        check_torch(chosen, size, plain=plain)
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
    """Rehearse a variant at its full size, even where its rehearsal ships; takes the arguments of `rehearsal`."""
    import numpy as np

    from reslab.ltx2._checkpoint._blank import blank
    from reslab.ltx2._pipeline._compose import one_stage, two_stage
    from reslab.residency import rehearse

    pipe = (two_stage if stages == "two" else one_stage)(blank(chosen.name), **settings)
    width, height, num_frames = size
    request: dict[str, Any] = {"prompt": _PROMPT, "width": width, "height": height, "num_frames": num_frames}
    if image:
        request["image"] = np.zeros((height, width, 3), np.uint8)
    if num_inference_steps is not None:
        request["num_inference_steps"] = num_inference_steps
    return rehearse(pipe, **request)


def ship(folder: Path, *, missing: bool = False) -> None:
    """Write the shipped rehearsals.

    Args:
        folder: The folder to write to.
        missing: Whether to write only those that are missing.
    """
    for chosen in variants():
        for size in SIZES:
            path = folder / file_name(chosen, size)
            if not (missing and path.exists()):
                made(chosen, size).save(path)


if __name__ == "__main__":
    with resources.as_file(resources.files("reslab.ltx2").joinpath(FOLDER)) as own:
        ship(own, missing="--missing" in sys.argv[1:])


PROMPT = ("TextEncodingStage", "LTX2TextConnectorStage")
REFINE = "LTX2RefinementStage"
AGAIN = "{} (second call)"


def documented_recipe(workload: Workload) -> Workload:
    """Return the workload of a two-stage run that encodes the prompt again for the second stage.

    Args:
        workload: The workload of a two-stage pipeline of this package, which encodes the prompt once.
    """
    again = tuple(AGAIN.format(stage) for stage in PROMPT)
    place = workload.stages.index(REFINE)
    stages = (*workload.stages[:place], *again, *workload.stages[place:])
    repeated = {AGAIN.format(stage): workload.activations.get(stage, 0) for stage in PROMPT}
    return Workload(
        components=workload.components,
        stages=stages,
        calls=tuple(sorted(_calls(workload), key=lambda call: stages.index(call.stage))),
        activations={**workload.activations, **repeated},
    )


def _calls(workload: Workload) -> Iterator[Call]:
    for call in workload.calls:
        yield call
        if call.stage in PROMPT:
            yield replace(call, stage=AGAIN.format(call.stage))


#: The key in a rehearsal's meta under which residency looks for the lines of code.
CODE = "code"


def loading_code(
    chosen: Variant, size: tuple[int, int, int], asked: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the lines that load a variant by a plan and make a video of a size.

    Args:
        chosen: The variant.
        size: Width, height and frames.
        asked: The arguments `stages`, `image` and `num_inference_steps` of `rehearsal`, where they were given.
        settings: The settings of the pipeline.
    """
    stages = asked.get("stages", "two")
    width, height, num_frames = size
    video = {"width": width, "height": height, "num_frames": num_frames}
    steps = {name: asked[name] for name in ("num_inference_steps",) if name in asked}
    request = [f"prompt={_PROMPT!r}", *(["image=image"] if asked.get("image") else []), *_arguments(video | steps)]
    load = [repr(chosen.hub_id), "plan=plan", *(["two_stage=False"] if stages == "one" else [])]
    rehearsed = [repr(chosen.name), *_arguments(video | dict(asked) | dict(settings))]
    lines = [
        f"checkpoint = ltx2.load({', '.join(load)})",
        f"pipe = ltx2.{stages}_stage({', '.join(['checkpoint', *_arguments(settings)])})",
    ]
    if chosen.only_rehearsed:
        lines.insert(0, f"# {chosen.name} can be rehearsed, not loaded yet")
    if asked.get("image"):
        lines.append("image = ...  # the first frame")
    return {
        "imports": "from reslab import ltx2, residency",
        "load": lines,
        "files": "checkpoint.files",
        "rehearsal": f"ltx2.rehearsal({', '.join(rehearsed)})",
        "run": f'pipe.run({", ".join(request)}).save("video.mp4")',
    }


def _arguments(given: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_text(value)}" for name, value in given.items()]


def _text(value: Any) -> str:
    """Return a value as Python code; objects of this package are prefixed with `ltx2.`."""
    own = type(value).__module__.startswith("reslab.ltx2") and not isinstance(value, str)
    return f"ltx2.{value!r}" if own else repr(str(value) if isinstance(value, str) else value)
