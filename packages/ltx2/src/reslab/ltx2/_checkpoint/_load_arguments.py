"""Checks of `load`'s arguments, made before a file is opened or the Hub is reached, and of its plan.

    check_load_plan(plan, components)
    leaves_in_files(plan, "text_encoder")       # True where the plan has it on disk or resident

`leaves_in_files` is the rule for a plan: weights that do not all wait in host memory stay in their files.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import torch

from reslab.ltx2._device import existing_device
from reslab.ltx2._variants import Variant, variant, variants
from reslab.residency import MERGED, Plan, PlanError

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_arguments(
    source: Any, *, name: Any, dtype: Any, device: Any, revision: Any, latent_upsampler: Any, lora: Any, two_stage: bool
) -> None:
    """Check the types of `load`'s arguments; a ValueError names the wrong one and its legal values."""
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f'load takes a folder, a Hub id or "tiny", got {source!r}.')
    if name is not None:
        _check_variant(name)
    if dtype is not None and dtype not in _DTYPES:
        named = ", ".join(map(str, _DTYPES))
        raise ValueError(f"dtype={dtype!r} is no type that the model computes in; those are {named}.")
    if device is not None:
        _check_device(device)
    if not isinstance(revision, str | None):
        raise ValueError(f"revision={revision!r} is no text; name a branch, tag or commit.")
    for key, given in (("latent_upsampler", latent_upsampler), ("lora", lora)):
        if not isinstance(given, str | os.PathLike | None):
            raise ValueError(f"{key}={given!r} is no path; give a {'folder' if key != 'lora' else 'file'}'s.")
        if given is not None and not two_stage:
            raise ValueError(f"{key} is for two stages, which two_stage=False leaves out; leave one of the two out.")


def _check_variant(name: Any) -> None:
    if not isinstance(name, str):
        raise ValueError(
            f"variant={name!r} is no name; the variants are {', '.join(repr(v.name) for v in variants())}."
        )
    variant(name)


def _check_device(device: Any) -> None:
    if not isinstance(device, str | torch.device):
        raise ValueError(f"device={device!r} is no device; set it to 'cpu' or, for example, 'cuda:0'.")
    found = existing_device(device, f"device={device!r}")
    if found.type == "meta":
        raise ValueError(f"device={device!r} holds no values; ltx2.blank builds models without weights.")


def check_lora_use(found: Variant, *, given: bool) -> None:
    """Check that a given LoRA has a use: a ValueError says that a distilled variant switches none on."""
    if given and found.is_distilled:
        base = variant(found.name.removesuffix(" distilled"))
        raise ValueError(
            f"{found.name} is distilled itself and switches no LoRA on for refining: leave lora out, or load "
            f"{base.hub_id!r} with it."
        )


def leaves_in_files(plan: Plan | None, component: str) -> bool:
    """Tell whether a component's weights stay in their files, because a plan needs none or few of them in host memory.

    >>> plan = Plan.of({"text_encoder": "disk", "transformer": "layerwise"})
    >>> [leaves_in_files(plan, name) for name in ("text_encoder", "transformer", "vae")]
    [True, False, True]

    Args:
        plan: The plan; without one all weights are loaded.
        component: The component's name.
    """
    if plan is None:
        return False
    own = [placement for (name, _stage), placement in plan.placements.items() if name == component]
    own.append(plan.placement(component))
    return any(each.kind in ("disk", "resident") or each.until == "run" for each in own)


def check_load_plan(plan: Any, components: Collection[str]) -> None:
    """Check that `plan` is a plan, and that it places only components that the model has.

    Raises:
        PlanError: It is no plan, or it places an unknown component.
    """
    if not isinstance(plan, Plan):
        raise PlanError(
            f"plan is a residency.Plan, got {type(plan).__name__}; an answer of residency.survey has one as its .plan"
        )
    for name, _stage in plan.placements:
        if name.removesuffix(MERGED) not in components:
            raise PlanError(f"the plan places {name!r}, which LTX-2 does not have; it has {', '.join(components)}")
