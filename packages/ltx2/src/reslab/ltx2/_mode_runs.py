"""Device modes, really run: what each moves, holds and takes, measured on this machine.

    runs = compare_modes(pipe, request, link=residency.like(residency.device("H100"), rehearsal))
    runs                                     # in a notebook: a row a mode
    runs.frame(); runs.chart()
    run_mode("original", pipe, request, settings={"transformer.resident": 4}).profile.timeline()

A mode is planned as for a card: the device's memory is not the host's, on a CPU too, where it is a second copy. Each
is run twice. The first run finds out the calls and brings what stays; where the link is a card's ratio of copying to
computing, it also finds out how fast computing is here. The second is what is measured: a video that follows others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reslab import residency
from reslab.ltx2._device import default_device
from reslab.ltx2._mode_run import ModeRun, ModeRuns
from reslab.ltx2._modes import Told, device_mode
from reslab.profiler import Profiler
from reslab.residency import DeviceSpec, Plan, PlanError, Rehearsal
from reslab.stages import Pipeline

MODES_COMPARED = ("original", "snapshot", "resident")
_ANY_LINK = "1 GB/s"  # a device with a link has memory of its own; the modes decide by bytes, whatever its speed


def compare_modes(
    pipe: Pipeline,
    request: Mapping[str, Any],
    *,
    modes: Iterable[str] = MODES_COMPARED,
    rehearsal: Rehearsal | None = None,
    free_bytes: int | None = None,
    link: Any = None,
    settings: Told = None,
) -> ModeRuns:
    """Make one video in each device mode, all over the same link.

    Args:
        pipe: A two-stage pipeline of this package.
        request: What it is asked for.
        modes: Keys of `MODES`.
        rehearsal: Of the pipeline with that request; by default it is made.
        free_bytes: What the device is taken to have free; by default nothing limits it.
        link: As for `residency.apply`. A card's ratio becomes a bandwidth in the first mode, and all others have that.
        settings: What a person set, as for `device_mode`.

    Raises:
        PlanError: As for `run_mode`.
    """
    known, runs = rehearsal or residency.rehearse(pipe, **request), []
    for mode in modes:
        run = run_mode(mode, pipe, request, rehearsal=known, free_bytes=free_bytes, link=link, settings=settings)
        link = link if run.link_bytes_per_s is None else round(run.link_bytes_per_s)
        runs.append(run)
    return ModeRuns(runs=tuple(runs), free_bytes=free_bytes)


def run_mode(
    mode: str,
    pipe: Pipeline,
    request: Mapping[str, Any],
    *,
    rehearsal: Rehearsal | None = None,
    free_bytes: int | None = None,
    link: Any = None,
    settings: Told = None,
) -> ModeRun:
    """Make two videos in one device mode, and measure the second.

    Args:
        mode: A key of `MODES`.
        pipe: A two-stage pipeline of this package.
        request: What it is asked for.
        rehearsal: Of the pipeline with that request; by default it is made.
        free_bytes: What the device is taken to have free; by default nothing limits it.
        link: As for `residency.apply`.
        settings: What a person set, as for `device_mode`.

    Raises:
        PlanError: The mode does not fit in `free_bytes`, or contradicts a setting; nothing was moved.
    """
    known = rehearsal or residency.rehearse(pipe, **request)
    plan = _fitting(mode, known, _as_a_card(free_bytes), settings)
    budget = residency.Budget(device_bytes=free_bytes)
    with residency.apply(pipe, plan, device=default_device(), link=link, budget=budget) as managed:
        pipe.run(**request)
        with Profiler(pipe, memory=None) as prof:
            result = pipe.run(**request)
        return ModeRun(
            mode=plan.name,
            plan=plan,
            profile=prof.profile,
            result=result,
            link_bytes_per_s=managed.link_bytes_per_s,
            moved_bytes=sum(managed.fetched_bytes.values()),
            stays_bytes=managed.device_bytes,
            peak_bytes=managed.peak_bytes,
            host_bytes=int(managed.table()["host_bytes"].sum()),
        )


def _as_a_card(free_bytes: int | None) -> DeviceSpec:
    card = residency.detect("cpu", link=_ANY_LINK)
    return card if free_bytes is None else replace(card, free_bytes=free_bytes)


def _fitting(mode: str, rehearsal: Rehearsal, card: DeviceSpec, settings: Told) -> Plan:
    plan = device_mode(mode, rehearsal, device=card, settings=settings)
    limits = residency.bounds(rehearsal, plan, card)
    if not limits.fits:
        raise PlanError(f"{plan.name}: {limits.why} Nothing was moved; take another mode, or fewer resident blocks.")
    return plan
