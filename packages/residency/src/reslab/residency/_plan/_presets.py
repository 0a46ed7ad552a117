"""Presets: named recipes for a plan, among them what other tools do, so that one picture can hold them all.

    preset("diffusers model offload", rehearsal)
    presets()                                     # every name, with its sentence
    preset("streaming", rehearsal, device="RTX 4090")    # with as many blocks kept as that card has room for

Those of `SURVEYED` are what `survey` tries, in this order; each also with the VAE decoding in tiles, which is another
choice of bits and comes last.

Sources. diffusers 0.42.1: `DiffusionPipeline.enable_model_cpu_offload` (accelerate's CpuOffload hooks, which move a
whole model with `.to`, back as well), `hooks/group_offloading.py` (without a stream blocks are moved back with `.to`,
with one they are fetched one ahead and let go), `enable_sequential_cpu_offload` (accelerate's AlignDevicesHook: leaf
by leaf, let go afterwards). Lightricks/LTX-2, ltx-pipelines, `--offload none | cpu | disk`: two slots, guidance passes
in one batch, weights stored as float8, the LoRA merged at load. The reference is sglang 0.5.23; when it chooses which
is `reslab.ltx2.reference_decision`.
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
from reslab.stages import nearest

#: Models whose blocks ltx-pipelines streams; every other one is loaded whole for its stage.
STREAMED = ("text_encoder", "transformer")
#: Components that the reference streams layer by layer unless told otherwise.
_REFERENCE_LAYERWISE = ("text_encoder", "image_encoder", "vae")
_AS_MANY = "as many blocks stay as the device has room for"
_BATCHED_FLOAT8 = {"lora": "merged", "numerics.pass_batching": "batched", "numerics.weight_dtype": "float8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A recipe: where each component goes, what else is set, and what it is in a sentence."""

    doc: str
    place: Callable[[str, int], Placement]  # of a component's name and number of blocks
    other: Mapping[str, Any]
    own: Callable[..., Placement] | None = None  # of the one component that keeps `resident` blocks, where one does


def presets() -> dict[str, str]:
    """Return the names of all presets with their sentences.

    >>> presets()["all resident"]
    'Everything on the device from beginning to end.'
    """
    return {name: each.doc for name, each in _PRESETS.items()}


def preset_choices(name: str) -> Mapping[str, Any]:
    """Return what a preset sets besides places; raises PlanError where there is no such preset, naming the nearest."""
    if name not in _PRESETS:
        raise PlanError(f"there is no preset {name!r}; {nearest(name, _PRESETS)}")
    return _PRESETS[name].other


def preset_plan(
    name: str,
    workload: Workload,
    settings: Settings | Mapping[str, Any] | None,
    *,
    component: str | None = None,
    kept: int | None = None,
) -> Plan:
    """Return the plan that a preset makes for the components of a workload, passing over what the user set.

    Args:
        name: The preset.
        workload: Whose components are placed.
        settings: What the user set.
        component: Which one keeps blocks, where the preset lets one; by default `main_component`.
        kept: How many; by default none.

    Raises:
        PlanError: There is no such component with blocks; it names the nearest.
    """
    other, chosen = preset_choices(name), _PRESETS[name]
    places = {each: chosen.place(each, len(size.block_bytes)) for each, size in workload.components.items()}
    main = main_component(workload, component)
    if chosen.own is not None and main is not None:
        places[main] = chosen.own()
    empty = replace(Plan.of(settings, name=name), places_all=True)
    plan = empty.decide({**places, **other}, by=DecidedBy.RULE, why=f"preset: {chosen.doc}")
    if chosen.own is None or main is None or kept is None:
        return plan
    return plan.decide({main: chosen.own(resident=kept)}, by=DecidedBy.RULE, why=_AS_MANY)


def main_component(workload: Workload, component: str | None = None) -> str | None:
    """Return which component keeps blocks: the named one, else "transformer", else the heaviest; None has no blocks.

    Raises:
        PlanError: The named one has no blocks, or does not exist; it names the nearest.
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
    """Tell whether a preset lets one component keep as many blocks as fit."""
    preset_choices(name)
    return _PRESETS[name].own is not None


def _everywhere(placement: Placement) -> Callable[[str, int], Placement]:
    return lambda component, blocks: placement


def _reference_original(component: str, blocks: int) -> Placement:
    return layerwise() if component in _REFERENCE_LAYERWISE else resident()


def _lightricks(kind: Place) -> Callable[[str, int], Placement]:
    whole, streamed = swap(until=Until.EACH), Placement(kind=kind, until=Until.EACH)
    return lambda component, blocks: streamed if blocks and component.startswith(STREAMED) else whole


_OWN: Mapping[str, Preset] = {
    "all resident": Preset(
        doc="Everything on the device from beginning to end.", place=_everywhere(resident()), other={}
    ),
    "swap": Preset(
        doc="Each component on the device from its first stage to its last, let go by re-pointing.",
        place=_everywhere(swap()),
        other={},
    ),
    "streaming": Preset(
        doc="Blocks stream from host memory, one ahead; what has no blocks is there from its first stage to its last.",
        place=lambda component, blocks: layerwise() if blocks else swap(),
        other={},
        own=layerwise,
    ),
    "streaming, others from disk": Preset(
        doc="The blocks of one component stream from host memory, those of all others from disk.",
        place=lambda component, blocks: disk() if blocks else swap(),
        other={},
        own=layerwise,
    ),
    "streaming from disk": Preset(
        doc="Blocks stream from disk; host memory has a window of them, and what has no blocks.",
        place=lambda component, blocks: disk() if blocks else swap(),
        other={},
        own=disk,
    ),
    "diffusers model offload": Preset(
        doc="Each model is moved whole when it is called, and copied back when the next one is.",
        place=_everywhere(Placement(kind=Place.SWAP, until=Until.EACH, copy_back=True)),
        other={},
    ),
    "diffusers group offload": Preset(
        doc="Each block is moved before it runs and copied back after it, nothing ahead of time.",
        place=_everywhere(
            Placement(kind=Place.LAYERWISE, prefetch=0, granularity=Granularity.GROUP, copy_back=True, until=Until.EACH)
        ),
        other={},
    ),
    "diffusers group offload, streamed": Preset(
        doc="Each block is fetched while the one before it runs, and let go after it.",
        place=_everywhere(Placement(kind=Place.LAYERWISE, prefetch=1, granularity=Granularity.GROUP, until=Until.EACH)),
        other={},
    ),
    "diffusers sequential offload": Preset(
        doc="Each layer is moved before it runs and let go after it.",
        place=_everywhere(Placement(kind=Place.LAYERWISE, prefetch=0, granularity=Granularity.LEAF, until=Until.EACH)),
        other={},
    ),
    "lightricks none": Preset(
        doc="Each model is loaded whole for its stage and let go, with the LoRA merged at load.",
        place=_everywhere(swap(until=Until.EACH)),
        other=_BATCHED_FLOAT8,
    ),
    "lightricks cpu": Preset(
        doc="Blocks of text encoder and transformer stream from pinned host memory through two slots.",
        place=_lightricks(Place.LAYERWISE),
        other=_BATCHED_FLOAT8,
    ),
    "lightricks disk": Preset(
        doc="Blocks of text encoder and transformer stream from disk through two slots.",
        place=_lightricks(Place.DISK),
        other=_BATCHED_FLOAT8,
    ),
    "reference original": Preset(
        doc="One transformer on the device with the LoRA on the fly; text and image encoder and VAE layer by layer.",
        place=_reference_original,
        other={"lora": "dynamic"},
    ),
    "reference resident": Preset(
        doc="Two transformers on the device, the second with the LoRA merged, and everything else too.",
        place=_everywhere(resident()),
        other={"lora": "merged"},
    ),
}

#: What `survey` tries, in the order of what they keep on the device.
SURVEYED = ("all resident", "swap", "streaming", "streaming, others from disk", "streaming from disk")
#: Ends the name of a preset with which the VAE decodes in tiles.
TILED = ", decoding in tiles"
_TILED = {
    f"{name}{TILED}": replace(
        _OWN[name], doc=f"{_OWN[name].doc} The VAE decodes in tiles.", other={"numerics.vae_tiling": "on"}
    )
    for name in SURVEYED
}
_PRESETS: Mapping[str, Preset] = {**_OWN, **_TILED}
