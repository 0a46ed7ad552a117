"""A plan as a command line of Lightricks' ltx-pipelines, which has one switch for all models.

    print(plan.as_code("ltx-pipelines"))

`--offload cpu` and `--offload disk` stream the blocks of text encoder and transformer through two slots; every other
model is loaded whole for its stage and released after it, and with `--offload none` these two are as well.
`--max-batch-size 4` runs all guidance passes in one batch, `--quantization fp8-cast` stores the transformer's weights
in 8 bits. The LoRA is merged when the refining stage is loaded.

Source: github.com/Lightricks/LTX-2, packages/ltx-pipelines (`utils/args.py`, `utils/blocks.py`, CLAUDE.md), read on
2026-11-23. The paths that the command needs have changed between versions; `--help` of the installed one lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reslab.residency._plan._code import TOOLS, Wanted
from reslab.residency._plan._numerics import Attention, Lora, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._placement import Place, Placement, Until, layerwise, swap
from reslab.residency._plan._presets import STREAMED
from reslab.residency._tools._differences import by_sentence, in_single_stages, placed_otherwise

TOOL = "ltx-pipelines"
_OFFLOAD = {Place.RESIDENT: "none", Place.SWAP: "none", Place.LAYERWISE: "cpu", Place.DISK: "disk"}
_RUN = ("python -m ltx_pipelines.ti2vid_two_stages", '"$@"')


def write(wanted: Wanted) -> tuple[str, list[str]]:
    """Return the command line and its differences to the plan; "$@" stands for the models and the request."""
    offload = _offload(wanted.places)
    options = [f"--offload {offload}"]
    if wanted.numerics.weight_dtype is WeightDtype.FLOAT8:
        options.append("--quantization fp8-cast")
    if wanted.numerics.pass_batching is PassBatching.BATCHED:
        options.append("--max-batch-size 4")
    lines = [f"# {', '.join(names)}: {says}" for says, names in _groups(wanted.places, offload).items()]
    return "\n".join([*lines, " \\\n    ".join((*_RUN, *options))]) + "\n", list(_differences(wanted, offload))


TOOLS[TOOL] = write


def instead(name: str, offload: str) -> Placement:
    """Return the effect of ltx-pipelines' switch on a component, as a placement.

    >>> instead("transformer", "cpu"), instead("vae", "cpu")
    (layerwise(until='each stage'), swap(until='each stage'))
    """
    if offload == "none" or not name.startswith(STREAMED):
        return swap(until=Until.EACH)
    return layerwise(until=Until.EACH) if offload == "cpu" else Placement(kind=Place.DISK, until=Until.EACH)


def _offload(places: Mapping[str, Placement]) -> str:
    """Return the nearest switch: that of the transformer, else that of the text encoder."""
    kinds = [placement.kind for name, placement in places.items() if name.startswith("transformer")]
    kinds += [placement.kind for name, placement in places.items() if name.startswith("text_encoder")]
    return _OFFLOAD[kinds[0]] if kinds else "none"


def _groups(places: Mapping[str, Placement], offload: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in places:
        near = instead(name, offload)
        whole = "loaded whole for its stage and released after it"
        says = f"streams through two slots, from {near.kind}" if near.streams else whole
        groups.setdefault(says.replace("layerwise", "host memory"), []).append(name)
    return groups


def _differences(wanted: Wanted, offload: str) -> Iterator[str]:
    numerics = wanted.numerics
    yield from by_sentence(_placed(wanted, offload))
    if wanted.lora is Lora.DYNAMIC:
        yield "lora: the plan adds the LoRA on the fly; ltx-pipelines merges it when it loads the refining stage"
    if numerics.vae_tiling is not VaeTiling.PIPELINE:
        yield f"numerics.vae_tiling: {str(numerics.vae_tiling)!r} in the plan; ltx-pipelines decides by itself"
    if numerics.attention is not Attention.PIPELINE:
        yield f"numerics.attention: {str(numerics.attention)!r} in the plan; ltx-pipelines decides by itself"


def _placed(wanted: Wanted, offload: str) -> Iterator[tuple[str, str]]:
    for name, placement in wanted.places.items():
        for sentence in placed_otherwise(placement, instead(name, offload), TOOL):
            yield name, sentence
        for sentence in in_single_stages(wanted, name, TOOL):
            yield name, sentence
