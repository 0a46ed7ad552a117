"""Presets laid over a rehearsal; the recipes are in `_plan/_presets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reslab.residency._bounds._workload import workload
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import preset_choices, preset_plan
from reslab.residency._plan._settings import Settings
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal


def preset(name: str, subject: Rehearsal | Workload, *, settings: Settings | Mapping[str, Any] | None = None) -> Plan:
    """Return the plan that a preset makes.

    >>> from reslab.residency import Call, ComponentSize
    >>> vae = ComponentSize(outside_bytes=100)
    >>> work = Workload(components={"vae": vae}, stages=("decode",), calls=(Call(stage="decode", component="vae"),))
    >>> preset("diffusers model offload", work).placement("vae")
    swap(until='each stage', copy_back=True)

    Args:
        name: One of `presets()`.
        subject: A rehearsal, or a workload, whose components are placed.
        settings: What a person set; the preset passes over it.

    Raises:
        PlanError: There is no such preset; it names the nearest.
    """
    choices = preset_choices(name)
    if isinstance(subject, Rehearsal):
        subject = workload(subject, Plan.of(settings).decide(choices, why="preset"))
    return preset_plan(name, subject, settings)
