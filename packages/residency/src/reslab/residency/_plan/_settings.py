"""Settings of a plan: their grammar, the decisions that hold them, and what the user set.

One grammar serves keywords, mappings, JSON, tables and errors. `help(residency.Plan)` shows it, written by `_plan_help`
from the enums and `FIELDS`; `parse_key` and `read_value` are its parser.

    user_settings(text_encoder="layerwise")                                     # keyword
    user_settings({"transformer@LTX2RefinementStage": {"prefetch": 2}})         # mapping
    user_settings(json='{"lora": "merged", "transformer.resident": 0}')         # JSON

The three sources are equal: a setting with two values is an error that names both, and so is a setting that does not
apply to the place given with it. A default value that the user writes down counts as set. A setting that only some
places have implies the simplest of them: `transformer.prefetch=2` makes the transformer layerwise.

A `Decision` is one setting with its value, who decided it and why; `_plan` makes plans of decisions.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from reslab.residency._plan._numerics import NUMERICS, Lora
from reslab.residency._plan._placement import COUNTED, FIELDS, Place, Placement, PlanError, Until
from reslab.stages.support import Described, freeze, nearest

LORA, NUMERIC, PLACEMENT = "lora", "numerics", "placement"
#: Settings of a component, each with the type that reads it.
COMPONENT_FIELDS: Mapping[str, Any] = {PLACEMENT: Place, **FIELDS[Place.LAYERWISE], **FIELDS[Place.SWAP]}


class Key(NamedTuple):
    """The parts of a setting's name: `subject` is a component, "lora" or "numerics"; `stage` None means all stages."""

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
        """Return whether the setting is about where a component lives."""
        return self.subject not in (LORA, NUMERIC)

    def sibling(self, field: str) -> Key:
        """Return the key of another setting of the same component and stage."""
        return Key(self.subject, self.stage, field)

    def general(self) -> Key:
        """Return the key of the same setting for all stages."""
        return Key(self.subject, None, self.field)


@lru_cache(maxsize=4096)
def parse_key(text: str) -> Key:
    """Split a setting's name into its parts.

    >>> parse_key("transformer@LTX2RefinementStage.prefetch")
    Key(subject='transformer', stage='LTX2RefinementStage', field='prefetch')

    Raises:
        PlanError: The text is outside the grammar; the error names the nearest setting.
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
    """Yield each setting of a mapping; its values may be nested mappings or placements."""
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
    """Convert a setting's value to its type.

    >>> read_value(parse_key("transformer"), "swap")
    <Place.SWAP: 'swap'>

    Raises:
        PlanError: The setting does not have this value.
    """
    kind = _types(key.subject)[key.field]
    if issubclass(kind, Described):
        return kind.of(value, str(key), error=PlanError)
    if type(value) is not kind:
        raise PlanError(f"{key} is {'true or false' if kind is bool else 'a whole number'}; got {value!r}")
    if kind is int and value < 0:
        raise PlanError(f"{key} counts {COUNTED[key.field]}, from 0 up; got {value!r}")
    return value


def _types(subject: str) -> Mapping[str, Any]:
    """Return the settings of a subject, each with the type that reads it."""
    return {LORA: {LORA: Lora}, NUMERIC: NUMERICS}.get(subject, COMPONENT_FIELDS)


class DecidedBy(Described):
    """Who decided a setting."""

    USER = "user", "The user set it, so nothing changes it."
    DEVICE_MODE = "device mode", "A device mode of the model decided it."
    RULE = "rule", "A rule or a preset decided it."
    TUNER = "tuner", "A search found it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One setting of a plan: its value, who decided it, and why in a sentence."""

    key: Key
    value: Any
    by: DecidedBy
    why: str

    @property
    def text(self) -> str:
        """Return the value as text."""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)

    def __str__(self) -> str:
        return f"{self.key}={self.text!r} ({self.by}: {self.why})"


KEYWORD, MAPPING, JSON = "a keyword", "a mapping", "JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSetting:
    """One setting that the user set: its key, its value, its source, and the setting that implied it, if any."""

    key: Key
    value: Any
    source: str
    implied_by: Key | None = None

    def __str__(self) -> str:
        implied = f" (implied by {self.implied_by})" if self.implied_by else ""
        value = self.value if isinstance(self.value, (bool, int)) else str(self.value)
        return f"{self.key}={value!r} from {self.source}{implied}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings that the user set, free of contradictions.

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
    """Gather the settings that the user set; `help(residency.Plan)` lists them.

    >>> user_settings({"lora": "merged"}, json='{"lora": "dynamic"}')
    Traceback (most recent call last):
    reslab.residency._plan._placement.PlanError: lora='merged' from a mapping contradicts lora='dynamic' from JSON; \
leave one of them out

    Args:
        mappings: Settings by name, or the result of an earlier call.
        json: Settings as a JSON object.
        keywords: Settings by keyword, for names that are identifiers.

    Raises:
        PlanError: Two settings contradict each other, and the error names both; or a setting does not exist.
    """
    found: dict[Key, UserSetting] = {}
    for setting in _given(mappings, json, keywords):
        before = found.setdefault(setting.key, setting)
        if before.value != setting.value:
            raise PlanError(f"{before} contradicts {setting}; leave one of them out")
    scopes = dict.fromkeys(key.scope for key in found if key.places)
    # settings for all stages first: those of one stage may share their place
    for scope in sorted(scopes, key=lambda scope: scope[1] is not None):
        _settle(scope, found)
    return Settings(items=found)


def _given(
    mappings: tuple[Mapping[str, Any] | Settings, ...], json: str | None, keywords: Mapping[str, Any]
) -> Iterator[UserSetting]:
    for mapping in mappings:
        if isinstance(mapping, Settings):
            yield from (setting for setting in mapping.items.values() if setting.implied_by is None)
        else:
            yield from (UserSetting(key=key, value=value, source=MAPPING) for key, value in flatten(mapping))
    if json is not None:
        yield from (UserSetting(key=key, value=value, source=JSON) for key, value in flatten(_object(json)))
    yield from (UserSetting(key=key, value=value, source=KEYWORD) for key, value in flatten(keywords))


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json_module.loads(text)
    except json_module.JSONDecodeError as error:
        raise PlanError(f"the settings are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PlanError(f"settings in JSON are an object of names and values, got {type(value).__name__}")
    return value


def _settle(scope: tuple[str, str | None], found: dict[Key, UserSetting]) -> None:
    """Check that every setting of a scope applies to its place, which is given or implied."""
    own = {key.field: setting for key, setting in found.items() if key.scope == scope}
    place = own.pop(PLACEMENT, None) or _inherited(scope, own, found)
    if place is None:
        first = next(iter(own.values()))
        key = first.key.sibling(PLACEMENT)
        found[key] = UserSetting(key=key, value=_simplest(own), source=first.source, implied_by=first.key)
        return
    for field, setting in own.items():
        if not _applies(setting, place.value):
            fitting = [kind for kind in FIELDS if _applies(setting, kind)]
            raise PlanError(
                f"{setting} contradicts {place}: {field} does not apply there; leave one of them out, or choose "
                + " or ".join(repr(str(kind)) for kind in fitting)
            )


def _inherited(
    scope: tuple[str, str | None], own: Mapping[str, UserSetting], found: Mapping[Key, UserSetting]
) -> UserSetting | None:
    """Return the place given for all stages, if every setting of this one stage applies to it."""
    component, stage = scope
    place = found.get(Key(component, None, PLACEMENT)) if stage is not None else None
    return place if place is not None and all(_applies(each, place.value) for each in own.values()) else None


def _simplest(own: Mapping[str, UserSetting]) -> Place:
    """Return the simplest place to which all of these settings apply."""
    whole = all(_applies(setting, Place.SWAP) for setting in own.values())
    return Place.SWAP if whole else Place.LAYERWISE


def _applies(setting: UserSetting, kind: Place) -> bool:
    """Return whether a place has this setting with this value."""
    # a swap that stays until the end of the run is resident
    never_leaves = kind is Place.SWAP and setting.value == Until.RUN
    return setting.key.field in FIELDS[kind] and not never_leaves
