"""Where the weights of one component live while a stage runs.

A placement is one of four places with that place's settings:

    resident     all weights are on the device, from `apply` to the end
    swap         all weights are on the device for the component's stages; they are copied from host memory, and
                 released by re-pointing parameters to the host copy
    layerwise    blocks stream from host memory through a few slots; weights outside the blocks stay on the device, and
                 so do as many blocks as `resident` says
    disk         as layerwise, but from disk, through a bounded window of host memory

    layerwise(resident=12, prefetch=2)      # blocks 0, 4, 8 … 44 of 48 stay; three slots for the others
    swap(prefetch_stages=1)                 # copied while the stage before computes, if there is room for both

`until` says how long the weights that do not stream are kept. `granularity` and `copy_back` describe other tools: no
rule of ours sets them, and `apply` refuses them. `_settings` reads these settings from text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from reslab.stages.support import Described


class PlanError(ValueError):
    """A plan that cannot be made or carried out; nothing was moved."""


class Place(Described):
    """The places where the weights of a component can live.

    >>> Place("swap").doc
    'On the device for the stages that use it, brought from host memory.'
    """

    RESIDENT = "resident", "On the device from beginning to end."
    SWAP = "swap", "On the device for the stages that use it, brought from host memory."
    LAYERWISE = "layerwise", "Blocks stream from host memory through a few slots on the device."
    DISK = "disk", "Blocks stream from disk through a bounded window of host memory."


class ResidentLayout(Described):
    """Which blocks stay on the device when only some do."""

    STRIDED = "strided", "Evenly spread blocks, so that copies of the others hide behind compute everywhere."
    LEADING = "leading", "The first blocks."


class Until(Described):
    """How long weights that do not stream stay on the device."""

    RUN = "run", "From the beginning of the run to its end."
    LAST = "last stage", "From the first stage that uses the component to the last, so nothing is moved twice."
    EACH = "each stage", "Only in stages that use the component; each of them fetches it again."


class Granularity(Described):
    """The piece that moves at once; "group" and "leaf" only describe other tools."""

    BLOCK = "block", "Blocks stream; weights outside the blocks stay."
    GROUP = "group", "Blocks stream, and weights outside the blocks are moved for every call."
    LEAF = "leaf", "Every layer is moved by itself when its turn comes."


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one component lives; `resident()`, `swap()`, `layerwise()` and `disk()` make one.

    >>> layerwise(resident=12).fields()
    {'placement': 'layerwise', 'resident': 12, 'layout': 'strided', 'prefetch': 1, 'until': 'last stage'}

    Args:
        kind: One of the four places.
        resident: Number of blocks that stay on the device, for layerwise and disk.
        layout: Which blocks stay, "strided" or "leading".
        prefetch: Number of blocks fetched ahead of the one that computes; there is one slot more than that.
        prefetch_stages: How many stages ahead a swap is fetched, counting only stages that call a component: 0 fetches
            it at the border of its own stage, 1 behind the last copy that the stage before needs itself. The component
            then occupies the device during that earlier stage, so no rule sets this: it needs room for both.
        until: How long weights that do not stream stay on the device.
        granularity: The piece that moves at once.
        copy_back: Whether evicted weights are copied to the host, although inference does not change them.

    Raises:
        PlanError: For a number below 0, or a swap until the end of the run, which is resident.
    """

    kind: Place = Place.RESIDENT
    resident: int = 0
    layout: ResidentLayout = ResidentLayout.STRIDED
    prefetch: int = 1
    prefetch_stages: int = 0
    until: Until = Until.LAST
    granularity: Granularity = Granularity.BLOCK
    copy_back: bool = False

    def __post_init__(self) -> None:
        for name, unit in COUNTED.items():
            if not _is_count(getattr(self, name)):
                raise PlanError(f"{name} is a whole number of {unit} from 0 up, got {getattr(self, name)!r}")
        if self.kind is Place.SWAP and self.until is Until.RUN:
            raise PlanError("a swap until the end of the run never leaves: write 'resident'")

    @property
    def streams(self) -> bool:
        """Return whether blocks stream through slots."""
        return self.kind in (Place.LAYERWISE, Place.DISK)

    @property
    def slots(self) -> int:
        """Return the number of slots: one for the block that computes, and one for each block fetched ahead."""
        return self.prefetch + 1 if self.streams else 0

    def resident_blocks(self, count: int) -> frozenset[int]:
        """Return the numbers of the blocks that stay on the device, of `count` blocks.

        >>> sorted(layerwise(resident=3).resident_blocks(8)), sorted(swap().resident_blocks(8))
        ([0, 2, 5], [])
        """
        if not self.streams:
            return frozenset(range(count)) if self.kind is Place.RESIDENT else frozenset()
        kept = min(self.resident, count)
        if self.layout is ResidentLayout.LEADING:
            return frozenset(range(kept))
        return frozenset(place * count // kept for place in range(kept))

    def fields(self) -> dict[str, Any]:
        """Return the settings that apply to this place; those of `SELDOM` only where they differ from the default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        own = {"placement": self.kind} | {name: values[name] for name in FIELDS[self.kind] if name not in SELDOM}
        other = {name: values[name] for name in SELDOM if name in FIELDS[self.kind] and values[name] != SELDOM[name]}
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in (own | other).items()}

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.fields().items() if value != DEFAULTS.get(name)}
        del changed["placement"]
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


#: Settings of the places that stream, each with the type that reads it.
_STREAMING: Mapping[str, Any] = {
    "resident": int,
    "layout": ResidentLayout,
    "prefetch": int,
    "until": Until,
    "granularity": Granularity,
    "copy_back": bool,
}
#: Settings that apply to each place, each with the type that reads it.
FIELDS: Mapping[Place, Mapping[str, Any]] = {
    Place.RESIDENT: {},
    Place.SWAP: {"until": Until, "prefetch_stages": int, "copy_back": bool},
    Place.LAYERWISE: _STREAMING,
    Place.DISK: _STREAMING,
}
#: Settings that describe other tools or need room that is seldom free, each with its default.
SELDOM: Mapping[str, Any] = {"prefetch_stages": 0, "granularity": Granularity.BLOCK, "copy_back": False}
#: Settings that are counts, each with the unit that it counts.
COUNTED: Mapping[str, str] = {"resident": "blocks", "prefetch": "blocks", "prefetch_stages": "stages"}
#: The default of each field of a placement.
DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Placement)}


def resident() -> Placement:
    """Keep all of a component on the device from beginning to end."""
    return Placement()


def swap(*, until: Until | str = Until.LAST, prefetch_stages: int = 0) -> Placement:
    """Keep all of a component on the device for its stages: until the "last stage", or in "each stage" alone.

    With `prefetch_stages=1` it is copied while the stage before computes; see `Placement`.
    """
    return Placement(kind=Place.SWAP, until=Until(until), prefetch_stages=prefetch_stages)


def layerwise(
    *,
    resident: int = 0,
    layout: ResidentLayout | str = ResidentLayout.STRIDED,
    prefetch: int = 1,
    until: Until | str = Until.LAST,
) -> Placement:
    """Stream blocks from host memory while `resident` of them stay on the device; arguments as in `Placement`."""
    return Placement(
        kind=Place.LAYERWISE, resident=resident, layout=ResidentLayout(layout), prefetch=prefetch, until=Until(until)
    )


def disk(*, resident: int = 0, layout: ResidentLayout | str = ResidentLayout.STRIDED, prefetch: int = 1) -> Placement:
    """Stream blocks from disk while `resident` of them stay on the device; arguments as in `Placement`."""
    return Placement(kind=Place.DISK, resident=resident, layout=ResidentLayout(layout), prefetch=prefetch)


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
