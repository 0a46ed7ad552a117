"""Presets: named plans, among them the behaviour of other tools, so that one picture can show all of them.

    preset("diffusers model offload", rehearsal)
    presets()                                            # every name with its sentence
    preset("streaming", rehearsal, device="RTX 4090")    # keeps as many blocks as that card has room for

`survey` tries the presets of `SURVEYED` in this order. Each of them has a second form in which the VAE decodes in
tiles; tiles change bits, so these forms come last. To add a preset, add a member to `PresetName` and its `Recipe` here.

Sources. diffusers 0.42.1: `DiffusionPipeline.enable_model_cpu_offload` (accelerate's CpuOffload hooks, which move a
whole model with `.to`, back as well), `hooks/group_offloading.py` (without a stream, blocks are moved back with `.to`;
with a stream, they are fetched one ahead and released), `enable_sequential_cpu_offload` (accelerate's AlignDevicesHook
moves each layer for its turn and releases it afterwards). Lightricks/LTX-2, ltx-pipelines, `--offload none`, `cpu` or
`disk`: two slots, guidance passes in one batch, weights stored as float8, the LoRA merged at load. The reference is
sglang 0.5.23; `reslab.ltx2.reference_decision` tells which of its two plans it chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reslab.residency._plan._placement import (
    Granularity,
    Place,
    Placement,
    PlanError,
    Until,
    disk,
    layerwise,
    resident,
    swap,
)
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._settings import DecidedBy, Settings
from reslab.residency._plan._workload import Workload
from reslab.stages.support import Described, nearest

#: Models whose blocks ltx-pipelines streams; it loads every other model whole for its stage.
STREAMED = ("text_encoder", "transformer")
#: Components that the reference streams layer by layer by default.
_REFERENCE_LAYERWISE = ("text_encoder", "image_encoder", "vae")
_AS_MANY = "as many blocks stay as the device has room for"
_BATCHED_FLOAT8 = {"lora": "merged", "numerics.pass_batching": "batched", "numerics.weight_dtype": "float8"}
#: Suffix of the name of a preset with which the VAE decodes in tiles.
TILED = ", decoding in tiles"


def _tiled(untiled: tuple[str, str]) -> tuple[str, str]:
    name, sentence = untiled
    return f"{name}{TILED}", f"{sentence} The VAE decodes in tiles."


_ALL_RESIDENT = "all resident", "Everything stays on the device from beginning to end."
_SWAP = "swap", "Each component is on the device from its first stage to its last, and is released by re-pointing."
_STREAMING = (
    "streaming",
    "Blocks stream from host memory, one ahead; components without blocks are on the device from their first stage to "
    "their last.",
)
_OTHERS_FROM_DISK = (
    "streaming, others from disk",
    "The blocks of one component stream from host memory, those of all others from disk.",
)
_FROM_DISK = (
    "streaming from disk",
    "Blocks stream from disk; host memory holds a window of them, and the components without blocks.",
)


class PresetName(Described):
    """The presets, each with what it does."""

    ALL_RESIDENT = _ALL_RESIDENT
    SWAP = _SWAP
    STREAMING = _STREAMING
    STREAMING_OTHERS_FROM_DISK = _OTHERS_FROM_DISK
    STREAMING_FROM_DISK = _FROM_DISK
    DIFFUSERS_MODEL_OFFLOAD = (
        "diffusers model offload",
        "Each model is moved whole when it is called, and copied back when the next one is.",
    )
    DIFFUSERS_GROUP_OFFLOAD = (
        "diffusers group offload",
        "Each block is moved before it runs and copied back after it, nothing ahead of time.",
    )
    DIFFUSERS_GROUP_OFFLOAD_STREAMED = (
        "diffusers group offload, streamed",
        "Each block is fetched while the one before it runs, and released after it.",
    )
    DIFFUSERS_SEQUENTIAL_OFFLOAD = (
        "diffusers sequential offload",
        "Each layer is moved before it runs and released after it.",
    )
    LIGHTRICKS_NONE = (
        "lightricks none",
        "Each model is loaded whole for its stage and released after it, with the LoRA merged at load.",
    )
    LIGHTRICKS_CPU = (
        "lightricks cpu",
        "Blocks of text encoder and transformer stream from pinned host memory through two slots.",
    )
    LIGHTRICKS_DISK = (
        "lightricks disk",
        "Blocks of text encoder and transformer stream from disk through two slots.",
    )
    REFERENCE_ORIGINAL = (
        "reference original",
        "One transformer on the device with the LoRA on the fly; text and image encoder and VAE layer by layer.",
    )
    REFERENCE_RESIDENT = (
        "reference resident",
        "Two transformers on the device, the second with the LoRA merged, and everything else too.",
    )
    ALL_RESIDENT_TILED = _tiled(_ALL_RESIDENT)
    SWAP_TILED = _tiled(_SWAP)
    STREAMING_TILED = _tiled(_STREAMING)
    STREAMING_OTHERS_FROM_DISK_TILED = _tiled(_OTHERS_FROM_DISK)
    STREAMING_FROM_DISK_TILED = _tiled(_FROM_DISK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a preset makes a plan.

    Args:
        place: Returns the placement of a component, given its name and number of blocks.
        other: Settings besides placements.
        own: Makes the placement of the one component that keeps `resident` blocks, for presets that keep some.
    """

    place: Callable[[str, int], Placement]
    other: Mapping[str, Any]
    own: Callable[..., Placement] | None = None


def presets() -> dict[str, str]:
    """Return the names of all presets with their sentences.

    >>> presets()["all resident"]
    'Everything stays on the device from beginning to end.'
    """
    return {str(each): each.doc for each in PresetName}


def preset_choices(name: str) -> Mapping[str, Any]:
    """Return the settings of a preset besides placements.

    Raises:
        PlanError: There is no such preset; the error names the nearest.
    """
    return _named(name)[1].other


def _named(name: str) -> tuple[PresetName, Recipe]:
    if name not in list(PresetName):
        raise PlanError(f"there is no preset {name!r}; {nearest(name, presets())}")
    found = PresetName(name)
    return found, _RECIPES[found]


def preset_plan(
    name: str,
    workload: Workload,
    settings: Settings | Mapping[str, Any] | None,
    *,
    component: str | None = None,
    kept: int | None = None,
) -> Plan:
    """Return the plan that a preset makes for the components of a workload, except for settings of the user.

    Args:
        name: The preset's name.
        workload: The workload whose components are placed.
        settings: Settings of the user.
        component: The component that keeps blocks, if the preset has one; by default `main_component`.
        kept: The number of blocks it keeps; by default none.

    Raises:
        PlanError: There is no such preset, or no such component with blocks; the error names the nearest.
    """
    named, chosen = _named(name)
    places = {each: chosen.place(each, len(size.block_bytes)) for each, size in workload.components.items()}
    main = main_component(workload, component)
    if chosen.own is not None and main is not None:
        places[main] = chosen.own()
    empty = replace(Plan.of(settings, name=str(named)), places_all=True)
    plan = empty.decide({**places, **chosen.other}, by=DecidedBy.RULE, why=f"preset: {named.doc}")
    if chosen.own is None or main is None or kept is None:
        return plan
    return plan.decide({main: chosen.own(resident=kept)}, by=DecidedBy.RULE, why=_AS_MANY)


def main_component(workload: Workload, component: str | None = None) -> str | None:
    """Return the component that keeps blocks: the named one, else "transformer", else the heaviest one with blocks.

    Returns:
        The component's name; None if no component has blocks.

    Raises:
        PlanError: The named component has no blocks or does not exist; the error names the nearest.
    """
    streams = {name: size for name, size in workload.components.items() if size.block_bytes}
    if component is not None and component not in streams:
        raise PlanError(
            f"there is no component {component!r} with blocks that could stream; {nearest(component, streams)}"
        )
    if component is not None or not streams:
        return component
    return max(streams, key=lambda name: (name == "transformer", streams[name].weight_bytes))


def keeps_blocks(name: str) -> bool:
    """Return whether a preset has one component keep as many blocks as fit."""
    return _named(name)[1].own is not None


def _everywhere(placement: Placement) -> Callable[[str, int], Placement]:
    return lambda component, blocks: placement


def _reference_original(component: str, blocks: int) -> Placement:
    return layerwise() if component in _REFERENCE_LAYERWISE else resident()


def _lightricks(kind: Place) -> Callable[[str, int], Placement]:
    whole, streamed = swap(until=Until.EACH), Placement(kind=kind, until=Until.EACH)
    return lambda component, blocks: streamed if blocks and component.startswith(STREAMED) else whole


_OWN: Mapping[PresetName, Recipe] = {
    PresetName.ALL_RESIDENT: Recipe(place=_everywhere(resident()), other={}),
    PresetName.SWAP: Recipe(place=_everywhere(swap()), other={}),
    PresetName.STREAMING: Recipe(
        place=lambda component, blocks: layerwise() if blocks else swap(), other={}, own=layerwise
    ),
    PresetName.STREAMING_OTHERS_FROM_DISK: Recipe(
        place=lambda component, blocks: disk() if blocks else swap(), other={}, own=layerwise
    ),
    PresetName.STREAMING_FROM_DISK: Recipe(
        place=lambda component, blocks: disk() if blocks else swap(), other={}, own=disk
    ),
    PresetName.DIFFUSERS_MODEL_OFFLOAD: Recipe(
        place=_everywhere(Placement(kind=Place.SWAP, until=Until.EACH, copy_back=True)), other={}
    ),
    PresetName.DIFFUSERS_GROUP_OFFLOAD: Recipe(
        place=_everywhere(
            Placement(kind=Place.LAYERWISE, prefetch=0, granularity=Granularity.GROUP, copy_back=True, until=Until.EACH)
        ),
        other={},
    ),
    PresetName.DIFFUSERS_GROUP_OFFLOAD_STREAMED: Recipe(
        place=_everywhere(Placement(kind=Place.LAYERWISE, prefetch=1, granularity=Granularity.GROUP, until=Until.EACH)),
        other={},
    ),
    PresetName.DIFFUSERS_SEQUENTIAL_OFFLOAD: Recipe(
        place=_everywhere(Placement(kind=Place.LAYERWISE, prefetch=0, granularity=Granularity.LEAF, until=Until.EACH)),
        other={},
    ),
    PresetName.LIGHTRICKS_NONE: Recipe(place=_everywhere(swap(until=Until.EACH)), other=_BATCHED_FLOAT8),
    PresetName.LIGHTRICKS_CPU: Recipe(place=_lightricks(Place.LAYERWISE), other=_BATCHED_FLOAT8),
    PresetName.LIGHTRICKS_DISK: Recipe(place=_lightricks(Place.DISK), other=_BATCHED_FLOAT8),
    PresetName.REFERENCE_ORIGINAL: Recipe(place=_reference_original, other={"lora": "dynamic"}),
    PresetName.REFERENCE_RESIDENT: Recipe(place=_everywhere(resident()), other={"lora": "merged"}),
}

#: The presets that `survey` tries, in the order of the bytes that they keep on the device.
SURVEYED = (
    PresetName.ALL_RESIDENT,
    PresetName.SWAP,
    PresetName.STREAMING,
    PresetName.STREAMING_OTHERS_FROM_DISK,
    PresetName.STREAMING_FROM_DISK,
)
_RECIPES: Mapping[PresetName, Recipe] = {
    **_OWN,
    **{PresetName(f"{name}{TILED}"): replace(_OWN[name], other={"numerics.vae_tiling": "on"}) for name in SURVEYED},
}
