"""Differences between the placement that a plan wants and the nearest one of another tool, in sentences.

    list(placed_otherwise(layerwise(resident=2), layerwise(), "diffusers"))

Each tool's module describes the effect of its calls as placements, and passes them here with those of the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reslab.residency._plan._code import Wanted
from reslab.residency._plan._placement import Granularity, Place, Placement, Until

_DOES = {
    Place.RESIDENT: "stays on the device",
    Place.SWAP: "is moved whole for what uses it",
    Place.LAYERWISE: "streams from host memory",
    Place.DISK: "streams from disk",
}
_UNTIL = {
    Until.RUN: "for the whole run",
    Until.LAST: "from the first stage that uses it to the last",
    Until.EACH: "only while it is used",
}
_MOVED = {
    Granularity.BLOCK: "keeps weights outside the blocks on the device",
    Granularity.GROUP: "moves weights outside the blocks for every call",
    Granularity.LEAF: "moves every layer by itself",
}


def placed_otherwise(wanted: Placement, near: Placement, tool: str) -> Iterator[str]:
    """Yield a sentence for each difference between a plan's placement and the nearest one of a tool.

    >>> from reslab.residency import layerwise, swap
    >>> list(placed_otherwise(layerwise(resident=2), layerwise(), "this tool"))
    ['the plan keeps 2 blocks (strided) on the device, this tool none']
    """
    if wanted.kind is not near.kind:
        yield f"{wanted!r} in the plan; with {tool} it {_DOES[near.kind]}"
        return
    if wanted.resident != near.resident:
        yield f"the plan keeps {wanted.resident} blocks ({wanted.layout}) on the device, {tool} none"
    if wanted.streams and wanted.prefetch != near.prefetch:
        yield f"the plan fetches {wanted.prefetch} blocks ahead, {tool} {near.prefetch}"
    if wanted.prefetch_stages != near.prefetch_stages:
        yield f"the plan fetches it {wanted.prefetch_stages} stages ahead of its own, {tool} {near.prefetch_stages}"
    if wanted.until is not near.until:
        kept = "weights that do not stream" if wanted.streams else "it"
        yield f"the plan keeps {kept} {_UNTIL[wanted.until]}, {tool} {_UNTIL[near.until]}"
    if wanted.granularity is not near.granularity:
        yield f"the plan {_MOVED[wanted.granularity]}, {tool} {_MOVED[near.granularity]}"
    if wanted.copy_back != near.copy_back:
        yield _copied_back(wanted, tool)


def _copied_back(wanted: Placement, tool: str) -> str:
    if wanted.copy_back:
        return f"the plan copies weights back to the host, {tool} releases them"
    if wanted.kind is Place.SWAP:
        return (
            "the plan fetches it at the border of its stage, while other components compute, and releases it by "
            "re-pointing; "
            f"{tool} copies it when it is called, while nothing computes, and copies it back"
        )
    return f"the plan releases weights by re-pointing, {tool} copies them back to the host"


def in_single_stages(wanted: Wanted, name: str, tool: str) -> Iterator[str]:
    """Yield a sentence for each placement of a component in one stage alone, which no tool has."""
    for (component, stage), placement in wanted.alone.items():
        if component == name:
            yield f"{placement!r} in {stage} alone; {tool} has one place for a component in all stages"


def by_sentence(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return each sentence once, after the names of the components that it concerns.

    >>> by_sentence([("vae", "it moves"), ("connectors", "it moves")])
    ['vae, connectors: it moves']
    """
    names: dict[str, list[str]] = {}
    for name, sentence in found:
        names.setdefault(sentence, []).append(name)
    return [f"{', '.join(each)}: {sentence}" for sentence, each in names.items()]
