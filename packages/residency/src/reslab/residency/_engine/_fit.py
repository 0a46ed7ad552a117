"""What is checked before anything moves: that the plan can be carried out in this memory.

check_executable(plan, workload)                 # what describes other tools only
check_fits(plan, workload, Budget(device_bytes=free))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reslab.residency._plan._footprint import Footprint, footprint, pool_slack
from reslab.residency._plan._keep import check_plan
from reslab.residency._plan._placement import Granularity, PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._units import size_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many bytes a plan may use; None where there is no limit, or nobody knows it.

    Args:
        device_bytes: Of the device, weights, activations and slack together.
        host_bytes: Of the host, for what comes and goes, pinned memory included.
        pinned_bytes: Of the host, pinned; what moves beyond that waits in pageable memory.
        slack_bytes: What torch's allocator takes of the device beyond what is alive; by default as in `bounds`.

    Raises:
        ValueError: For what is no number of bytes.
    """

    device_bytes: int | None = None
    host_bytes: int | None = None
    pinned_bytes: int | None = None
    slack_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (told := getattr(self, name)) is not None and (not isinstance(told, int) or told < 0):
                raise ValueError(f"{name} is a whole number of bytes, such as 12 * 2**30, got {told!r}")


def check_fits(plan: Plan, workload: Workload, budget: Budget, *, kind: str) -> None:
    """Refuse a plan that needs more memory than there is, naming what is short, where, and by how much.

    It is the account of `bounds`. Where the calls are known, it is exact. Before a first run it is, of the device, what
    stays, and each component beside it by itself: a plan that has no room for that cannot work, whatever the run will
    call. Of the host every component counts as called.

    Args:
        plan: The plan.
        workload: Sizes, and the calls as far as they are known.
        budget: What there is.
        kind: What torch calls the device, such as "cuda".

    Raises:
        PlanError: If it does not fit.
    """
    needs = list(_needs(plan, workload, budget, kind))
    if short := [
        f"{what} needs {size_text(need)}, {size_text(free)} are free" for what, need, free in needs if need > free
    ]:
        raise PlanError(
            f"the plan {plan.name!r} does not fit, so nothing was moved: {'; '.join(short)}. "
            "Place less as resident, stream more layerwise or from disk, or free memory"
        )


def _needs(plan: Plan, workload: Workload, budget: Budget, kind: str) -> Iterator[tuple[str, int, int]]:
    account = footprint(plan, workload)
    if budget.device_bytes is not None:
        for what, need in _device_needs(plan, workload, account):
            slack = pool_slack(need, kind) if budget.slack_bytes is None else budget.slack_bytes
            beside = f" with {size_text(slack)} of the allocator's slack" if slack else ""
            yield f"{what} on the device{beside}", need + slack, budget.device_bytes
    if budget.host_bytes is not None:
        yield "host memory", account.host().nbytes, budget.host_bytes


def _device_needs(plan: Plan, workload: Workload, account: Footprint) -> Iterator[tuple[str, int]]:
    for stage, need in account.device_bytes.items():
        yield f"the stage {stage!r}", need
    if not workload.calls:
        for name in workload.components:
            yield f"{name!r}", _alone(plan, workload, name)


def _alone(plan: Plan, workload: Workload, name: str) -> int:
    """Return what is on the device at least when a component runs, wherever that is: of a run that nobody knows yet."""
    blocks = tuple(range(len(workload.components[name].block_bytes)))
    calls = [Call(stage=stage, component=name, blocks=blocks) for stage in workload.stages]
    return min(footprint(plan, replace(workload, calls=(call,))).device_bytes[call.stage] for call in calls)


def check_executable(plan: Plan, workload: Workload) -> None:
    """Refuse what only describes other tools, and what the pipeline does not have.

    Raises:
        PlanError: Naming the setting and what to write instead.
    """
    if not workload.stages:
        raise PlanError("the pipeline has no stages, so there is nothing to move weights for; add them first")
    check_plan(plan, workload)
    for (component, _stage), placement in plan.placements.items():
        if placement.granularity is not Granularity.BLOCK:
            raise PlanError(
                f"{component}.granularity={str(placement.granularity)!r} describes other tools, to predict them; "
                "apply moves blocks: leave granularity out"
            )
        if placement.copy_back:
            raise PlanError(
                f"{component}.copy_back=true describes other tools, to predict them; weights cannot have changed, "
                "so apply never copies them back: leave copy_back out"
            )
