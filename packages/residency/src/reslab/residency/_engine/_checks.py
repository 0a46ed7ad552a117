"""What `apply` was told, checked before anything moves: of its kind, of this machine, and of this pipeline.

check_kinds(pipeline, plan, budget)              # at once
read_device("cuda")
check_names(components, blocks, files)            # on entering
check_weights(components, plan)                  # before every run

What is checked before anything moves: that the plan can be carried out in this memory.

check_executable(plan, workload)                 # what describes other tools only
check_fits(plan, workload, Budget(device_bytes=free))

Choices of a plan that change bits: carried out, or refused with a sentence; never passed over in silence.

Tiling is a switch that the VAEs of diffusers have, so "on" is carried out: it is on while the residency is in force. A
LoRA is merged by `_merged`. All else is how a pipeline was composed and loaded, which nothing here can change.

    check_choices(plan, modules)
    tiling = Tiling(); tiling.switch(vae, plan); tiling.put_back()
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reslab.residency._engine._checkpoint import Paths, paths
from reslab.residency._errors import ResidencyError
from reslab.residency._plan._numerics import Attention, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._placement import Granularity, PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._schedule._footprint import Footprint, allocator_slack, footprint
from reslab.residency._schedule._kept_units import check_plan
from reslab.residency._units import is_near, size_text
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many bytes a plan may use; None where there is no limit, or nobody knows it.

    Args:
        device_bytes: Of the device, weights, activations and slack together.
        host_bytes: Of the host, for what comes and goes, pinned memory included.
        pinned_bytes: Of the host, pinned; what moves beyond that waits in pageable memory.
        slack_bytes: What torch's allocator takes of the device beyond what is alive; by default as in `bounds`.

    Raises:
        ValueError: For what is no number of bytes.
    """

    device_bytes: int | None = None
    host_bytes: int | None = None
    pinned_bytes: int | None = None
    slack_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (told := getattr(self, name)) is not None and (not isinstance(told, int) or told < 0):
                raise ValueError(f"{name} is a whole number of bytes, such as 12 * 2**30, got {told!r}")


def check_fits(plan: Plan, workload: Workload, budget: Budget, *, kind: str) -> None:
    """Refuse a plan that needs more memory than there is, naming what is short, where, and by how much.

    It is the account of `bounds`. Where the calls are known, it is exact. Before a first run it is, of the device, what
    stays, and each component beside it by itself: a plan that has no room for that cannot work, whatever the run will
    call. Of the host every component counts as called.

    Args:
        plan: The plan.
        workload: Sizes, and the calls as far as they are known.
        budget: What there is.
        kind: What torch calls the device, such as "cuda".

    Raises:
        PlanError: If it does not fit.
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
    if not workload.calls:
        for name in workload.components:
            yield f"{name!r}", _alone(plan, workload, name)


def _alone(plan: Plan, workload: Workload, name: str) -> int:
    """Return what is on the device at least when a component runs, wherever that is: of a run that nobody knows yet."""
    blocks = tuple(range(len(workload.components[name].block_bytes)))
    calls = [Call(stage=stage, component=name, blocks=blocks) for stage in workload.stages]
    return min(footprint(plan, replace(workload, calls=(call,))).device_bytes[call.stage] for call in calls)


def check_executable(plan: Plan, workload: Workload) -> None:
    """Refuse what only describes other tools, and what the pipeline does not have.

    Raises:
        PlanError: Naming the setting and what to write instead.
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


#: What cannot be carried out: the setting and its value, why not, and what to do.
_REFUSED: Mapping[tuple[str, Any], str] = {
    ("pass_batching", PassBatching.BATCHED): "the pipeline's denoiser runs guidance passes one by one",
    ("vae_tiling", VaeTiling.OFF): "a pipeline that tiles by size switches it on itself; compose it without tiling",
    ("weight_dtype", WeightDtype.FLOAT8): "weights are moved as they are; load them in the type that you want",
    ("attention", Attention.FLASH): "the kernel is the pipeline's choice; set it there, with set_attention_backend",
    ("attention", Attention.EFFICIENT): "the kernel is the pipeline's choice; set it there, with set_attention_backend",
    ("attention", Attention.MATH): "the kernel is the pipeline's choice; set it there, with set_attention_backend",
}


def check_choices(plan: Plan, modules: Mapping[str, torch.nn.Module]) -> None:
    """Refuse what a plan chooses and nobody would do.

    Args:
        plan: The plan.
        modules: The pipeline's components.

    Raises:
        PlanError: Naming the choice, why it is not carried out, and what to do.
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


class Tiling:
    """Has components compute in tiles where the plan says so."""

    def __init__(self) -> None:
        self._switched: list[Any] = []

    def switch(self, module: Any, plan: Plan) -> None:
        """Switch tiling on, if the plan says so and it is not."""
        if plan.numerics.vae_tiling is VaeTiling.ON and _tiles(module) and not module.use_tiling:
            self._switched.append(module)
            module.use_tiling = True

    def put_back(self) -> None:
        """Let components be as they were."""
        while self._switched:
            self._switched[-1].use_tiling = False
            self._switched.pop()


def _tiles(module: torch.nn.Module) -> bool:
    return isinstance(getattr(module, "use_tiling", None), bool)
