"""Host memory that a plan needs for modules that are not loaded yet, by their shapes alone.

    host_need(plan, {"transformer": on_meta, "text_encoder": also_on_meta})

The account is that of `apply` before a first run, with the same blocks, so that loading can be refused before any file
is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reslab.residency._model._anatomy import find_blocks
from reslab.residency._plan._numerics import MERGED
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import ComponentSize, Workload
from reslab.residency._schedule._footprint import footprint


def host_need(plan: Plan, modules: Mapping[str, torch.nn.Module]) -> int:
    """Return the bytes of host memory that a plan needs while it runs, whichever components are called.

    They are those of weights that wait there, of merged copies that the plan places, and of the window of disk.

    >>> blocks = {"blocks": torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(3))}
    >>> model = {"transformer": torch.nn.ModuleDict(blocks)}
    >>> [host_need(Plan.of({"transformer": place}), model) for place in ("resident", "swap", "disk")]
    [0, 192, 64]

    Args:
        plan: The plan.
        modules: Components by name; they may be on meta. Other components that the plan places count as nothing.
    """
    sizes = {name: component_size(module) for name, module in modules.items()}
    for name, _stage in plan.placements:
        # a merged copy is as large as its base; a component that is not among the modules counts as nothing
        sizes.setdefault(name, sizes.get(name.removesuffix(MERGED), ComponentSize(outside_bytes=0)))
    stages = sorted({stage for _name, stage in plan.placements if stage is not None})
    return footprint(plan, Workload(components=sizes, stages=tuple(stages) or ("run",), calls=())).host().nbytes


def component_size(module: torch.nn.Module) -> ComponentSize:
    """Return the bytes of a module's weights, in the blocks that the engine moves and outside the blocks."""
    blocks = [sum(weight.nbytes for weight in block.parameters()) for block in find_blocks(module).values()]
    everything = sum(weight.nbytes for weight in module.parameters())
    return ComponentSize(outside_bytes=everything - sum(blocks), block_bytes=tuple(blocks))
