"""Where every weight of a diffusion pipeline lives while it runs: described, planned, bounded on any card, and moved.

    from reslab import residency

    plan = residency.Plan.of({"text_encoder": "swap", "transformer": {"placement": "layerwise", "resident": 30}})
    card = residency.device("RTX 4090")
    residency.bounds(rehearsal, plan, card)          # whether it fits; the time of each stage, overlapped or not
    residency.charts.bounds(residency.bounds(rehearsal, plan, card).stages())
    with residency.apply(pipeline, plan):            # carries the plan out
        pipeline.run(prompt="a fox")

Read on in `help(residency.Plan)` (every setting of a plan, and the words of the field), `residency.schedule` (the order
of moves), `residency.DeviceSpec` (the figures of a card) and `residency.apply` (a plan carried out). Planning, bounds
and charts do without torch; it is imported with the first name that needs it.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from reslab.residency import charts as charts
from reslab.residency._device._catalogue import device, devices
from reslab.residency._device._detect import detect
from reslab.residency._device._evidence import Confidence, Evidence, Holder
from reslab.residency._device._machine import Machine, this_machine
from reslab.residency._device._spec import DeviceError, DeviceSpec, LinkSpeed
from reslab.residency._plan._numerics import MERGED, Lora, Numerics
from reslab.residency._plan._placement import Placement, PlanError, disk, layerwise, resident, swap
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import PresetName, presets
from reslab.residency._plan._settings import DecidedBy, Decision, Settings, user_settings
from reslab.residency._plan._workload import Call, ComponentSize, Workload, uniform_workload
from reslab.residency._predict._bounds import Bounds, link_ratio
from reslab.residency._predict._break_even import break_even, break_even_tokens
from reslab.residency._predict._memory import MemoryBounds
from reslab.residency._predict._preset import bounds, most_resident, preset
from reslab.residency._predict._rehearsed import workload
from reslab.residency._predict._slot_times import pass_time, slot_times
from reslab.residency._predict._stage_bounds import StageBounds
from reslab.residency._rehearse._failures import RehearsalError, UnknownValueError
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._report._compare_bounds import compare_bounds, record_row
from reslab.residency._report._traffic import moved_bytes
from reslab.residency._schedule._footprint import (
    ALLOCATOR_SLACK_BYTES,
    ComponentBytes,
    Footprint,
    HostBytes,
    footprint,
)
from reslab.residency._schedule._kept_units import check_plan
from reslab.residency._schedule._schedule import Act, Move, Schedule, schedule
from reslab.residency._schedule._step_down import step_down
from reslab.residency._tools import _diffusers as _diffusers  # enters itself in `TOOLS`
from reslab.residency._tools import _ltx_pipelines as _ltx_pipelines
from reslab.residency._tune._answer import SURVEY, Answer
from reslab.residency._tune._survey import Survey, survey
from reslab.residency._tune._what_helps import Advice, what_helps
from reslab.residency._units import LinkRatio
from reslab.stages.support import lazy_names

if TYPE_CHECKING:
    from reslab.residency._calibrate._link import measure_link
    from reslab.residency._engine._apply import apply
    from reslab.residency._engine._checks import Budget
    from reslab.residency._engine._host_need import host_need
    from reslab.residency._engine._lora_difference import lora_difference
    from reslab.residency._engine._residency import Residency
    from reslab.residency._engine._weight_files import KeyedFile
    from reslab.residency._errors import OutOfMemory, ResidencyError, WeightsAbsent
    from reslab.residency._rehearse._blank import blank, blanks
    from reslab.residency._rehearse._rehearse import rehearse
    from reslab.residency._rehearse._weightless import parameters_to_meta, weightless
    from reslab.residency._tools._strategy import offload_strategy

__version__ = "0.2.0"

#: Names that need torch, by module: each is imported when it is first used.
_NEEDS_TORCH = {
    "Budget": "_engine._checks",
    "KeyedFile": "_engine._weight_files",
    "OutOfMemory": "_errors",
    "Residency": "_engine._residency",
    "ResidencyError": "_errors",
    "WeightsAbsent": "_errors",
    "apply": "_engine._apply",
    "blank": "_rehearse._blank",
    "blanks": "_rehearse._blank",
    "host_need": "_engine._host_need",
    "lora_difference": "_engine._lora_difference",
    "measure_link": "_calibrate._link",
    "offload_strategy": "_tools._strategy",
    "parameters_to_meta": "_rehearse._weightless",
    "rehearse": "_rehearse._rehearse",
    "weightless": "_rehearse._weightless",
}

if not TYPE_CHECKING:  # with a __getattr__, a type checker would accept every name
    __getattr__ = lazy_names(__name__, _NEEDS_TORCH)

__all__ = [
    "ALLOCATOR_SLACK_BYTES",
    "MERGED",
    "SURVEY",
    "Act",
    "Advice",
    "Answer",
    "Bounds",
    "Budget",
    "Call",
    "ComponentBytes",
    "ComponentSize",
    "Confidence",
    "DecidedBy",
    "Decision",
    "DeviceError",
    "DeviceSpec",
    "Evidence",
    "Footprint",
    "Holder",
    "HostBytes",
    "KeyedFile",
    "LinkRatio",
    "LinkSpeed",
    "Lora",
    "Machine",
    "MemoryBounds",
    "Move",
    "Numerics",
    "OutOfMemory",
    "Placement",
    "Plan",
    "PlanError",
    "PresetName",
    "Rehearsal",
    "RehearsalError",
    "Residency",
    "ResidencyError",
    "Schedule",
    "Settings",
    "StageBounds",
    "Survey",
    "UnknownValueError",
    "WeightsAbsent",
    "Workload",
    "apply",
    "blank",
    "blanks",
    "bounds",
    "break_even",
    "break_even_tokens",
    "charts",
    "check_plan",
    "compare_bounds",
    "detect",
    "device",
    "devices",
    "disk",
    "footprint",
    "host_need",
    "layerwise",
    "link_ratio",
    "lora_difference",
    "measure_link",
    "most_resident",
    "moved_bytes",
    "offload_strategy",
    "parameters_to_meta",
    "pass_time",
    "preset",
    "presets",
    "record_row",
    "rehearse",
    "resident",
    "schedule",
    "slot_times",
    "step_down",
    "survey",
    "swap",
    "this_machine",
    "uniform_workload",
    "user_settings",
    "weightless",
    "what_helps",
    "workload",
]

# Where torch is not installed, `import *` and Tab offer the names that work without it.
if find_spec("torch") is None:
    __all__ = [name for name in __all__ if name not in _NEEDS_TORCH]


def __dir__() -> list[str]:
    return __all__
