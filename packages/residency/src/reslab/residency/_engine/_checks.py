"""Checks of `apply`'s arguments and of the plan, made before anything moves.

Each raises one sentence that says what to do: at once, on entering, or before a run, as soon as it can be known.

    check_kinds(pipeline, plan, budget)              # at once: the type of each argument
    read_device("cuda")                              # at once: a device of this machine
    check_names(components, blocks, files)           # on entering: components and files that exist
    check_weights(components, plan)                  # before every run: placed components have weights
    check_choices(plan, modules)                     # before every run: numerics that the engine carries out
    check_executable(plan, workload)                 # before every run: no setting that only describes other tools
    check_fits(plan, workload, budget)               # before every run: the plan fits the memory

Of the numerics, the engine merges LoRAs (`_merged_copy`), and switches on the tiling of diffusers' VAEs while the
residency is in force (`TilingSwitch`). The others follow from how a pipeline was composed and loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reslab.residency._engine._weight_files import Paths, paths
from reslab.residency._errors import ResidencyError
from reslab.residency._plan._numerics import Attention, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._placement import Granularity, PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._schedule._footprint import Footprint, allocator_slack, footprint
from reslab.residency._schedule._kept_units import check_plan
from reslab.residency._units import is_near, size_text
from reslab.stages import Pipeline
from reslab.stages.support import nearest


def check_kinds(pipeline: object, plan: object, budget: object) -> None:
    """Refuse arguments of another type, such as a dictionary in place of a plan.

    Raises:
        ResidencyError: Naming the argument, its type, and how to make a value of it.
    """
    for name, given, kind, advice in (
        ("pipeline", pipeline, Pipeline, "make one of a pipeline of diffusers with Pipeline.from_diffusers(pipe)"),
        ("plan", plan, Plan, 'write Plan.of({"transformer": "layerwise"})'),
        ("budget", budget, Budget, "write Budget(device_bytes=12 * 2**30)"),
    ):
        if not isinstance(given, kind):
            raise ResidencyError(f"{name} is a {kind.__name__}, got {type(given).__name__}; {advice}")


def read_device(device: Any) -> torch.device:
    """Return the device of a name.

    Raises:
        ResidencyError: For a device that this machine does not have, or for several devices.
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
    """Return the files of the pipeline's components; a checkpoint may give those of other components too.

    A name near to that of a component without files stays, so that `check_names` asks about it.
    """
    without = [name for name in components if name not in files]
    return {name: given for name, given in files.items() if name in components or is_near(name, without)}


def check_names(components: Mapping[str, Any], blocks: Mapping[str, Any], files: Mapping[str, Paths]) -> None:
    """Refuse names of components that a pipeline does not have, and paths without a file.

    Raises:
        ResidencyError: Naming the components that the pipeline has, or the path.
    """
    for what, given in (("blocks", blocks), ("files", files)):
        if unknown := next((name for name in given if name not in components), None):
            raise ResidencyError(f"{what} names {unknown!r}, which is not there; {nearest(unknown, components)}")
    for path in (path for given in files.values() for path in paths(given)):
        if not Path(path).is_file():
            raise ResidencyError(f"there is no file {os.fspath(path)!r}; name the safetensors files that are there")


def check_weights(components: Mapping[str, Any], plan: Plan) -> None:
    """Refuse a plan that places a component without weights.

    Raises:
        PlanError: Naming the component.
    """
    for name, _stage in plan.placements:
        if name in components and next(weights(components[name]), None) is None:
            raise PlanError(f"the plan places {name!r}, which has no weights to move; leave it out")


def weights(component: object) -> Iterator[torch.nn.Parameter]:
    """Return the weights of a component; none for a component that is no module."""
    return component.parameters() if isinstance(component, torch.nn.Module) else iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bytes that a plan may use; None for no limit, or an unknown one.

    Args:
        device_bytes: Device memory for weights, activations and slack together.
        host_bytes: Host memory for weights that are moved, pinned memory included.
        pinned_bytes: Host memory that may be pinned; weights beyond that wait in pageable memory.
        slack_bytes: Device memory that torch's allocator reserves beyond live tensors; by default as in `bounds`.

    Raises:
        ValueError: For a value that is no number of bytes.
    """

    device_bytes: int | None = None
    host_bytes: int | None = None
    pinned_bytes: int | None = None
    slack_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (given := getattr(self, name)) is not None and (not isinstance(given, int) or given < 0):
                raise ValueError(f"{name} is a whole number of bytes, such as 12 * 2**30, got {given!r}")


def check_fits(plan: Plan, workload: Workload, budget: Budget, *, kind: str) -> None:
    """Refuse a plan that needs more memory than the budget, by the account that `bounds` reads.

    The account is exact where the calls are known. Before a first run it counts the device bytes of resident weights
    with each component alone, which every run needs, and the host bytes of all components, as if each were called.

    Args:
        plan: The plan.
        workload: Sizes of the components, and the calls as far as they are known.
        budget: The bytes that the plan may use.
        kind: torch's name for the type of device, such as "cuda".

    Raises:
        PlanError: Naming the memory that is short, the stage, and the bytes needed and free.
    """
    needs = list(_needs(plan, workload, budget, kind))
    if short := [
        f"{what} needs {size_text(need)}, {size_text(free)} are free" for what, need, free in needs if need > free
    ]:
        raise PlanError(
            f"the plan {plan.name!r} does not fit, so nothing was moved: {'; '.join(short)}. "
            "Place less as resident, stream more layerwise or from disk, or free memory"
        )


def _needs(plan: Plan, workload: Workload, budget: Budget, kind: str) -> Iterator[tuple[str, int, int]]:
    account = footprint(plan, workload)
    if budget.device_bytes is not None:
        for what, need in _device_needs(plan, workload, account):
            slack = allocator_slack(need, kind) if budget.slack_bytes is None else budget.slack_bytes
            beside = f" with {size_text(slack)} of the allocator's slack" if slack else ""
            yield f"{what} on the device{beside}", need + slack, budget.device_bytes
    if budget.host_bytes is not None:
        yield "host memory", account.host().nbytes, budget.host_bytes


def _device_needs(plan: Plan, workload: Workload, account: Footprint) -> Iterator[tuple[str, int]]:
    for stage, need in account.device_bytes.items():
        yield f"the stage {stage!r}", need
    if not workload.calls:  # before a first run any component may be called, though not at the same time
        for name in workload.components:
            yield f"{name!r}", _alone(plan, workload, name)


def _alone(plan: Plan, workload: Workload, name: str) -> int:
    """Return the least device memory that a component needs in any stage; used before the first run."""
    blocks = tuple(range(len(workload.components[name].block_bytes)))
    calls = [Call(stage=stage, component=name, blocks=blocks) for stage in workload.stages]
    return min(footprint(plan, replace(workload, calls=(call,))).device_bytes[call.stage] for call in calls)


def check_executable(plan: Plan, workload: Workload) -> None:
    """Refuse settings that only describe other tools, and components that the pipeline does not have.

    Raises:
        PlanError: Naming the setting, and what to write instead.
    """
    if not workload.stages:
        raise PlanError("the pipeline has no stages, so there is nothing to move weights for; add them first")
    check_plan(plan, workload)
    for (component, _stage), placement in plan.placements.items():
        if placement.granularity is not Granularity.BLOCK:
            raise PlanError(
                f"{component}.granularity={str(placement.granularity)!r} describes other tools, to predict them; "
                "apply moves blocks: leave granularity out"
            )
        if placement.copy_back:
            raise PlanError(
                f"{component}.copy_back=true describes other tools, to predict them; weights cannot have changed, "
                "so apply never copies them back: leave copy_back out"
            )


#: Reason and remedy for each setting and value that the engine cannot carry out.
_REFUSED: Mapping[tuple[str, Any], str] = {
    ("pass_batching", PassBatching.BATCHED): "the pipeline's denoiser runs guidance passes one by one",
    ("vae_tiling", VaeTiling.OFF): "a pipeline that tiles by size switches it on itself; compose it without tiling",
    ("weight_dtype", WeightDtype.FLOAT8): "weights are moved as they are; load them in that type",
    ("attention", Attention.FLASH): "the kernel is the pipeline's choice; set it there, with set_attention_backend",
    ("attention", Attention.EFFICIENT): "the kernel is the pipeline's choice; set it there, with set_attention_backend",
    ("attention", Attention.MATH): "the kernel is the pipeline's choice; set it there, with set_attention_backend",
}


def check_choices(plan: Plan, modules: Mapping[str, torch.nn.Module]) -> None:
    """Refuse numerics of a plan that neither engine nor pipeline would carry out.

    Args:
        plan: The plan.
        modules: The pipeline's components.

    Raises:
        PlanError: Naming the setting, the reason, and the remedy.
    """
    for (name, value), why in _REFUSED.items():
        if getattr(plan.numerics, name) is value:
            raise PlanError(
                f"numerics.{name}={str(value)!r} describes another pipeline, to plan and bound it; apply cannot carry "
                f"it out: {why}, and leave numerics.{name} out"
            )
    if plan.numerics.vae_tiling is VaeTiling.ON and not any(map(_tiles, modules.values())):
        raise PlanError(
            "numerics.vae_tiling='on', but no component can compute in tiles; leave numerics.vae_tiling out"
        )


class TilingSwitch:
    """Switches on the tiling of components that can compute in tiles, where the plan asks for it."""

    def __init__(self) -> None:
        self._switched: list[Any] = []

    def switch(self, module: Any, plan: Plan) -> None:
        """Switch tiling on, if the plan asks for it and it is off."""
        if plan.numerics.vae_tiling is VaeTiling.ON and _tiles(module) and not module.use_tiling:
            self._switched.append(module)
            module.use_tiling = True

    def restore(self) -> None:
        """Switch tiling off again where it was off."""
        while self._switched:
            self._switched[-1].use_tiling = False
            self._switched.pop()


def _tiles(module: torch.nn.Module) -> bool:
    return isinstance(getattr(module, "use_tiling", None), bool)
