"""A plan as the offload strategy of diffusers' `ComponentsManager`: it chooses the models that leave for another one.

    manager = diffusers.ComponentsManager()
    pipe = diffusers.ModularPipeline.from_pretrained(…, components_manager=manager)
    manager.enable_auto_cpu_offload(device="cuda", offload_strategy=offload_strategy(plan))

The manager moves a whole model to the device when it is called, and copies models back when they leave; the plan
decides which models leave. Components that the plan streams need group offload first
(`print(plan.as_code("diffusers"))`); without it the manager moves them whole too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._plan._placement import Place, Until
from reslab.residency._plan._plan import Plan
from reslab.residency._units import parse_bytes


class Hook(Protocol):
    """A model on the device, as the manager passes it."""

    model_id: str
    model: torch.nn.Module


H = TypeVar("H", bound=Hook)


class OffloadStrategy:
    """Chooses the models that leave the device; `offload_strategy` makes one."""

    def __init__(self, plan: Plan, reserve_bytes: int, free_bytes: Callable[[torch.device], int | None]) -> None:
        self.plan = plan
        self._reserve_bytes, self._free_bytes = reserve_bytes, free_bytes
        self._came: dict[str, int] = {}

    def __call__(
        self, hooks: Sequence[H], model_id: str, model: torch.nn.Module, execution_device: torch.device
    ) -> list[H]:
        """Return the models that leave the device before another model is moved there."""
        self._came[model_id] = max(self._came.values(), default=0) + 1
        leaving = [hook for hook in hooks if self._leaves_at_once(hook.model_id)]
        free = self._free_bytes(execution_device)
        if free is None:
            return leaving + [hook for hook in hooks if self._may_stay(hook.model_id)]
        short = _size(model) + self._reserve_bytes - free - sum(_size(hook.model) for hook in leaving)
        waiting = [hook for hook in hooks if self._may_stay(hook.model_id)]
        for hook in sorted(waiting, key=lambda hook: self._came.get(hook.model_id, 0)):
            if short > 0:
                leaving.append(hook)
                short -= _size(hook.model)
        return leaving

    def _leaves_at_once(self, model_id: str) -> bool:
        placement = self.plan.placement(_name(model_id))
        return placement.kind is not Place.RESIDENT and (placement.streams or placement.until is Until.EACH)

    def _may_stay(self, model_id: str) -> bool:
        placement = self.plan.placement(_name(model_id))
        return placement.kind is Place.SWAP and placement.until is not Until.EACH

    def __repr__(self) -> str:
        return f"OffloadStrategy({self.plan.name!r})"


def offload_strategy(
    plan: Plan,
    *,
    reserve: int | str = "3 GiB",
    free_bytes: Callable[[torch.device], int | None] = _accelerator.free_bytes,
) -> OffloadStrategy:
    """Return a plan as the `offload_strategy` of `ComponentsManager.enable_auto_cpu_offload`.

    Resident components never leave. A swap until "each stage" leaves as soon as another model is called. A swap until
    "last stage" stays while there is room; then the model that came first leaves first.

    >>> from types import SimpleNamespace as Hook
    >>> from reslab.residency import Plan
    >>> decide = offload_strategy(Plan.of({"vae": "swap"}), reserve=0, free_bytes=lambda device: 100)
    >>> there = [Hook(model_id=f"{name}_1", model=torch.nn.Linear(4, 4)) for name in ("vae", "transformer")]
    >>> [[hook.model_id for hook in decide(there, "text_encoder_1", torch.nn.Linear(size, 4), torch.device("cpu"))]
    ...  for size in (4, 9)]
    [[], ['vae_1']]

    Args:
        plan: A plan whose components have the manager's names; placements for one stage alone are ignored.
        reserve: Bytes to keep free for activations, or a text such as "3 GiB", which is diffusers' default.
        free_bytes: Returns the free bytes of a device, None if unknown; then every swap leaves.

    Raises:
        ValueError: `reserve` is not a size.
    """
    return OffloadStrategy(plan, parse_bytes(reserve), free_bytes)


def _name(model_id: str) -> str:
    """Return a component's name without the object's identity that the manager appends."""
    return model_id.rpartition("_")[0]


def _size(model: torch.nn.Module) -> int:
    return sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
