"""Choices of a plan that change bits: carried out, or refused with a sentence; never passed over in silence.

Tiling is a switch that the VAEs of diffusers have, so "on" is carried out: it is on while the residency is in force. A
LoRA is merged by `_merged`. All else is how a pipeline was composed and loaded, which nothing here can change.

    check_choices(plan, modules)
    tiling = Tiling(); tiling.switch(vae, plan); tiling.put_back()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reslab.residency._plan._numerics import Attention, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._placement import PlanError
from reslab.residency._plan._plan import Plan

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
