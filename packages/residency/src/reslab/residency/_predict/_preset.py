"""Presets for a rehearsal, fitted to a card, and `bounds` of a plan or a preset.

    preset("streaming", rehearsal, device="RTX 4090")      # the plan, with as many resident blocks as fit
    bounds(rehearsal, "streaming", "RTX 4090")             # its bounds
    most_resident(48, fits)                                # the search for the most blocks that fit

The recipes of the presets are in `_plan/_presets`, and what `bounds` returns is in `_bounds`.
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
    """Return the most blocks of a component that can stay on the device; 0 if not even one fits.

    More resident blocks never lower the peak, so the search bisects.

    >>> most_resident(48, lambda kept: kept * 773_000_000 <= 24_000_000_000)
    31

    Args:
        blocks: The number of blocks that the component has.
        fits: Function that returns whether a number of resident blocks fits.
    """
    # the number that fit is the index of the first that does not
    return bisect_left(range(1, blocks + 1), True, key=lambda kept: not fits(kept))


def preset_workload(rehearsal: Rehearsal, name: str, settings: Settings | Mapping[str, Any] | None) -> Workload:
    """Return the workload of a rehearsal with the choices that a preset makes."""
    return workload(rehearsal, Plan.of(settings).decide(preset_choices(name), why="preset"))


def fitted_preset(
    name: str,
    rehearsal: Rehearsal,
    card: DeviceSpec,
    *,
    component: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    allocator_slack_bytes: int | None = None,
) -> Bounds:
    """Return the bounds of a preset with as many resident blocks of one component as fit on the device.

    Args:
        name: The preset's name; a preset without resident blocks is bounded unchanged.
        rehearsal: A rehearsed run.
        card: The device.
        component: The component with resident blocks; see `main_component`.
        settings: The user's settings.
        allocator_slack_bytes: Slack of torch's allocator, as in `bounds`.
    """
    work = preset_workload(rehearsal, name, settings)

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
    """Return the plan of a preset.

    >>> from reslab.residency import Call, ComponentSize
    >>> vae = ComponentSize(outside_bytes=100)
    >>> work = Workload(components={"vae": vae}, stages=("decode",), calls=(Call(stage="decode", component="vae"),))
    >>> preset("diffusers model offload", work).placement("vae")
    swap(until='each stage', copy_back=True)

    Args:
        name: One of `presets()`, such as the name of a plan that `survey` found.
        subject: The rehearsal or workload whose components are placed.
        settings: The user's settings, which the preset never changes.
        device: The card, or its name; a preset that streams then keeps as many blocks as fit there, and otherwise none.
        component: The component with resident blocks; by default the transformer, or the heaviest.

    Raises:
        PlanError: There is no such preset or component (the message names the nearest), or a card is given for a
            workload, which does not say what its calls compute.
    """
    preset_choices(name)  # an unknown name is refused before anything else
    if isinstance(subject, Workload):
        if device is not None:
            raise PlanError(
                "device= needs a rehearsal to find the blocks that fit; a workload has only sizes and calls"
            )
        return preset_plan(name, subject, settings, component=component)
    run = one_rehearsal(subject, "presets")
    if device is not None:
        return fitted_preset(name, run, one_device(device, "presets"), component=component, settings=settings).plan
    return preset_plan(name, preset_workload(run, name, settings), settings, component=component)


def bounds(
    rehearsal: Rehearsal, plan: Plan | str, device: DeviceSpec | str, *, allocator_slack_bytes: int | None = None
) -> Bounds:
    """Bound the time and memory of a rehearsed run under a plan on a device.

    Args:
        rehearsal: The rehearsed run.
        plan: The plan, or the name of a preset, which is fitted to the device as `preset(..., device=...)` does.
        device: The device, or its name; the plan has its free memory.
        allocator_slack_bytes: Bytes that torch's allocator holds beyond live tensors; by default, on CUDA, a tenth of
            the peak and at most 2 GiB (`ALLOCATOR_SLACK_BYTES`).

    Raises:
        PlanError: There is no such preset, or the rehearsal lacks a component or stage that the plan places; the
            message names the nearest.
        RehearsalError, DeviceError: An argument is not one rehearsal or one device.
    """
    run, card = one_rehearsal(rehearsal, "bounds"), one_device(device, "bounds")
    slack = checked_slack(allocator_slack_bytes)
    if isinstance(plan, str):
        return fitted_preset(plan, run, card, allocator_slack_bytes=slack)
    if not isinstance(plan, Plan):
        raise PlanError(
            f"bounds take a Plan, or the name of a preset, got {_kind(plan)}; make one with Plan.of or preset"
        )
    return bounded(run, plan, card, allocator_slack_bytes=slack)


def checked_slack(nbytes: Any) -> int | None:
    """Return the argument if it is a number of bytes for the allocator's slack, or None for the default.

    Raises:
        ValueError: The argument is anything else.
    """
    if nbytes is None or (isinstance(nbytes, int) and not isinstance(nbytes, bool) and nbytes >= 0):
        return nbytes
    raise ValueError(f"allocator_slack_bytes is a whole number of bytes, such as 2**30, got {nbytes!r}")


def _kind(given: Any) -> str:
    return repr(given) if isinstance(given, (int, float, type(None))) else f"a {type(given).__name__}"
