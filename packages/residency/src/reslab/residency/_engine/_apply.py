"""`apply`: a plan and a pipeline become a residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from reslab.residency._device._machine import host_memory, this_machine
from reslab.residency._engine import _accelerator
from reslab.residency._engine._checks import Budget, check_kinds, own_files, read_device
from reslab.residency._engine._config import EngineConfig
from reslab.residency._engine._lanes import LinkThrottle
from reslab.residency._engine._residency import Residency
from reslab.residency._engine._weight_files import Paths
from reslab.residency._errors import ResidencyError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._units import LinkRatio
from reslab.stages import Pipeline
from reslab.stages.support import Described


class OnOom(Described):
    """Responses to a device that runs out of memory in a stage."""

    STOP = "stop", "Raise an error that says what ran out, and where."
    STEP_DOWN = "step-down", "Log that, take the next leaner plan, and run the stage once more."


def apply(
    pipeline: Pipeline,
    plan: Plan,
    *,
    device: torch.device | str | None = None,
    link: str | int | LinkRatio | None = None,
    budget: Budget | None = None,
    on_oom: OnOom | str = OnOom.STOP,
    known: Workload | None = None,
    blocks: Mapping[str, str | Sequence[str]] | None = None,
    files: Mapping[str, Paths] | None = None,
) -> Residency:
    """Return a residency, which carries out a plan within its `with` block.

    Weights really move, on a CPU too: there the device's memory is a separate part of host memory. Weights that move
    wait in host memory or on disk; weights that stay on the device have no second copy, and are copied back on leaving.

    The results are those of the pipeline without a plan, bit for bit, unless the plan chooses other bits. With
    `lora="merged"`, calls with an active LoRA compute with a merged copy of the component, named with "+lora"; their
    bits do not depend on its placement (see `lora_difference`). The engine carries out `numerics.vae_tiling="on"`, and
    refuses the numerics that only another pipeline can have. A residency keeps what the user writes into weights on the
    device, except through `weight.data`, where the write cannot be seen. A backward pass through blocks that stream is
    an error.

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
        pipeline: Any pipeline of stages; the residency manages its components that are modules, whole or by blocks.
        plan: Where their weights live; a component that it does not place is resident.
        device: The device that computes; by default the accelerator in use, else the CPU.
        link: A bandwidth such as "1 GB/s", or a card's ratio of copying to computing (`like`), that each copy is held
            to; None for no limit.
        budget: Bytes that the plan may use; by default the accelerator's free memory, and as much pinned memory as the
            system allows a process. Entering refuses a plan that needs more of device or host, as far as the calls are
            known, before a first run by `known` alone. Weights beyond the pinned bytes wait in pageable memory.
        on_oom: Response to a stage that runs out of memory. "stop" raises an error that says what ran out, and where;
            "step-down" logs that, takes the next leaner plan, and runs the stage once more.
        known: The calls of the run, such as `workload(rehearsal)`; by default the first run records them.
        blocks: Paths or the class of a component's blocks, by component; by default they are found.
        files: Safetensors files by component, with the keys of its state dictionary. A component on meta, without
            values, gets its values from there: streamed if the plan places it on disk, else read into host memory block
            by block; on leaving it is without values again. A component with values streams from its files if the plan
            places it on disk; without files it is first written to a temporary folder. Files of components that the
            pipeline does not have are ignored.

    Returns:
        A context manager. Entering moves nothing, and refuses (PlanError, ResidencyError) a plan that cannot be carried
        out.

    Raises:
        ResidencyError: For an unknown `on_oom` or device, or an argument of another type.
        ValueError: For a link that is no bandwidth.
    """
    response = OnOom.of(on_oom, "on_oom", error=ResidencyError)
    check_kinds(pipeline, plan, budget or Budget())
    place = _accelerator.current() if device is None else read_device(device)
    if budget is None:  # without a limit on a CPU, whose device memory is host memory
        budget = Budget(device_bytes=None if place.type == "cpu" else _accelerator.free_bytes(place))
    if budget.pinned_bytes is None and _accelerator.pinner(place) is not None:
        budget = replace(budget, pinned_bytes=host_memory(this_machine(), held_bytes=_held(pipeline)).pinnable_bytes)
    config = EngineConfig(
        device=place,
        link=LinkThrottle(link),
        budget=budget,
        steps_down=response is OnOom.STEP_DOWN,
        calls=known.calls if known is not None else (),
        activations=known.activations if known is not None else {},
        blocks=blocks or {},
        files=own_files(pipeline.components, files or {}),
    )
    return Residency(pipeline, plan, config)


def _held(pipeline: Pipeline) -> int:
    """Return the bytes of host memory that the pipeline's weights take now; the engine's copies will replace them."""
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    weights = {id(each): each for module in modules for each in module.parameters() if each.device.type == "cpu"}
    return sum(each.nbytes for each in weights.values())
