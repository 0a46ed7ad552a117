"""What a plan asks of loading: which weights stay in their files, and that it is a plan for this model.

check_load_plan(plan, components)
leaves_in_files(plan, "text_encoder")       # on disk, or resident: the host needs none of it, at least not all
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from reslab.residency import MERGED, Plan, PlanError


def leaves_in_files(plan: Plan | None, component: str) -> bool:
    """Tell whether a plan needs a component's weights nowhere in host memory, at least not all of them.

    >>> plan = Plan.of({"text_encoder": "disk", "transformer": "layerwise"})
    >>> [leaves_in_files(plan, name) for name in ("text_encoder", "transformer", "vae")]
    [True, False, True]

    Args:
        plan: The plan; without one all is loaded.
        component: Its name.
    """
    if plan is None:
        return False
    own = [placement for (name, _stage), placement in plan.placements.items() if name == component]
    own.append(plan.placement(component))
    return any(each.kind in ("disk", "resident") or each.until == "run" for each in own)


def check_load_plan(plan: Any, components: Collection[str]) -> None:
    """Refuse what is no plan, or places what the model does not have.

    Raises:
        PlanError: Naming what is wrong, and what to give.
    """
    if not isinstance(plan, Plan):
        raise PlanError(
            f"plan is a residency.Plan, got {type(plan).__name__}; an answer of residency.survey has one as its .plan"
        )
    for name, _stage in plan.placements:
        if name.removesuffix(MERGED) not in components:
            raise PlanError(f"the plan places {name!r}, which LTX-2 does not have; it has {', '.join(components)}")
