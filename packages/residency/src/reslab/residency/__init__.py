"""Where every weight of a diffusion pipeline lives while it runs: described, planned, and bounded on any card.

    from reslab import residency

    plan = residency.Plan.of({"text_encoder": "swap", "transformer": {"placement": "layerwise", "resident": 30}})
    card = residency.device("RTX 4090")
    residency.bounds(rehearsal, plan, card)          # fits or not; the least and the most that every stage takes

Read on in `_plan/_keys` (what a plan can be told), `_plan/_placement` (the four places), `_plan/_schedule` (the order
of moves) and `_device/_spec` (what is known of a card). Nothing here imports torch.
"""

from reslab.residency._plan._footprint import ComponentBytes, device_bytes, footprint
from reslab.residency._plan._moves import Act, Move, Schedule
from reslab.residency._plan._numerics import Lora, Numerics
from reslab.residency._plan._placement import Placement, PlanError, disk, layerwise, resident, swap
from reslab.residency._plan._plan import DecidedBy, Decision, Plan
from reslab.residency._plan._schedule import schedule
from reslab.residency._plan._settings import Settings, user_settings
from reslab.residency._plan._workload import Call, ComponentSize, Workload, check_plan

__version__ = "0.1.0"

__all__ = [
    "Act",
    "Call",
    "ComponentBytes",
    "ComponentSize",
    "DecidedBy",
    "Decision",
    "Lora",
    "Move",
    "Numerics",
    "Placement",
    "Plan",
    "PlanError",
    "Schedule",
    "Settings",
    "Workload",
    "check_plan",
    "device_bytes",
    "disk",
    "footprint",
    "layerwise",
    "resident",
    "schedule",
    "swap",
    "user_settings",
]
