"""What a plan needs of the host for modules that are not loaded yet, by their shapes alone.

    host_need(plan, {"transformer": on_meta, "text_encoder": also_on_meta})

It is the account that `apply` keeps to before a first run, of the same blocks, so that loading can be refused before
anything is read.
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
    """Return the bytes of host memory that a plan needs while it runs, whatever is called.

    That is what waits there, a merged copy that the plan places among it, and the window of what comes from disk.

    >>> blocks = {"blocks": torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(3))}
    >>> model = {"transformer": torch.nn.ModuleDict(blocks)}
    >>> [host_need(Plan.of({"transformer": place}), model) for place in ("resident", "swap", "disk")]
    [0, 192, 64]

    Args:
        plan: The plan.
        modules: Components by name; they may be on meta. What else the plan places needs nothing.
    """
    sizes = {name: component_size(module) for name, module in modules.items()}
    for (
        name,
        _stage,
    ) in plan.placements:  # a merged copy is as large as its base; what is not among the modules is nothing
        sizes.setdefault(name, sizes.get(name.removesuffix(MERGED), ComponentSize(outside_bytes=0)))
    stages = sorted({stage for _name, stage in plan.placements if stage is not None})
    return footprint(plan, Workload(components=sizes, stages=tuple(stages) or ("run",), calls=())).host().nbytes


def component_size(module: torch.nn.Module) -> ComponentSize:
    """Return the bytes of a module's weights, in the blocks that the engine moves and outside of them."""
    blocks = [sum(weight.nbytes for weight in block.parameters()) for block in find_blocks(module).values()]
    everything = sum(weight.nbytes for weight in module.parameters())
    return ComponentSize(outside_bytes=everything - sum(blocks), block_bytes=tuple(blocks))
