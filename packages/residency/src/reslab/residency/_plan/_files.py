"""A plan as JSON and back: a list of decisions, in the grammar of `_keys`, which a person can read and write.

{"schema_version": 1, "name": "plan", "places_all": false, "decisions": [
    {"setting": "transformer.resident", "value": 30, "by": "rule", "why": "so that it fits"}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from reslab.residency._plan._decisions import DecidedBy, Decision
from reslab.residency._plan._keys import Key, parse_key, read_value
from reslab.residency._plan._placement import PlanError

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
