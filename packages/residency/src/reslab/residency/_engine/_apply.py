"""`apply`: a plan and a pipeline become a residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from reslab.residency._device._machine import host_memory, this_machine
from reslab.residency._engine import _accelerator
from reslab.residency._engine._checkpoint import Paths
from reslab.residency._engine._checks import Budget, check_kinds, own_files, read_device
from reslab.residency._engine._config import Setting
from reslab.residency._engine._lanes import Link
from reslab.residency._engine._residency import Residency
from reslab.residency._errors import ResidencyError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._units import LinkRatio
from reslab.stages import Pipeline

ON_OOM = ("stop", "step-down")


def apply(
    pipeline: Pipeline,
    plan: Plan,
    *,
    device: torch.device | str | None = None,
    link: str | int | LinkRatio | None = None,
    budget: Budget | None = None,
    on_oom: str = "stop",
    known: Workload | None = None,
    blocks: Mapping[str, str | Sequence[str]] | None = None,
    files: Mapping[str, Paths] | None = None,
) -> Residency:
    """Return a residency, which carries out a plan within its `with` block.

    Weights really move, on a CPU too: there the device's memory is other memory. What comes and goes waits in host
    memory or on disk; what stays on the device has no second copy, and comes back from it. The results are, bit for
    bit, those of the pipeline without a plan, unless the plan chooses other bits. With `lora="merged"` calls with a
    LoRA on compute with a merged copy of the component, named with "+lora", and have the same bits wherever that is
    placed (see `lora_difference`); `numerics.vae_tiling="on"` is carried out; what only another pipeline would do is
    refused (`_choices`). What you write into weights that are on the device is kept, but for changes through
    `weight.data`, which cannot be seen; a backward pass through blocks that stream is an error.

    >>> from reslab.residency import Plan
    >>> from reslab.stages import Pipeline, stage
    >>> model = torch.nn.Sequential(torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(4)))
    >>> model.forward = lambda x: [x := block(x) for block in model[0]][-1]
    >>> pipeline = Pipeline({"model": model}, result="y")
    >>> _ = pipeline.add(stage(lambda model, x: {"y": model(x)}), name="compute")
    >>> with torch.no_grad(), apply(pipeline, Plan.of({"model": "layerwise"})) as managed:
    ...     first, second = (pipeline.run(x=torch.ones(16)) for _ in range(2))
    >>> managed.fetched_bytes, torch.equal(first, second)
    ({'compute': 4352}, True)

    Args:
        pipeline: Any pipeline of stages; its components that are modules are managed, whole or by their blocks.
        plan: Where their weights live; what it does not place is resident.
        device: Where to compute; by default the accelerator in use, else the CPU.
        link: Holds each copy to a bandwidth such as "1 GB/s", or to a card's ratio of copying to computing (`like`).
        budget: What may be used; by default what is free of an accelerator's memory, and what the system lets a process
            pin. A plan that needs more of the device or the host is refused on entering, as far as the calls are known:
            those of a first run only `known` tells. What may not be pinned waits in pageable memory.
        on_oom: "stop" says what ran out, and where; "step-down" says so, takes the next leaner plan, and runs the
            stage once more.
        known: The calls of the run, such as `workload(rehearsal)`; by default the first run finds them out.
        blocks: Paths or the class of a component's blocks, by component; by default they are found.
        files: Safetensors files by component, with its state dictionary's names. A component whose weights are on meta,
            without values, gets them from there: streamed where the plan has it on disk, else read into host memory,
            block by block; on leaving it is without values again. Files of components that the pipeline does not have
            are left alone. Of a component with values the files are what it
            streams from, if the plan has it on disk; what has none is written to a temporary folder.

    Returns:
        A context manager. Entering refuses (PlanError, ResidencyError) what cannot be carried out, and moves nothing.

    Raises:
        ResidencyError: For an `on_oom` or a device that does not exist, or an argument of another kind.
        ValueError: For a link that is no bandwidth.
    """
    if on_oom not in ON_OOM:
        raise ResidencyError(f"on_oom is one of {', '.join(map(repr, ON_OOM))}, got {on_oom!r}")
    check_kinds(pipeline, plan, budget or Budget())
    place = _accelerator.current() if device is None else read_device(device)
    if budget is None:
        budget = Budget(device_bytes=None if place.type == "cpu" else _accelerator.free_bytes(place))
    if budget.pinned_bytes is None and _accelerator.pinner(place) is not None:
        budget = replace(budget, pinned_bytes=host_memory(this_machine(), held_bytes=_held(pipeline)).pinnable_bytes)
    setting = Setting(
        device=place,
        link=Link(link),
        budget=budget,
        steps_down=on_oom == "step-down",
        calls=known.calls if known is not None else (),
        activations=known.activations if known is not None else {},
        blocks=blocks or {},
        files=own_files(pipeline.components, files or {}),
    )
    return Residency(pipeline, plan, setting)


def _held(pipeline: Pipeline) -> int:
    """Return the bytes of host memory that the pipeline's weights are in now: copies take their place."""
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    weights = {id(each): each for module in modules for each in module.parameters() if each.device.type == "cpu"}
    return sum(each.nbytes for each in weights.values())
