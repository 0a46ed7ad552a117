"""A plan: what was decided, by whom and why; where every component lives follows from that.

    plan = Plan.of(user_settings(text_encoder="layerwise"))
    plan = plan.decide({"transformer": "layerwise", "transformer.resident": 30}, by="rule", why="so that it fits")
    plan.placement("transformer", "LTX2RefinementStage")
    plan                                    # in a notebook: a table with who decided and why
    Plan.from_json(plan.to_json()) == plan

A plan is only its decisions, in the grammar of `_keys`; what nobody decided has its default, which is to be resident.
What a person set is never changed: `decide` passes over it, and over anything for one stage that they set for all.

A plan as JSON and back: a list of decisions, in the grammar of `_keys`, which a person can read and write.

{"schema_version": 1, "name": "plan", "places_all": false, "decisions": [
    {"setting": "transformer.resident", "value": 30, "by": "rule", "why": "so that it fits"}]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reslab.residency._plan._code import Code, Wanted, code_for
from reslab.residency._plan._numerics import NUMERICS, Lora, Numerics
from reslab.residency._plan._placement import FIELDS, Place, Placement, PlanError
from reslab.residency._plan._settings import (
    LORA,
    NUMERIC,
    PLACEMENT,
    DecidedBy,
    Decision,
    Key,
    Settings,
    UserSetting,
    flatten,
    parse_key,
    read_value,
    user_settings,
)
from reslab.stages import FrozenDict, freeze

if TYPE_CHECKING:
    import polars as pl


_RESIDENT = Placement()


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Where every weight lives, which numerics are used, who decided it and why.

    >>> plan = Plan.of(user_settings(vae="swap")).decide({"vae": "resident", "lora": "merged"}, why="it fits")
    >>> plan.placement("vae"), plan.placement("transformer"), plan.lora
    (swap(), resident(), <Lora.MERGED: 'merged'>)

    Args:
        decisions: By their keys; `of` and `decide` make them.
        name: What the plan is called, such as the preset it came from.
        places_all: Whether it places every component of its pipeline, as a preset does; else there may be others.
    """

    decisions: Mapping[Key, Decision]
    name: str = "plan"
    places_all: bool = False

    def __post_init__(self) -> None:
        freeze(self)

    @classmethod
    def of(cls, settings: Settings | Mapping[str, Any] | None = None, *, name: str = "plan") -> Plan:
        """Return the plan in which only what a person set is decided."""
        told = settings if isinstance(settings, Settings) else user_settings(settings or {})
        decided = {
            key: Decision(key=key, value=each.value, by=DecidedBy.USER, why=_reason(each))
            for key, each in told.items.items()
        }
        return cls(decisions=decided, name=name)

    def decide(self, settings: Mapping[str, Any], *, by: str = DecidedBy.RULE, why: str) -> Plan:
        """Return the plan with these settings too, passing over everything that a person decided.

        Args:
            settings: By name, as in `_keys`; a whole `Placement` sets all that it says.
            by: "device mode", "rule" or "tuner".
            why: A sentence for people.

        Raises:
            PlanError: For a setting that does not exist.
        """
        by, decided = DecidedBy(by), dict(self.decisions)
        for key, value in flatten(settings):
            if not self.is_users(key):
                decided[key] = Decision(key=key, value=value, by=by, why=why)
        kept = {
            key: each for key, each in decided.items() if each.by is DecidedBy.USER or _means_something(key, decided)
        }
        return replace(self, decisions=kept)

    def is_users(self, key: Key | str) -> bool:
        """Tell whether a person decided this, for its stage or for all.

        >>> Plan.of({"vae": "swap"}).is_users("vae@LTX2AVDecodingStage")
        True
        """
        key = parse_key(key) if isinstance(key, str) else key
        own, general = self.decisions.get(key), self.decisions.get(key.general())
        return (own is not None and own.by is DecidedBy.USER) or (general is not None and general.by is DecidedBy.USER)

    def placement(self, component: str, stage: str | None = None) -> Placement:
        """Return where a component lives in a stage, or in all where nothing is decided for that stage alone."""
        return self._resolved.get((component, stage)) or self._resolved.get((component, None)) or _RESIDENT

    @property
    def placements(self) -> Mapping[tuple[str, str | None], Placement]:
        """Return what was decided of places, by component and stage (None: all stages)."""
        return self._resolved

    @property
    def lora(self) -> Lora:
        """Return how the distilled LoRA reaches the transformer."""
        return self._value(Key(LORA, None, LORA), Lora.DYNAMIC)

    @property
    def numerics(self) -> Numerics:
        """Return the other choices that change bits."""
        default = Numerics()
        chosen = {name: self._value(Key(NUMERIC, None, name), getattr(default, name)) for name in NUMERICS}
        return Numerics(**chosen)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits, equal for plans that do the same, whoever decided it.

        >>> Plan.of({"vae": "resident"}).fingerprint == Plan.of().fingerprint
        True
        """
        return hashlib.sha256(json.dumps(self._effects(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the plan as JSON, who decided and why included."""

        return to_json(self.decisions.values(), name=self.name, places_all=self.places_all)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            PlanError: If it is something else, or of a newer version.
        """

        decisions, name, places_all = from_json(text)
        return Plan(decisions=decisions, name=name, places_all=places_all)

    def as_code(self, tool: str, *, components: Iterable[str] | None = None, device: str = "cuda") -> Code:
        """Return the nearest settings of another tool, with all that differs; `print` it and paste.

        >>> print(Plan.of({"vae": "swap"}).as_code("diffusers", components=["vae"]))
        # differs: vae: the plan keeps it from the first stage that uses it to the last, diffusers only while it is used
        # differs: vae: the plan fetches it at the border of its stage, beside what computes, and lets it go by \
re-pointing; diffusers copies it when it is called, while nothing computes, and copies it back
        # vae: moved whole when called, copied back when the next one is
        pipe.enable_model_cpu_offload(device="cuda")
        <BLANKLINE>

        Args:
            tool: "diffusers", whose code is about a pipeline `pipe`, or "ltx-pipelines", a command line.
            components: Names of all models of the pipeline; what the plan does not place is resident. By default
                those of the plan; unless it `places_all`, the code looks for others.
            device: Where to compute, for diffusers.

        Raises:
            PlanError: For a tool that is not one of those.
        """
        placed = dict.fromkeys(component for component, _stage in self.placements)
        names = placed if components is None else dict.fromkeys((*components, *placed))
        wanted = Wanted(
            places={name: self.placement(name) for name in names},
            alone={key: each for key, each in self.placements.items() if key[1] and each != self.placement(key[0])},
            lora=self.lora,
            numerics=self.numerics,
            are_all=components is not None or self.places_all,
            device=device,
        )
        return code_for(tool, wanted)

    def table(self) -> pl.DataFrame:
        """Return a row a decision: setting, value, by, why."""
        from reslab.residency._plan._plan_table import decisions

        return decisions(self.decisions.values())

    @cached_property
    def _resolved(self) -> Mapping[tuple[str, str | None], Placement]:
        scopes = dict.fromkeys(key.scope for key in self.decisions if key.places)
        return FrozenDict({scope: self._resolve(scope) for scope in scopes})

    def _resolve(self, scope: tuple[str, str | None]) -> Placement:
        component, stage = scope
        told = self._told(component, stage)
        if PLACEMENT not in told:
            told = self._told(component, None) | told
        kind = told.pop(PLACEMENT, Place.RESIDENT)
        own = {field: value for field, value in told.items() if field in FIELDS[kind]}
        return Placement(kind=kind, **own)

    def _told(self, component: str, stage: str | None) -> dict[str, Any]:
        return {key.field: each.value for key, each in self.decisions.items() if key.scope == (component, stage)}

    def _value(self, key: Key, default: Any) -> Any:
        return self.decisions[key].value if key in self.decisions else default

    def _effects(self) -> dict[str, Any]:
        """Return what the plan does, without what is as it would be anyway."""
        places = {
            str(Key(component, stage, PLACEMENT)): placement.fields()
            for (component, stage), placement in self._resolved.items()
            if placement != (self.placement(component) if stage else Placement())
        }
        return {"placements": places, "lora": self.lora, "numerics": self.numerics.fields()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine, theirs = ((each.decisions, each.name, each.places_all) for each in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Plan({', '.join([repr(self.name), *self._summary()])})"

    def _summary(self) -> Iterator[str]:
        for (component, stage), placement in self._resolved.items():
            yield f"{Key(component, stage, PLACEMENT)}={placement!r}"
        if self.lora is not Lora.DYNAMIC:
            yield f"lora={str(self.lora)!r}"

    def _repr_html_(self) -> str:
        from reslab.residency._plan._plan_table import plan_html

        return plan_html(self.name, self.table())


def _reason(setting: UserSetting) -> str:
    if setting.implied_by:
        return f"{setting.implied_by} was set, which means nothing elsewhere"
    return f"set through {setting.door}"


def _means_something(key: Key, decided: Mapping[Key, Decision]) -> bool:
    """Tell whether a setting still means something for the place that is decided for its component and stage."""
    if not key.places or key.field == PLACEMENT:
        return True
    place = decided.get(key.sibling(PLACEMENT)) or decided.get(key.general().sibling(PLACEMENT))
    return key.field in FIELDS[place.value if place else Place.RESIDENT]


#: Raised when a name changes its meaning; plans of a newer version are refused.
SCHEMA_VERSION = 1


def to_json(decisions: Iterable[Decision], *, name: str, places_all: bool) -> str:
    """Return the fields of a plan as JSON, who decided and why included."""
    rows = [{"setting": str(each.key), "value": each.value, "by": each.by, "why": each.why} for each in decisions]
    head = {"schema_version": SCHEMA_VERSION, "name": name, "places_all": places_all}
    return json.dumps({**head, "decisions": rows}, indent=2)


def from_json(text: str) -> tuple[dict[Key, Decision], str, bool]:
    """Read the decisions of a plan, its name, and whether it places all components.

    Raises:
        PlanError: It is no plan, or one of a newer version.
    """
    content = _content(text)
    decided = [_decision(row) for row in content["decisions"]]
    # plans of reslab-residency 0.1.0 do not say it
    return {each.key: each for each in decided}, content["name"], content.get("places_all", False)


def _decision(row: dict[str, Any]) -> Decision:
    if {"setting", "value", "by", "why"} - row.keys() or row["by"] not in list(DecidedBy):
        raise PlanError(f"a decision has a setting, a value, by (one of {[*map(str, DecidedBy)]}) and why; got {row}")
    key = parse_key(row["setting"])
    return Decision(key=key, value=read_value(key, row["value"]), by=DecidedBy(row["by"]), why=row["why"])


def _content(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(f"this is no plan: not JSON ({error})") from None
    if not isinstance(content, dict) or {"schema_version", "name", "decisions"} - content.keys():
        raise PlanError("this is JSON, but no plan that Plan.to_json wrote")
    if content["schema_version"] != SCHEMA_VERSION:
        raise PlanError(
            f"the plan has schema version {content['schema_version']}, but this reslab-residency reads version "
            f"{SCHEMA_VERSION}; install the one that wrote it, or a newer one"
        )
    return content
