"""The code that carries an answer out: a plan as text, the lines that load a pipeline by it, and those that run it.

    print(code(answer.plan, answer.rehearsal.meta))

A rehearsal says in its meta, under "code", how its pipeline is loaded; where it does not, the code leaves that to the
reader. The plan is written out, so that the text stands by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reslab.residency._plan._numerics import Lora, Numerics
from reslab.residency._plan._placement import Placement
from reslab.residency._plan._plan import Plan

#: Where in a rehearsal's meta it is said how its pipeline is loaded, and what is said there: texts of Python.
CODE = "code"
IMPORTS, LOAD, FILES, REHEARSAL, RUN = "imports", "load", "files", "rehearsal", "run"


def code(plan: Plan, meta: Mapping[str, Any]) -> str:
    """Return the Python that loads a rehearsed pipeline as a plan has its weights, and runs it.

    Args:
        plan: The plan.
        meta: Of the rehearsal.
    """
    told = {**_unknown(meta), **meta.get(CODE, {})}
    known = f"residency.workload({told[REHEARSAL]}, plan)" if told[REHEARSAL] else ""
    arguments = ["pipe", "plan"]
    arguments += [f"files={told[FILES]}"] if told[FILES] else []
    arguments += ["known=known"] if known else []
    lines = [told[IMPORTS], "", f"plan = {plan_text(plan)}", *told[LOAD]]
    lines += [f"known = {known}"] if known else []
    return "\n".join([*lines, f"with residency.apply({', '.join(arguments)}):", f"    {told[RUN]}", ""])


def plan_text(plan: Plan) -> str:
    """Return a plan as an expression.

    >>> print(plan_text(Plan.of({"vae": "swap", "transformer": {"placement": "layerwise", "resident": 2}})))
    residency.Plan.of(
        {
            'vae': 'swap',
            'transformer': {'placement': 'layerwise', 'resident': 2},
        },
        name='plan',
    )
    """
    lines = [f"        {key!r}: {value!r}," for key, value in _settings(plan)]
    return "\n".join(["residency.Plan.of(", "    {", *lines, "    },", f"    name={plan.name!r},", ")"])


def _settings(plan: Plan) -> Iterator[tuple[str, Any]]:
    for (component, stage), placement in plan.placements.items():
        yield (component if stage is None else f"{component}@{stage}"), _placement(placement)
    if plan.lora is not Lora.DYNAMIC:
        yield "lora", str(plan.lora)
    default = Numerics().fields()
    for name, value in plan.numerics.fields().items():
        if value != default[name]:
            yield f"numerics.{name}", value


def _placement(placement: Placement) -> str | Mapping[str, Any]:
    usual = Placement(kind=placement.kind).fields()
    own = {name: value for name, value in placement.fields().items() if value != usual.get(name)}
    kind = str(placement.kind)
    return {"placement": kind, **own} if own else kind


def _unknown(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the code says where the rehearsal does not know how its pipeline is loaded."""
    name, request = meta.get("pipeline", "pipeline"), meta.get("request", {})
    given = ", ".join(["...", *(f"{key}={value!r}" for key, value in request.items())])
    return {
        IMPORTS: "from reslab import residency",
        LOAD: [f"pipe = ...  # {name}, loaded to the host: what the plan places there, and on disk, need not be moved"],
        FILES: "",
        REHEARSAL: "",
        RUN: f"pipe.run({given})",
    }
