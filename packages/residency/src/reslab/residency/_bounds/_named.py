"""`bounds`: of a plan or a preset, on a card or a name of one; `_bounds` has what it returns."""

from __future__ import annotations

from typing import Any

from reslab.residency._bounds._arguments import one_device, one_rehearsal
from reslab.residency._bounds._bounds import Bounds, bounded
from reslab.residency._bounds._roomy import roomy
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._placement import PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._rehearse._rehearsal import Rehearsal


def bounds(
    rehearsal: Rehearsal, plan: Plan | str, device: DeviceSpec | str, *, pool_slack_bytes: int | None = None
) -> Bounds:
    """Bound what a plan costs on a device, in time and memory, for one rehearsed run.

    Args:
        rehearsal: What the run consists of.
        plan: Where weights live; or the name of a preset, fitted to the device as `preset(..., device=...)` does.
        device: What it runs on, or its name; its free memory is what there is.
        pool_slack_bytes: What the allocator takes beyond what is alive; by default, on CUDA, a tenth of that and
            2 GiB at most (`POOL_SLACK_BYTES`).

    Raises:
        PlanError: There is no such preset, or the plan places a component or a stage that the rehearsal does not have;
            it names the nearest.
        RehearsalError, DeviceError: For anything else than one rehearsal and one device.
    """
    run, card = one_rehearsal(rehearsal, "bounds"), one_device(device, "bounds")
    slack = checked_slack(pool_slack_bytes)
    if isinstance(plan, str):
        return roomy(plan, run, card, pool_slack_bytes=slack)
    if not isinstance(plan, Plan):
        raise PlanError(
            f"bounds take a Plan, or the name of a preset, got {_kind(plan)}; make one with Plan.of or preset"
        )
    return bounded(run, plan, card, pool_slack_bytes=slack)


def checked_slack(nbytes: Any) -> int | None:
    """Return a number of bytes that a caller gave for the allocator's slack; None is the default.

    Raises:
        ValueError: For anything else.
    """
    if nbytes is None or (isinstance(nbytes, int) and not isinstance(nbytes, bool) and nbytes >= 0):
        return nbytes
    raise ValueError(f"pool_slack_bytes is a whole number of bytes, such as 2**30, got {nbytes!r}")


def _kind(given: Any) -> str:
    return repr(given) if isinstance(given, (int, float, type(None))) else f"a {type(given).__name__}"
