"""What is checked before anything moves: that the plan can be carried out, on these modules, in this memory.

check_modules({"transformer": transformer})      # compiled, graphed, quantised, on meta, managed by another tool
check_executable(plan, workload)                 # what describes other tools only
check_fits(plan, workload, Budget(device_bytes=free))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from reslab.residency._engine._errors import ResidencyError
from reslab.residency._plan._footprint import device_bytes
from reslab.residency._plan._placement import Granularity, Kind, PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload, check_plan
from reslab.residency._units import size_text

_ON_META = "on meta, without values; give the safetensors files that have them as files={…}, or load it first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many bytes a plan may use; None where there is no limit, or nobody knows it.

    Args:
        device_bytes: Of the device, weights and activations together.
        host_bytes: Of the host, pinned memory included.
        pinned_bytes: Of the host, pinned.

    Raises:
        ValueError: For what is no number of bytes.
    """

    device_bytes: int | None = None
    host_bytes: int | None = None
    pinned_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (told := getattr(self, name)) is not None and (not isinstance(told, int) or told < 0):
                raise ValueError(f"{name} is a whole number of bytes, such as 12 * 2**30, got {told!r}")


def check_fits(plan: Plan, workload: Workload, budget: Budget, *, pins: bool) -> None:
    """Refuse a plan that needs more memory than there is, naming what is short, where, and by how much.

    Where the calls are known, what a stage needs of the device is exact. Before a first run it is what stays, and each
    component beside it by itself: a plan that has no room for that cannot work, whatever the run will call.

    Args:
        plan: The plan.
        workload: Sizes, and the calls as far as they are known.
        budget: What there is.
        pins: Whether host memory of what moves is pinned.

    Raises:
        PlanError: If it does not fit.
    """
    needs = list(_needs(plan, workload, budget, pins=pins))
    if short := [
        f"{what} needs {size_text(need)}, {size_text(free)} are free" for what, need, free in needs if need > free
    ]:
        raise PlanError(
            f"the plan {plan.name!r} does not fit, so nothing was moved: {'; '.join(short)}. "
            "Place less as resident, stream more layerwise or from disk, or free memory"
        )


def _needs(plan: Plan, workload: Workload, budget: Budget, *, pins: bool) -> Iterator[tuple[str, int, int]]:
    if budget.device_bytes is not None:
        for stage, need in device_bytes(plan, workload).items():
            yield f"the stage {stage!r} on the device", need, budget.device_bytes
        if not workload.calls:
            for name in workload.components:
                yield f"{name!r} on the device", _alone(plan, workload, name), budget.device_bytes
    host = {
        name: size.weight_bytes
        for name, size in workload.components.items()
        if not _has(plan, workload, name, Kind.DISK)
    }
    if budget.host_bytes is not None:
        yield "host memory", sum(host.values()) + _window(plan, workload), budget.host_bytes
    if budget.pinned_bytes is not None and pins:
        moving = [size for name, size in host.items() if moves(plan, workload, name)]
        yield "pinned host memory", sum(moving), budget.pinned_bytes


def _alone(plan: Plan, workload: Workload, name: str) -> int:
    """Return what is on the device at least when a component runs, wherever that is: of a run that nobody knows yet."""
    blocks = tuple(range(len(workload.components[name].block_bytes)))
    calls = [Call(stage=stage, component=name, blocks=blocks) for stage in workload.stages]
    return min(device_bytes(plan, replace(workload, calls=(call,)))[call.stage] for call in calls)


def _window(plan: Plan, workload: Workload) -> int:
    """Return the host memory through which is read what is on disk: as large as the largest unit."""
    on_disk = [size for name, size in workload.components.items() if _has(plan, workload, name, Kind.DISK)]
    return max((max(size.outside_bytes, *size.block_bytes, 0) for size in on_disk), default=0)


def moves(plan: Plan, workload: Workload, name: str) -> bool:
    """Tell whether a component is anything but resident in some stage."""
    return any(plan.placement(name, stage).kind is not Kind.RESIDENT for stage in workload.stages)


def _has(plan: Plan, workload: Workload, name: str, kind: Kind) -> bool:
    return any(plan.placement(name, stage).kind is kind for stage in workload.stages)


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


def check_modules(modules: Mapping[str, torch.nn.Module], files: Mapping[str, Any]) -> None:
    """Refuse modules whose weights cannot be moved beneath them.

    Args:
        modules: By name.
        files: The components whose files are known, by name: those need no values.

    Raises:
        ResidencyError: Naming the component, what is in the way, and what to do.
    """
    for name, module in modules.items():
        for path, part in module.named_modules():
            if (problem := _problem(part, name in files)) is not None:
                raise ResidencyError(f"{name}{'.' if path else ''}{path} {problem}")
    _check_shared(modules)


def _problem(module: torch.nn.Module, has_files: bool) -> str | None:
    if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
        return (
            "is compiled by torch.compile, which keeps addresses of weights; apply the plan to the module before that"
        )
    if compiled := [name for name, own in vars(module).items() if hasattr(own, "_torchdynamo_orig_callable")]:
        return f"has its {compiled[0]!r} compiled by torch.compile, which keeps addresses of weights; take that back"
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled by torch.jit, so nothing can see to its weights before they are used; use the plain module"
    if getattr(module.__dict__.get("forward"), "__module__", "") == "torch.cuda.graphs":
        return "replays a CUDA graph, which keeps addresses of weights; apply the plan to the module without graphs"
    if "_hf_hook" in module.__dict__:
        return "is moved by accelerate already; call remove_all_hooks() on the pipeline first"
    for name, parameter in module._parameters.items():
        if parameter is not None and (problem := _tensor_problem(parameter, has_files)) is not None:
            return f"has a weight {name!r} {problem}"
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta and not has_files:
            return f"has a buffer {name!r} {_ON_META}"
    return None


def _tensor_problem(parameter: torch.nn.Parameter, has_files: bool) -> str | None:
    if parameter.is_meta and not has_files:
        return _ON_META
    quantised: Any = parameter.is_quantized or type(parameter.data) is not torch.Tensor
    if quantised or type(parameter) is not torch.nn.Parameter or parameter.layout is not torch.strided:
        kind = type(parameter).__name__ if type(parameter) is not torch.nn.Parameter else type(parameter.data).__name__
        return f"that is quantised or otherwise no plain tensor ({kind}); only plain tensors can be moved"
    return None


def _check_shared(modules: Mapping[str, torch.nn.Module]) -> None:
    owner: dict[int, str] = {}
    for name, module in modules.items():
        for parameter in module.parameters():
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise ResidencyError(
                    f"{other!r} and {name!r} share weights, so they cannot be moved one without the other; "
                    "make them one component, or give each its own"
                )
