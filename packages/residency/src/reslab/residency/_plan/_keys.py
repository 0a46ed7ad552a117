"""One grammar for everything that a plan can be told, the same in keywords, mappings, JSON, tables and errors.

    transformer                        where a component lives: resident, swap, layerwise, disk
    transformer.prefetch               one of its settings; see `Placement`
    transformer@LTX2RefinementStage    the same, for one stage alone
    lora                               dynamic or merged
    numerics.vae_tiling                a choice that changes bits; see `Numerics`

A setting for one stage goes before the one for all stages; a stage with a place of its own has settings of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import EnumType
from functools import lru_cache
from typing import Any, NamedTuple

from reslab.residency._plan._numerics import NUMERICS, Lora
from reslab.residency._plan._placement import COUNTED, FIELDS, Kind, Placement, PlanError
from reslab.stages import nearest

LORA, NUMERIC, PLACEMENT = "lora", "numerics", "placement"
#: What can be told of a component, with the type that reads it.
COMPONENT_FIELDS: Mapping[str, Any] = {PLACEMENT: Kind, **FIELDS[Kind.LAYERWISE], **FIELDS[Kind.SWAP]}


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
    <Kind.SWAP: 'swap'>

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
