"""One grammar for everything that a plan can be told, the same in keywords, mappings, JSON, tables and errors.

    transformer                        where a component lives: resident, swap, layerwise, disk
    transformer.prefetch               one of its settings; see `Placement`
    transformer@LTX2RefinementStage    the same, for one stage alone
    lora                               dynamic or merged
    numerics.vae_tiling                a choice that changes bits; see `Numerics`

A setting for one stage goes before the one for all stages; a stage with a place of its own has settings of its own.

Decisions: what a plan consists of, each with who made it and why.

What a person set, through whichever door, and what contradicts itself.

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
from enum import EnumType
from functools import lru_cache
from typing import Any, NamedTuple

from reslab.residency._plan._numerics import NUMERICS, Lora
from reslab.residency._plan._placement import COUNTED, FIELDS, Place, Placement, PlanError, Until
from reslab.stages import Described, freeze, nearest

LORA, NUMERIC, PLACEMENT = "lora", "numerics", "placement"
#: What can be told of a component, with the type that reads it.
COMPONENT_FIELDS: Mapping[str, Any] = {PLACEMENT: Place, **FIELDS[Place.LAYERWISE], **FIELDS[Place.SWAP]}


class Key(NamedTuple):
    """A setting's name, taken apart: `subject` is a component, "lora" or "numerics"; `stage` None means all stages."""

    subject: str
    stage: str | None
    field: str

    def __str__(self) -> str:
        scope = self.subject if self.stage is None else f"{self.subject}@{self.stage}"
        return scope if self.field in (PLACEMENT, LORA) else f"{scope}.{self.field}"

    @property
    def scope(self) -> tuple[str, str | None]:
        """Return component and stage."""
        return self.subject, self.stage

    @property
    def places(self) -> bool:
        """Tell whether it is about a component's place."""
        return self.subject not in (LORA, NUMERIC)

    def sibling(self, field: str) -> Key:
        """Return the key of another setting of the same component and stage."""
        return Key(self.subject, self.stage, field)

    def general(self) -> Key:
        """Return the key of the same setting for all stages."""
        return Key(self.subject, None, self.field)


@lru_cache(maxsize=4096)
def parse_key(text: str) -> Key:
    """Take a setting's name apart.

    >>> parse_key("transformer@LTX2RefinementStage.prefetch")
    Key(subject='transformer', stage='LTX2RefinementStage', field='prefetch')

    Raises:
        PlanError: For a text outside the grammar; it names what is near.
    """
    scope, _, field = text.partition(".")
    subject, _, stage = scope.partition("@")
    known = _types(subject)
    field = field or (LORA if subject == LORA else PLACEMENT)
    if not subject or text.endswith((".", "@")) or (stage and subject in (LORA, NUMERIC)):
        raise PlanError(f"{text!r} names no setting; write for example 'transformer', 'transformer.prefetch' or 'lora'")
    if field not in known:
        raise PlanError(f"{text!r}: {subject} has no setting {field!r}; {nearest(field, known)}")
    return Key(subject, stage or None, field)


def flatten(mapping: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    """Yield each setting of a mapping, whose values may be mappings again, or whole placements."""
    for text, value in mapping.items():
        if isinstance(value, Placement):
            value = value.fields()
        if isinstance(value, Mapping):
            for field, inner in value.items():
                key = parse_key(text if field == PLACEMENT else f"{text}.{field}")
                yield key, read_value(key, inner)
        else:
            key = parse_key(text)
            yield key, read_value(key, value)


def read_value(key: Key, value: Any) -> Any:
    """Return a setting's value in its type.

    >>> read_value(parse_key("transformer"), "swap")
    <Place.SWAP: 'swap'>

    Raises:
        PlanError: For a value that the setting does not have.
    """
    kind = _types(key.subject)[key.field]
    if isinstance(kind, EnumType):
        choices = [str(member) for member in kind]  # type: ignore[var-annotated]
        if value not in choices:
            raise PlanError(f"{key} is one of {', '.join(map(repr, choices))}; got {value!r}")
        return kind(value)
    if type(value) is not kind:
        raise PlanError(f"{key} is {'true or false' if kind is bool else 'a whole number'}; got {value!r}")
    if kind is int and value < 0:
        raise PlanError(f"{key} counts {COUNTED[key.field]}, from 0 up; got {value!r}")
    return value


def _types(subject: str) -> Mapping[str, Any]:
    """Return what can be told of a subject, with the type that reads it."""
    return {LORA: {LORA: Lora}, NUMERIC: NUMERICS}.get(subject, COMPONENT_FIELDS)


class DecidedBy(Described):
    """Who decides."""

    USER = "user", "You set it, so nothing changes it."
    DEVICE_MODE = "device mode", "A device mode of the model decided it."
    RULE = "rule", "A rule or a preset decided it."
    TUNER = "tuner", "It was found by search."


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One setting of a plan: its value, who decided, and why in a sentence."""

    key: Key
    value: Any
    by: DecidedBy
    why: str

    @property
    def text(self) -> str:
        """Return the value as it is written."""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)

    def __str__(self) -> str:
        return f"{self.key}={self.text!r} ({self.by}: {self.why})"


KEYWORD, MAPPING, JSON = "a keyword", "a mapping", "JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSetting:
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

    items: Mapping[Key, UserSetting]

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
    found: dict[Key, UserSetting] = {}
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
) -> Iterator[UserSetting]:
    for mapping in mappings:
        if isinstance(mapping, Settings):
            yield from (setting for setting in mapping.items.values() if setting.implied_by is None)
        else:
            yield from (UserSetting(key=key, value=value, door=MAPPING) for key, value in flatten(mapping))
    if json is not None:
        yield from (UserSetting(key=key, value=value, door=JSON) for key, value in flatten(_object(json)))
    yield from (UserSetting(key=key, value=value, door=KEYWORD) for key, value in flatten(keywords))


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json_module.loads(text)
    except json_module.JSONDecodeError as error:
        raise PlanError(f"the settings are no JSON: {error}") from None
    if not isinstance(value, dict):
        raise PlanError(f"the settings are a JSON object of names and values, got {type(value).__name__}")
    return value


def _settle(scope: tuple[str, str | None], found: dict[Key, UserSetting]) -> None:
    """See that the settings of a component and stage mean something for the place that is told or implied for them."""
    own = {key.field: setting for key, setting in found.items() if key.scope == scope}
    place = own.pop(PLACEMENT, None) or _inherited(scope, own, found)
    if place is None:
        first = next(iter(own.values()))
        key = first.key.sibling(PLACEMENT)
        found[key] = UserSetting(key=key, value=_simplest(own), door=first.door, implied_by=first.key)
        return
    for field, setting in own.items():
        if not _means_something(setting, place.value):
            fitting = [kind for kind in FIELDS if _means_something(setting, kind)]
            raise PlanError(
                f"{setting} contradicts {place}: {field} means nothing there; leave one of them out, or choose "
                + " or ".join(repr(str(kind)) for kind in fitting)
            )


def _inherited(
    scope: tuple[str, str | None], own: Mapping[str, UserSetting], found: Mapping[Key, UserSetting]
) -> UserSetting | None:
    """Return the place told for all stages, for settings of one stage that go with it."""
    component, stage = scope
    place = found.get(Key(component, None, PLACEMENT)) if stage is not None else None
    return place if place is not None and all(_means_something(each, place.value) for each in own.values()) else None


def _simplest(own: Mapping[str, UserSetting]) -> Place:
    """Return the simplest place for which all of these settings mean something."""
    whole = all(_means_something(setting, Place.SWAP) for setting in own.values())
    return Place.SWAP if whole else Place.LAYERWISE


def _means_something(setting: UserSetting, kind: Place) -> bool:
    """Tell whether a place has this setting; a swap that stays until the end of the run would be no swap."""
    never_leaves = kind is Place.SWAP and setting.value == Until.RUN
    return setting.key.field in FIELDS[kind] and not never_leaves
