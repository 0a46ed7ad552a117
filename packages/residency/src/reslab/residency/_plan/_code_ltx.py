"""A plan as a command line of Lightricks' ltx-pipelines, which has one switch for all models.

`--offload none | cpu | disk` streams the blocks of the text encoder and of the transformer through two slots; every
other model is loaded whole for its stage and let go. `--max-batch-size 4` runs all guidance passes in one batch,
`--quantization fp8-cast` stores the transformer's weights in 8 bits. The LoRA is merged when the refining stage is
loaded. Source: github.com/Lightricks/LTX-2, packages/ltx-pipelines (`utils/args.py`, `utils/blocks.py`, CLAUDE.md),
read on 2026-11-23; the paths that the command needs have changed between its versions, so `--help` has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from reslab.residency._plan._differences import by_sentence, in_single_stages, placed_otherwise
from reslab.residency._plan._numerics import Attention, Lora, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._placement import Kind, Placement, Until, layerwise, swap
from reslab.residency._plan._presets import LIGHTRICKS_STREAMS

if TYPE_CHECKING:
    from reslab.residency._plan._plan import Plan

TOOL = "ltx-pipelines"
_OFFLOAD = {Kind.RESIDENT: "none", Kind.SWAP: "none", Kind.LAYERWISE: "cpu", Kind.DISK: "disk"}
_RUN = ("python -m ltx_pipelines.ti2vid_two_stages", '"$@"')


def write(plan: Plan, places: Mapping[str, Placement], _are_all: bool, _device: str) -> tuple[str, list[str]]:
    """Return the command line, and in what it differs; what it is told of models and request comes as "$@"."""
    offload = _offload(places)
    options = [f"--offload {offload}"]
    if plan.numerics.weight_dtype is WeightDtype.FLOAT8:
        options.append("--quantization fp8-cast")
    if plan.numerics.pass_batching is PassBatching.BATCHED:
        options.append("--max-batch-size 4")
    lines = [f"# {', '.join(names)}: {says}" for says, names in _groups(places, offload).items()]
    return "\n".join([*lines, " \\\n    ".join((*_RUN, *options))]) + "\n", list(_differences(plan, places, offload))


def instead(name: str, offload: str) -> Placement:
    """Return what ltx-pipelines does with a component, as a placement.

    >>> instead("transformer", "cpu"), instead("vae", "cpu")
    (layerwise(until='each stage'), swap(until='each stage'))
    """
    if offload == "none" or not name.startswith(LIGHTRICKS_STREAMS):
        return swap(until=Until.EACH)
    return layerwise(until=Until.EACH) if offload == "cpu" else Placement(kind=Kind.DISK, until=Until.EACH)


def _offload(places: Mapping[str, Placement]) -> str:
    """Return the switch that comes nearest: that of the transformer, or else of the text encoder."""
    kinds = [placement.kind for name, placement in places.items() if name.startswith("transformer")]
    kinds += [placement.kind for name, placement in places.items() if name.startswith("text_encoder")]
    return _OFFLOAD[kinds[0]] if kinds else "none"


def _groups(places: Mapping[str, Placement], offload: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in places:
        near = instead(name, offload)
        whole = "loaded whole for its stage and let go"
        says = f"streams through two slots, from {near.kind}" if near.streams else whole
        groups.setdefault(says.replace("layerwise", "host memory"), []).append(name)
    return groups


def _differences(plan: Plan, places: Mapping[str, Placement], offload: str) -> Iterator[str]:
    yield from by_sentence(_placed(plan, places, offload))
    if plan.lora is Lora.DYNAMIC:
        yield "lora: the plan adds the LoRA on the fly; ltx-pipelines merges it when it loads the refining stage"
    if plan.numerics.vae_tiling is not VaeTiling.PIPELINE:
        yield f"numerics.vae_tiling: {str(plan.numerics.vae_tiling)!r} in the plan; ltx-pipelines decides by itself"
    if plan.numerics.attention is not Attention.PIPELINE:
        yield f"numerics.attention: {str(plan.numerics.attention)!r} in the plan; ltx-pipelines decides by itself"


def _placed(plan: Plan, places: Mapping[str, Placement], offload: str) -> Iterator[tuple[str, str]]:
    for name, placement in places.items():
        for sentence in placed_otherwise(placement, instead(name, offload), TOOL):
            yield name, sentence
        for sentence in in_single_stages(plan, name, TOOL):
            yield name, sentence
