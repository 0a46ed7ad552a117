"""Rehearsals of LTX-2: those of the common sizes ship as data, any other is made.

    rehearsal("LTX-2.3 distilled", width=1536, height=1024, num_frames=121)     # read from a file: no torch needed
    rehearsal("LTX-2.3", width=1024, height=768, num_frames=97)                 # made: a few seconds

Shipped are the two-stage pipelines from text, with their default settings, at the sizes of `SIZES`. They are made by
`python lab.py rehearsals`, which takes minutes, and a test holds them to what rehearsing says.

The recipe that diffusers documents for two stages, as far as moving weights goes: the pipeline is called twice.

    work = documented_recipe(workload(rehearsal("LTX-2.3")))
    plan = preset("diffusers model offload", work)
    sum(row.fetched_bytes for row in footprint(plan, work))      # 131 GiB, where 66.6 do

The second call encodes the prompt again, so text encoder and connectors run before each of the two denoising stages
(diffusers 0.42.1, `docs/source/en/api/pipelines/ltx2.md`).

How the pipeline of a rehearsal is loaded and run, as lines of Python: what `residency.Answer.code` prints.

    loading_code(variant("LTX-2.3"), (768, 512, 121), {}, {})["load"]

The lines stand in the rehearsal's meta under "code"; they name a plan `plan`, and leave a pipeline `pipe`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from reslab.ltx2._shipped import FOLDER, check_size, check_torch, file_name
from reslab.ltx2._variants import Variant, variant, variants
from reslab.residency import Call, Rehearsal, Workload

#: Width, height and frames of the shipped rehearsals: those of published measurements, the default, and what is nearest
#: to 540p, to 720p upright and across, and to 1080p.
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
        ValueError: There is no such variant, or the size is against the rules of the model: it names the nearest, and
            the nearest that ships. Or it does not ship, and there is no torch to make it with.
    """
    chosen = variant(name)
    if stages not in ("one", "two"):
        raise ValueError(f"stages is 'one' or 'two', got {stages!r}")
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
    """Rehearse a variant at its full size, whether or not a rehearsal of it ships; arguments as of `rehearsal`."""
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
        folder: Where to.
        missing: Whether to leave those alone that are there.
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
    """Return the workload of a two-stage run in which the prompt is encoded again for the second stage.

    Args:
        workload: Of a two-stage pipeline of this package, which encodes it once.
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


#: Where residency looks for it in the meta of a rehearsal.
CODE = "code"


def loading_code(
    chosen: Variant, size: tuple[int, int, int], asked: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the lines that load a variant by a plan and make a video of a size.

    Args:
        chosen: The variant.
        size: Width, height and frames.
        asked: What else was asked of `rehearsal`: `stages`, `image`, `num_inference_steps`.
        settings: What the pipeline was composed with.
    """
    stages = asked.get("stages", "two")
    width, height, num_frames = size
    video = {"width": width, "height": height, "num_frames": num_frames}
    steps = {name: asked[name] for name in ("num_inference_steps",) if name in asked}
    request = [f"prompt={_PROMPT_LINE!r}", *(["image=image"] if asked.get("image") else []), *_arguments(video | steps)]
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


_PROMPT_LINE = "a heron over a weir"


def _arguments(given: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_text(value)}" for name, value in given.items()]


def _text(value: Any) -> str:
    """Return a value as Python; what is of this package begins with its name."""
    own = type(value).__module__.startswith("reslab.ltx2") and not isinstance(value, str)
    return f"ltx2.{value!r}" if own else repr(str(value) if isinstance(value, str) else value)
