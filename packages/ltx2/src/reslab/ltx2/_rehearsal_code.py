"""How the pipeline of a rehearsal is loaded and run, as lines of Python: what `residency.Answer.code` prints.

    loading_code(variant("LTX-2.3"), (768, 512, 121), {}, {})["load"]

The lines stand in the rehearsal's meta under "code"; they name a plan `plan`, and leave a pipeline `pipe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reslab.ltx2._variants import Variant

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


_PROMPT = "a heron over a weir"


def _arguments(given: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_text(value)}" for name, value in given.items()]


def _text(value: Any) -> str:
    """Return a value as Python; what is of this package begins with its name."""
    own = type(value).__module__.startswith("reslab.ltx2") and not isinstance(value, str)
    return f"ltx2.{value!r}" if own else repr(str(value) if isinstance(value, str) else value)
