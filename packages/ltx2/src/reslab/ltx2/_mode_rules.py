"""What the device modes share: a case to decide, and placing as much as fits.

Host memory runs out as well as the device's. So what is no transformer streams from host memory, and from disk where
the host has no room for it; transformers do so last, since they are read again in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reslab.residency import (
    MERGED,
    Bounds,
    DeviceSpec,
    Placement,
    Plan,
    Rehearsal,
    Settings,
    Workload,
    bounds,
    disk,
    layerwise,
    most_resident,
    resident,
    swap,
    workload,
)
from reslab.stages import Compared

TRANSFORMER = "transformer"
SECOND = TRANSFORMER + MERGED
#: Components that stream by default where not everything stays, as in the reference; all others are swapped.
LAYERWISE_BY_DEFAULT = ("text_encoder", "vae")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case(Compared):
    """What a mode decides from: a run, a device, and what a person set."""

    rehearsal: Rehearsal
    device: DeviceSpec
    settings: Settings

    @cached_property
    def has_lora(self) -> bool:
        return self.rehearsal.calls["merged_trace"].null_count() < self.rehearsal.calls.height

    def work(self, plan: Plan) -> Workload:
        return workload(self.rehearsal, plan)

    def limits(self, plan: Plan) -> Bounds:
        return bounds(self.rehearsal, plan, self.device)

    def start(self, name: str) -> Plan:
        return Plan.of(self.settings, name=name)


def place_most(case: Case, plan: Plan, transformers: list[str], whole: Placement, why: str) -> Plan:
    """Return the plan with its transformers placed whole if they fit, else with as many resident blocks as do.

    Args:
        case: What is decided.
        plan: What was decided so far.
        transformers: The components to place so.
        whole: Where they are if they fit.
        why: The reason given for that.
    """
    for others_on_disk, on_disk in ((False, False), (True, False), (True, True)):
        others = place_others(case, plan, on_disk=others_on_disk)
        placed = _transformers(case, others, transformers, whole, why, on_disk=on_disk)
        if case.limits(placed).fits:
            break
    return placed


def place_others(case: Case, plan: Plan, *, on_disk: bool = False) -> Plan:
    """Return the plan with everything placed that is no transformer."""
    for name, size in case.work(plan).components.items():
        if name not in (TRANSFORMER, SECOND):
            place, why = _other(name, bool(size.block_bytes), unified=case.device.unified, on_disk=on_disk)
            plan = decide(plan, {name: place}, why)
    return plan


def _other(name: str, has_blocks: bool, *, unified: bool, on_disk: bool) -> tuple[Placement, str]:
    if on_disk and has_blocks:
        return disk(), "it runs once, and host memory has no room for it"
    if unified:
        return resident(), "host and device share one memory: nothing has to move"
    if name in LAYERWISE_BY_DEFAULT:
        return layerwise(), "it streams by default: it is large and runs seldom"
    return swap(), "it is on the device for its stages"


def _transformers(case: Case, plan: Plan, names: list[str], whole: Placement, why: str, *, on_disk: bool) -> Plan:
    attempt = decide(plan, dict.fromkeys(names, whole), why)
    if not on_disk and case.limits(attempt).memory.fits_device:
        return attempt

    def fits(kept: int) -> bool:
        return case.limits(_streaming(plan, names, kept, on_disk=on_disk)).memory.fits_device

    kept = most_resident(len(case.work(plan).components[TRANSFORMER].block_bytes), fits)
    return _streaming(plan, names, kept, on_disk=on_disk)


def _streaming(plan: Plan, names: list[str], kept: int, *, on_disk: bool) -> Plan:
    why = f"whole it does not fit; {kept} resident blocks are as near to that as the device has room for"
    place = disk(resident=kept) if on_disk else layerwise(resident=kept)
    return decide(plan, dict.fromkeys(names, place), why)


def decide(plan: Plan, settings: Mapping[str, Any], why: str) -> Plan:
    """Return the plan with what a device mode decides, passing over what a person set."""
    return plan.decide(settings, by="device mode", why=why)
