"""What a person set, through whichever door, and what contradicts itself.

    user_settings(text_encoder="layerwise")                                     # keyword
    user_settings({"transformer@LTX2RefinementStage": {"prefetch": 2}})         # mapping
    user_settings(json='{"lora": "merged", "transformer.resident": 0}')         # JSON

All doors are equal: the same setting with two values is an error naming both, and so is a setting that means nothing
for the place it is given with. A default value that is written down counts as set. A setting that only one place has
implies that place: `transformer.prefetch=2` says that the transformer streams.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reslab.residency._plan._keys import PLACEMENT, Key, flatten
from reslab.residency._plan._placement import FIELDS, Kind, PlanError, Until
from reslab.stages import freeze

KEYWORD, MAPPING, JSON = "a keyword", "a mapping", "JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that a person set: its name, its value, through which door, and which setting implied it, if any."""

    key: Key
    value: Any
    door: str
    implied_by: Key | None = None

    def __str__(self) -> str:
        implied = f" (implied by {self.implied_by})" if self.implied_by else ""
        value = self.value if isinstance(self.value, (bool, int)) else str(self.value)
        return f"{self.key}={value!r} from {self.door}{implied}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold all that a person set, free of contradictions.

    >>> user_settings(transformer={"prefetch": 2})
    Settings(transformer.prefetch=2 from a keyword, transformer='layerwise' from a keyword (implied by transformer.prefetch))
    """  # noqa: E501

    items: Mapping[Key, Setting]

    def __post_init__(self) -> None:
        freeze(self)

    def __contains__(self, key: Key) -> bool:
        return key in self.items

    def __repr__(self) -> str:
        return f"Settings({', '.join(map(str, self.items.values()))})"


def user_settings(*mappings: Mapping[str, Any] | Settings, json: str | None = None, **keywords: Any) -> Settings:
    """Gather what a person set.

    >>> user_settings({"lora": "merged"}, json='{"lora": "dynamic"}')
    Traceback (most recent call last):
    reslab.residency._plan._placement.PlanError: lora='merged' from a mapping contradicts lora='dynamic' from JSON; \
leave one of them out

    Args:
        mappings: Settings by name (see `_keys`), or what this function returned before.
        json: The same as JSON.
        keywords: The same by keyword, for all names that are identifiers.

    Raises:
        PlanError: For two settings that contradict each other, naming both, or one that does not exist.
    """
    found: dict[Key, Setting] = {}
    for setting in _told(mappings, json, keywords):
        before = found.setdefault(setting.key, setting)
        if before.value != setting.value:
            raise PlanError(f"{before} contradicts {setting}; leave one of them out")
    scopes = dict.fromkeys(key.scope for key in found if key.places)
    for scope in sorted(scopes, key=lambda scope: scope[1] is not None):  # all stages first: one may go with them
        _settle(scope, found)
    return Settings(items=found)


def _told(
    mappings: tuple[Mapping[str, Any] | Settings, ...], json: str | None, keywords: Mapping[str, Any]
) -> Iterator[Setting]:
    for mapping in mappings:
        if isinstance(mapping, Settings):
            yield from (setting for setting in mapping.items.values() if setting.implied_by is None)
        else:
            yield from (Setting(key=key, value=value, door=MAPPING) for key, value in flatten(mapping))
    if json is not None:
        yield from (Setting(key=key, value=value, door=JSON) for key, value in flatten(_object(json)))
    yield from (Setting(key=key, value=value, door=KEYWORD) for key, value in flatten(keywords))


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json_module.loads(text)
    except json_module.JSONDecodeError as error:
        raise PlanError(f"the settings are no JSON: {error}") from None
    if not isinstance(value, dict):
        raise PlanError(f"the settings are a JSON object of names and values, got {type(value).__name__}")
    return value


def _settle(scope: tuple[str, str | None], found: dict[Key, Setting]) -> None:
    """See that the settings of a component and stage mean something for the place that is told or implied for them."""
    own = {key.field: setting for key, setting in found.items() if key.scope == scope}
    place = own.pop(PLACEMENT, None) or _inherited(scope, own, found)
    if place is None:
        first = next(iter(own.values()))
        key = first.key.sibling(PLACEMENT)
        found[key] = Setting(key=key, value=_simplest(own), door=first.door, implied_by=first.key)
        return
    for field, setting in own.items():
        if not _means_something(setting, place.value):
            fitting = [kind for kind in FIELDS if _means_something(setting, kind)]
            raise PlanError(
                f"{setting} contradicts {place}: {field} means nothing there; leave one of them out, or choose "
                + " or ".join(repr(str(kind)) for kind in fitting)
            )


def _inherited(
    scope: tuple[str, str | None], own: Mapping[str, Setting], found: Mapping[Key, Setting]
) -> Setting | None:
    """Return the place told for all stages, for settings of one stage that go with it."""
    component, stage = scope
    place = found.get(Key(component, None, PLACEMENT)) if stage is not None else None
    return place if place is not None and all(_means_something(each, place.value) for each in own.values()) else None


def _simplest(own: Mapping[str, Setting]) -> Kind:
    """Return the simplest place for which all of these settings mean something."""
    whole = all(_means_something(setting, Kind.SWAP) for setting in own.values())
    return Kind.SWAP if whole else Kind.LAYERWISE


def _means_something(setting: Setting, kind: Kind) -> bool:
    """Tell whether a place has this setting; a swap that stays until the end of the run would be no swap."""
    never_leaves = kind is Kind.SWAP and setting.value == Until.RUN
    return setting.key.field in FIELDS[kind] and not never_leaves
