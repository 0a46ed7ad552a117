"""What `apply` was told, checked before anything moves: of its kind, of this machine, and of this pipeline.

check_kinds(pipeline, plan, budget)              # at once
read_device("cuda")
check_names(components, blocks, files)            # on entering
check_weights(components, plan)                  # before every run
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch

from reslab.residency._engine._checkpoint import Paths, paths
from reslab.residency._engine._errors import ResidencyError
from reslab.residency._engine._fit import Budget
from reslab.residency._plan._placement import PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._units import is_near
from reslab.stages import Pipeline, nearest


def check_kinds(pipeline: object, plan: object, budget: object) -> None:
    """Refuse what is easily taken for the right thing.

    Raises:
        ResidencyError: Naming the argument, what it is to be, and how to make that.
    """
    for name, told, kind, advice in (
        ("pipeline", pipeline, Pipeline, "make one of a pipeline of diffusers with Pipeline.from_diffusers(pipe)"),
        ("plan", plan, Plan, 'write Plan.of({"transformer": "layerwise"})'),
        ("budget", budget, Budget, "write Budget(device_bytes=12 * 2**30)"),
    ):
        if not isinstance(told, kind):
            raise ResidencyError(f"{name} is a {kind.__name__}, got {type(told).__name__}; {advice}")


def read_device(device: Any) -> torch.device:
    """Return the device of a name, if it is there.

    Raises:
        ResidencyError: Naming those that are there; of several devices, that one computes.
    """
    if isinstance(device, (Mapping, Sequence, Set)) and not isinstance(device, str):
        raise ResidencyError(
            f"device is one device, on which everything computes, got {len(device)} in a {type(device).__name__}; a "
            "plan cannot be laid over several: name one, such as device='cuda:0'"
        )
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise ResidencyError(f"there is no device {device!r} here; there are: {', '.join(_devices())}") from None
    index = f":{place.index or 0}" if place.type != "cpu" else ""
    if f"{place.type}{index}" not in _devices():
        raise ResidencyError(f"there is no device {str(place)!r} here; there are: {', '.join(_devices())}")
    return place


def _devices() -> list[str]:
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if here is not None else 0
    return ["cpu", *(f"{here}:{number}" for number in range(count))]


def own_files(components: Mapping[str, Any], files: Mapping[str, Paths]) -> dict[str, Paths]:
    """Leave out the files of other components: a checkpoint names those of all it has.

    A name that is nearly that of a component without files is kept, for `check_names` to ask about.
    """
    without = [name for name in components if name not in files]
    return {name: told for name, told in files.items() if name in components or is_near(name, without)}


def check_names(components: Mapping[str, Any], blocks: Mapping[str, Any], files: Mapping[str, Paths]) -> None:
    """Refuse names of components that a pipeline does not have, and absent files.

    Raises:
        ResidencyError: Naming what is there.
    """
    for what, told in (("blocks", blocks), ("files", files)):
        if unknown := next((name for name in told if name not in components), None):
            raise ResidencyError(f"{what} names {unknown!r}, which is not there; {nearest(unknown, components)}")
    for path in (path for told in files.values() for path in paths(told)):
        if not Path(path).is_file():
            raise ResidencyError(f"there is no file {os.fspath(path)!r}; name the safetensors files that are there")


def check_weights(components: Mapping[str, Any], plan: Plan) -> None:
    """Refuse to place what has no weights.

    Raises:
        PlanError: If the plan does.
    """
    for name, _stage in plan.placements:
        if name in components and next(weights(components[name]), None) is None:
            raise PlanError(f"the plan places {name!r}, which has no weights to move; leave it out")


def weights(component: object) -> Iterator[torch.nn.Parameter]:
    """Return the weights of a component; of what is no module, none."""
    return component.parameters() if isinstance(component, torch.nn.Module) else iter(())
