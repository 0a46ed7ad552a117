"""Where the weights of one component live while a stage runs.

Four places, and what each can be told:

    resident     all of it on the device, from `apply` to the end
    swap         all of it on the device for its stages, brought from host memory, put away by re-pointing
    layerwise    blocks stream from host memory through a few slots; what lies outside the blocks, and as many blocks
                 as `resident` says, stay
    disk         as layerwise, but from disk, through a bounded window of host memory

    layerwise(resident=12, prefetch=2)      # blocks 0, 4, 8 … 44 of 48 stay; three slots for the others
    swap(prefetch_stages=1)                 # copied while the stage before computes, if there is room for both

`until` says how long that which does not stream is kept. `granularity` and `copy_back` describe what other tools do;
our own rules never set them, and nothing of ours executes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from reslab.stages import Described


class PlanError(ValueError):
    """A plan cannot be made or carried out as it was asked for; nothing was moved."""


class Place(Described):
    """The four places.

    >>> Place("swap").doc
    'On the device for the stages that use it, brought from host memory.'
    """

    RESIDENT = "resident", "On the device from beginning to end."
    SWAP = "swap", "On the device for the stages that use it, brought from host memory."
    LAYERWISE = "layerwise", "Blocks stream from host memory through a few slots on the device."
    DISK = "disk", "Blocks stream from disk through a bounded window of host memory."


class ResidentLayout(Described):
    """Which blocks stay where only some do."""

    STRIDED = "strided", "Evenly spread, so that copies of the others hide behind compute everywhere."
    LEADING = "leading", "The first ones."


class Until(Described):
    """How long a component keeps what it has on the device without streaming."""

    RUN = "run", "From the beginning of the run to its end."
    LAST = "last stage", "From the first stage that uses the component to the last, so nothing is moved twice."
    EACH = "each stage", "Only in stages that use the component; it is moved again for the next one."


class Granularity(Described):
    """What is moved as one piece; all but "block" only describe other tools."""

    BLOCK = "block", "Blocks stream; what lies outside of them stays."
    GROUP = "group", "Blocks stream, and what lies outside of them is moved for every call too."
    LEAF = "leaf", "Every single layer is moved for its turn, and so is everything else."


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Say where one component lives; `resident()`, `swap()`, `layerwise()` and `disk()` make one.

    >>> layerwise(resident=12).fields()
    {'placement': 'layerwise', 'resident': 12, 'layout': 'strided', 'prefetch': 1, 'until': 'last stage'}

    Args:
        kind: One of the four places.
        resident: Blocks that stay on the device, of layerwise and disk.
        layout: Which ones, "strided" or "leading".
        prefetch: Blocks that are fetched ahead of the one that computes; there is one slot more than that.
        prefetch_stages: Of a swap, how many stages ahead it is fetched, counting those that call a component: 0 fetches
            it at the border of its own, 1 behind the last copy that the stage before needs itself. From there on it
            takes its place on the device, so nothing sets this by itself: it is worth it where there is room.
        until: How long what does not stream is kept.
        granularity: What moves as one piece.
        copy_back: Whether weights are copied to the host when they leave, though they cannot have changed.

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
        """Tell whether blocks stream through slots."""
        return self.kind in (Place.LAYERWISE, Place.DISK)

    @property
    def slots(self) -> int:
        """Return how many blocks can be on the device besides those that stay: the computing one and those ahead."""
        return self.prefetch + 1 if self.streams else 0

    def resident_blocks(self, count: int) -> frozenset[int]:
        """Return which of `count` blocks stay on the device.

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
        """Return the settings that mean something for this kind; those that are seldom set, where they are."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        own = {"placement": self.kind} | {name: values[name] for name in FIELDS[self.kind] if name not in SELDOM}
        other = {name: values[name] for name in SELDOM if name in FIELDS[self.kind] and values[name] != SELDOM[name]}
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in (own | other).items()}

    def __repr__(self) -> str:
        told = {name: value for name, value in self.fields().items() if value != _DEFAULTS.get(name)}
        del told["placement"]
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in told.items())})"


#: Which settings mean something for which kind, with the type that reads them.
_STREAMING: Mapping[str, Any] = {
    "resident": int,
    "layout": ResidentLayout,
    "prefetch": int,
    "until": Until,
    "granularity": Granularity,
    "copy_back": bool,
}
FIELDS: Mapping[Place, Mapping[str, Any]] = {
    Place.RESIDENT: {},
    Place.SWAP: {"until": Until, "prefetch_stages": int, "copy_back": bool},
    Place.LAYERWISE: _STREAMING,
    Place.DISK: _STREAMING,
}
#: Settings that describe other tools, or need room that is seldom there, and their value otherwise.
SELDOM: Mapping[str, Any] = {"prefetch_stages": 0, "granularity": Granularity.BLOCK, "copy_back": False}
#: Settings that count something, and what.
COUNTED: Mapping[str, str] = {"resident": "blocks", "prefetch": "blocks", "prefetch_stages": "stages"}
_DEFAULTS = {field.name: field.default for field in fields(Placement)}


def resident() -> Placement:
    """Keep all of a component on the device from beginning to end."""
    return Placement()


def swap(*, until: Until | str = Until.LAST, prefetch_stages: int = 0) -> Placement:
    """Have all of a component on the device for its stages: until "last stage", or in "each stage" alone.

    With `prefetch_stages=1` its copy is made while the stage before computes; see `Placement`.
    """
    return Placement(kind=Place.SWAP, until=Until(until), prefetch_stages=prefetch_stages)


def layerwise(
    *,
    resident: int = 0,
    layout: ResidentLayout | str = ResidentLayout.STRIDED,
    prefetch: int = 1,
    until: Until | str = Until.LAST,
) -> Placement:
    """Stream blocks from host memory, while `resident` of them stay; arguments as in `Placement`."""
    return Placement(
        kind=Place.LAYERWISE, resident=resident, layout=ResidentLayout(layout), prefetch=prefetch, until=Until(until)
    )


def disk(*, resident: int = 0, layout: ResidentLayout | str = ResidentLayout.STRIDED, prefetch: int = 1) -> Placement:
    """Stream blocks from disk, while `resident` of them stay on the device; arguments as in `Placement`."""
    return Placement(kind=Place.DISK, resident=resident, layout=ResidentLayout(layout), prefetch=prefetch)


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
