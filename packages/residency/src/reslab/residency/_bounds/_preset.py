"""Presets laid over a rehearsal, and fitted to a card; the recipes are in `_plan/_presets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reslab.residency._bounds._arguments import one_device, one_rehearsal
from reslab.residency._bounds._roomy import placed, roomy
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._placement import PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import preset_choices, preset_plan
from reslab.residency._plan._settings import Settings
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal


def preset(
    name: str,
    subject: Rehearsal | Workload,
    *,
    settings: Settings | Mapping[str, Any] | None = None,
    device: DeviceSpec | str | None = None,
    component: str | None = None,
) -> Plan:
    """Return the plan that a preset makes.

    >>> from reslab.residency import Call, ComponentSize
    >>> vae = ComponentSize(outside_bytes=100)
    >>> work = Workload(components={"vae": vae}, stages=("decode",), calls=(Call(stage="decode", component="vae"),))
    >>> preset("diffusers model offload", work).placement("vae")
    swap(until='each stage', copy_back=True)

    Args:
        name: One of `presets()`, such as the name of a plan that `survey` found.
        subject: A rehearsal, or a workload, whose components are placed.
        settings: What the user set; the preset passes over it.
        device: A card, or its name: a preset that streams then keeps as many blocks as it has room for, else none.
        component: Which one keeps them; by default the transformer, or else the heaviest that has blocks.

    Raises:
        PlanError: There is no such preset or component; it names the nearest. Or a card is given for a workload, which
            does not say what its calls compute.
    """
    preset_choices(name)
    if isinstance(subject, Workload):
        if device is not None:
            raise PlanError("device= needs a rehearsal, to see what fits there; a workload has only sizes and calls")
        return preset_plan(name, subject, settings, component=component)
    run = one_rehearsal(subject, "presets")
    if device is not None:
        return roomy(name, run, one_device(device, "presets"), component=component, settings=settings).plan
    return preset_plan(name, placed(run, name, settings), settings, component=component)
