"""A plan: the decisions about a pipeline's weights and numerics, and where every component lives by them.

    plan = Plan.of(user_settings(text_encoder="layerwise"))
    plan = plan.decide({"transformer": "layerwise", "transformer.resident": 30}, by="rule", why="so that it fits")
    plan.placement("transformer", "LTX2RefinementStage")
    plan                                    # in a notebook: a table with who decided and why
    Plan.from_json(plan.to_json()) == plan

A plan consists of its decisions alone, each under a key of `_settings`. A component without a decision is resident.
`decide` never changes a setting of the user: it skips that setting, for one stage as well if the user set it for all.

As JSON, a plan is a list of decisions that the user can read and write:

    {"schema_version": 1, "name": "plan", "places_all": false, "decisions": [
        {"setting": "transformer.resident", "value": 30, "by": "rule", "why": "so that it fits"}]}
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reslab.residency._plan._code import Code, Wanted, code_for
from reslab.residency._plan._numerics import NUMERICS, Lora, Numerics
from reslab.residency._plan._placement import FIELDS, Place, Placement, PlanError
from reslab.residency._plan._plan_help import plan_help
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
from reslab.stages.support import FrozenDict, freeze

if TYPE_CHECKING:
    import polars as pl


_RESIDENT = Placement()


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Where every weight lives and which numerics are used, with who decided it and why.

    The settings that a plan takes are listed below, and in `docs/glossary.md`.

    >>> plan = Plan.of(user_settings(vae="swap")).decide({"vae": "resident", "lora": "merged"}, why="it fits")
    >>> plan.placement("vae"), plan.placement("transformer"), plan.lora
    (swap(), resident(), <Lora.MERGED: 'merged'>)

    Args:
        decisions: The decisions by key; `of` and `decide` make them.
        name: The name of the plan, such as that of the preset it came from.
        places_all: Whether the plan places every component of its pipeline, as a preset does.
    """

    decisions: Mapping[Key, Decision]
    name: str = "plan"
    places_all: bool = False

    def __post_init__(self) -> None:
        freeze(self)

    @classmethod
    def of(cls, settings: Settings | Mapping[str, Any] | None = None, *, name: str = "plan") -> Plan:
        """Return a plan whose only decisions are settings of the user.

        Args:
            settings: Settings by name, as listed in the help of `Plan`, or the result of `user_settings`.
            name: The name of the plan.

        Raises:
            PlanError: Two settings contradict each other, or a setting does not exist.
        """
        given = settings if isinstance(settings, Settings) else user_settings(settings or {})
        decided = {
            key: Decision(key=key, value=each.value, by=DecidedBy.USER, why=_reason(each))
            for key, each in given.items.items()
        }
        return cls(decisions=decided, name=name)

    def decide(self, settings: Mapping[str, Any], *, by: str = DecidedBy.RULE, why: str) -> Plan:
        """Return the plan with these decisions added; settings of the user are skipped.

        Args:
            settings: Settings by name, as listed in the help of `Plan`; a `Placement` sets all of its fields.
            by: "device mode", "rule" or "tuner".
            why: The reason, in a sentence.

        Raises:
            PlanError: A setting does not exist.
        """
        by, decided = DecidedBy(by), dict(self.decisions)
        for key, value in flatten(settings):
            if not self.is_users(key):
                decided[key] = Decision(key=key, value=value, by=by, why=why)
        kept = {key: each for key, each in decided.items() if each.by is DecidedBy.USER or _applies(key, decided)}
        return replace(self, decisions=kept)

    def named(self, name: str) -> Plan:
        """Return the same plan under another name.

        >>> Plan.of({"vae": "swap"}).named("VAE on demand")
        Plan('VAE on demand', vae=swap())
        """
        return replace(self, name=name)

    def is_users(self, key: Key | str) -> bool:
        """Return whether the user decided this setting, for its stage or for all stages.

        >>> Plan.of({"vae": "swap"}).is_users("vae@LTX2AVDecodingStage")
        True
        """
        key = parse_key(key) if isinstance(key, str) else key
        own, general = self.decisions.get(key), self.decisions.get(key.general())
        return (own is not None and own.by is DecidedBy.USER) or (general is not None and general.by is DecidedBy.USER)

    def placement(self, component: str, stage: str | None = None) -> Placement:
        """Return where a component lives in a stage: by the decisions for that stage, else by those for all stages."""
        return self._resolved.get((component, stage)) or self._resolved.get((component, None)) or _RESIDENT

    @property
    def placements(self) -> Mapping[tuple[str, str | None], Placement]:
        """Return the decided placements by component and stage; stage None stands for all stages."""
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
        """Return 16 hexadecimal digits that are equal for plans with equal effects, whoever decided them.

        >>> Plan.of({"vae": "resident"}).fingerprint == Plan.of().fingerprint
        True
        """
        return hashlib.sha256(json.dumps(self._effects(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the plan as JSON, including who decided and why."""
        return to_json(self.decisions.values(), name=self.name, places_all=self.places_all)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan that `to_json` wrote.

        Raises:
            PlanError: The text is no plan, or one of another version.
        """
        decisions, name, places_all = from_json(text)
        return Plan(decisions=decisions, name=name, places_all=places_all)

    def as_code(self, tool: str, *, components: Iterable[str] | None = None, device: str = "cuda") -> Code:
        """Return the nearest settings of another tool and every difference, as text to print and paste.

        >>> print(Plan.of({"vae": "swap"}).as_code("diffusers", components=["vae"]))
        # differs: vae: the plan keeps it from the first stage that uses it to the last, diffusers only while it is used
        # differs: vae: the plan fetches it at the border of its stage, while other components compute, and releases \
it by re-pointing; diffusers copies it when it is called, while nothing computes, and copies it back
        # vae: moved whole when called, copied back when the next one is
        pipe.enable_model_cpu_offload(device="cuda")
        <BLANKLINE>

        Args:
            tool: "diffusers" for Python code about a pipeline `pipe`, or "ltx-pipelines" for a command line.
            components: Names of all models of the pipeline; those that the plan does not place are resident. By
                default the components of the plan; unless it `places_all`, the code looks for others.
            device: The device that computes, for diffusers.

        Raises:
            PlanError: There is no code for this tool.
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
        """Return one row per decision, with the columns setting, value, by and why."""
        from reslab.residency._plan._plan_table import decisions

        return decisions(self.decisions.values())

    @cached_property
    def _resolved(self) -> Mapping[tuple[str, str | None], Placement]:
        scopes = dict.fromkeys(key.scope for key in self.decisions if key.places)
        return FrozenDict({scope: self._resolve(scope) for scope in scopes})

    def _resolve(self, scope: tuple[str, str | None]) -> Placement:
        component, stage = scope
        decided = self._decided(component, stage)
        if PLACEMENT not in decided:  # a stage with a place of its own shares no setting with the other stages
            decided = self._decided(component, None) | decided
        kind = decided.pop(PLACEMENT, Place.RESIDENT)
        own = {field: value for field, value in decided.items() if field in FIELDS[kind]}
        return Placement(kind=kind, **own)

    def _decided(self, component: str, stage: str | None) -> dict[str, Any]:
        return {key.field: each.value for key, each in self.decisions.items() if key.scope == (component, stage)}

    def _value(self, key: Key, default: Any) -> Any:
        return self.decisions[key].value if key in self.decisions else default

    def _effects(self) -> dict[str, Any]:
        """Return the placements and numerics of the plan, without placements that equal the default."""
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


Plan.__doc__ = f"{inspect.cleandoc(Plan.__doc__ or '')}\n\n{plan_help()}"


def _reason(setting: UserSetting) -> str:
    if setting.implied_by:
        return f"{setting.implied_by} was set, which applies nowhere else"
    return f"set through {setting.source}"


def _applies(key: Key, decided: Mapping[Key, Decision]) -> bool:
    """Return whether a setting applies to the place that is decided for its component and stage."""
    if not key.places or key.field == PLACEMENT:
        return True
    place = decided.get(key.sibling(PLACEMENT)) or decided.get(key.general().sibling(PLACEMENT))
    return key.field in FIELDS[place.value if place else Place.RESIDENT]


#: Goes up when a name changes its meaning; plans of another version are refused.
SCHEMA_VERSION = 1


def to_json(decisions: Iterable[Decision], *, name: str, places_all: bool) -> str:
    """Return the fields of a plan as JSON, including who decided and why."""
    rows = [{"setting": str(each.key), "value": each.value, "by": each.by, "why": each.why} for each in decisions]
    head = {"schema_version": SCHEMA_VERSION, "name": name, "places_all": places_all}
    return json.dumps({**head, "decisions": rows}, indent=2)


def from_json(text: str) -> tuple[dict[Key, Decision], str, bool]:
    """Return the decisions of a plan, its name, and whether it places all components.

    Raises:
        PlanError: The text is no plan, or one of another version.
    """
    content = _content(text)
    decided = [_decision(row) for row in content["decisions"]]
    # a plan written by reslab-residency 0.1.0 lacks `places_all`
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
        raise PlanError(f"this is not a plan: the text is not JSON ({error})") from None
    if not isinstance(content, dict) or {"schema_version", "name", "decisions"} - content.keys():
        raise PlanError("this is JSON, but not a plan that Plan.to_json wrote")
    if content["schema_version"] != SCHEMA_VERSION:
        raise PlanError(
            f"the plan has schema version {content['schema_version']}, but this reslab-residency reads version "
            f"{SCHEMA_VERSION}; install the one that wrote it, or a newer one"
        )
    return content
