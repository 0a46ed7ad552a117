"""As many blocks on the device as it has room for: how a preset is fitted to a card.

roomy("streaming", rehearsal, device("RTX 4090"))      # bounds of the plan that keeps most of the transformer
most_resident(48, fits)                                # the search, for any plan

Presets laid over a rehearsal, and fitted to a card; the recipes are in `_plan/_presets`.

`bounds`: of a plan or a preset, on a card or a name of one; `_bounds` has what it returns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._placement import PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._presets import keeps_blocks, main_component, preset_choices, preset_plan
from reslab.residency._plan._settings import Settings
from reslab.residency._plan._workload import Workload
from reslab.residency._predict._arguments import one_device, one_rehearsal
from reslab.residency._predict._bounds import Bounds, bounded
from reslab.residency._predict._rehearsed import workload
from reslab.residency._rehearse._rehearsal import Rehearsal


def most_resident(blocks: int, fits: Callable[[int], bool]) -> int:
    """Return how many of a component's blocks can stay on the device: the most that fit, 0 where not even one does.

    More blocks never make a peak lower, so they are found by bisection.

    >>> most_resident(48, lambda kept: kept * 773_000_000 <= 24_000_000_000)
    31

    Args:
        blocks: How many there are.
        fits: Tells whether as many have room.
    """
    return bisect_left(range(1, blocks + 1), True, key=lambda kept: not fits(kept))


def placed(rehearsal: Rehearsal, name: str, settings: Settings | Mapping[str, Any] | None) -> Workload:
    """Return what a preset's plan is laid over: the workload with the choices that the preset makes."""
    return workload(rehearsal, Plan.of(settings).decide(preset_choices(name), why="preset"))


def roomy(
    name: str,
    rehearsal: Rehearsal,
    card: DeviceSpec,
    *,
    component: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    allocator_slack_bytes: int | None = None,
) -> Bounds:
    """Return the bounds of a preset, with as many blocks of one component resident as the device has room for.

    Args:
        name: The preset; one that keeps no blocks is bounded as it is.
        rehearsal: A rehearsed run.
        card: The device.
        component: Which one keeps them; see `main_component`.
        settings: What the user set.
        allocator_slack_bytes: As for `bounds`.
    """
    work = placed(rehearsal, name, settings)

    def limits(kept: int | None) -> Bounds:
        plan = preset_plan(name, work, settings, component=component, kept=kept)
        return bounded(rehearsal, plan, card, allocator_slack_bytes=allocator_slack_bytes)

    main = main_component(work, component)
    if main is None or not keeps_blocks(name):
        return limits(None)
    blocks = work.components[main].block_count
    return limits(most_resident(blocks, lambda kept: limits(kept).memory.fits_device))


def preset(
    name: str,
    subject: Rehearsal | Workload,
    *,
    settings: Settings | Mapping[str, Any] | None = None,
    device: DeviceSpec | str | None = None,
    component: str | None = None,
) -> Plan:
    """Return the plan that a preset makes.

    >>> from reslab.residency import Call, ComponentSize
    >>> vae = ComponentSize(outside_bytes=100)
    >>> work = Workload(components={"vae": vae}, stages=("decode",), calls=(Call(stage="decode", component="vae"),))
    >>> preset("diffusers model offload", work).placement("vae")
    swap(until='each stage', copy_back=True)

    Args:
        name: One of `presets()`, such as the name of a plan that `survey` found.
        subject: A rehearsal, or a workload, whose components are placed.
        settings: What the user set; the preset passes over it.
        device: A card, or its name: a preset that streams then keeps as many blocks as it has room for, else none.
        component: Which one keeps them; by default the transformer, or else the heaviest that has blocks.

    Raises:
        PlanError: There is no such preset or component; it names the nearest. Or a card is given for a workload, which
            does not say what its calls compute.
    """
    preset_choices(name)
    if isinstance(subject, Workload):
        if device is not None:
            raise PlanError("device= needs a rehearsal, to see what fits there; a workload has only sizes and calls")
        return preset_plan(name, subject, settings, component=component)
    run = one_rehearsal(subject, "presets")
    if device is not None:
        return roomy(name, run, one_device(device, "presets"), component=component, settings=settings).plan
    return preset_plan(name, placed(run, name, settings), settings, component=component)


def bounds(
    rehearsal: Rehearsal, plan: Plan | str, device: DeviceSpec | str, *, allocator_slack_bytes: int | None = None
) -> Bounds:
    """Bound what a plan costs on a device, in time and memory, for one rehearsed run.

    Args:
        rehearsal: What the run consists of.
        plan: Where weights live; or the name of a preset, fitted to the device as `preset(..., device=...)` does.
        device: What it runs on, or its name; its free memory is what there is.
        allocator_slack_bytes: What the allocator takes beyond what is alive; by default, on CUDA, a tenth of that and
            2 GiB at most (`ALLOCATOR_SLACK_BYTES`).

    Raises:
        PlanError: There is no such preset, or the plan places a component or a stage that the rehearsal does not have;
            it names the nearest.
        RehearsalError, DeviceError: For anything else than one rehearsal and one device.
    """
    run, card = one_rehearsal(rehearsal, "bounds"), one_device(device, "bounds")
    slack = checked_slack(allocator_slack_bytes)
    if isinstance(plan, str):
        return roomy(plan, run, card, allocator_slack_bytes=slack)
    if not isinstance(plan, Plan):
        raise PlanError(
            f"bounds take a Plan, or the name of a preset, got {_kind(plan)}; make one with Plan.of or preset"
        )
    return bounded(run, plan, card, allocator_slack_bytes=slack)


def checked_slack(nbytes: Any) -> int | None:
    """Return a number of bytes that a caller gave for the allocator's slack; None is the default.

    Raises:
        ValueError: For anything else.
    """
    if nbytes is None or (isinstance(nbytes, int) and not isinstance(nbytes, bool) and nbytes >= 0):
        return nbytes
    raise ValueError(f"allocator_slack_bytes is a whole number of bytes, such as 2**30, got {nbytes!r}")


def _kind(given: Any) -> str:
    return repr(given) if isinstance(given, (int, float, type(None))) else f"a {type(given).__name__}"
