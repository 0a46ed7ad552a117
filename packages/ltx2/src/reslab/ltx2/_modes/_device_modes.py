"""Device modes: LTX-2's presets for where two transformers' worth of weights live, each a function that makes a plan.

    plan = device_mode("auto", rehearsal("LTX-2.3"), device=residency.device("H200"))
    plan = device_mode("snapshot", checkpoint, dict(prompt="a heron", width=1536, height=1024))
    fits_resident(rehearsal("LTX-2.3"), residency.device("H200")).why

For refining, the distilled LoRA has to reach the transformer, and the modes (`DeviceMode`) differ in how it does. A
distilled variant has no LoRA, so its modes differ only in what else stays on the device. Every mode decides by bytes,
for the selected device and the requested size, never by a card's name or a round number. It keeps every setting of the
user, and a setting that contradicts the named mode is an error naming both.

Where the device's memory is short, transformers stream and keep as many resident blocks as fit. Where host memory is
short too, components other than transformers come from disk first: transformers are read again in every step.

`residency.apply(pipe, plan)` carries a plan out. Where the plan merges, refining runs on "transformer+lora", a
component with weights and bytes of its own; `residency.lora_difference` measures what merging changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from reslab.ltx2._choices import DeviceMode, choose
from reslab.residency import (
    MERGED,
    Bounds,
    DeviceSpec,
    Lora,
    Placement,
    Plan,
    PlanError,
    Rehearsal,
    Settings,
    Workload,
    bounds,
    detect,
    disk,
    layerwise,
    most_resident,
    resident,
    swap,
    user_settings,
    workload,
)
from reslab.stages import Pipeline
from reslab.stages.support import Compared

TRANSFORMER = "transformer"
SECOND = TRANSFORMER + MERGED
#: Components that stream by default where not all components are resident, as in the reference; the others are swapped.
LAYERWISE_BY_DEFAULT = ("text_encoder", "vae")
#: The types in which a caller gives the user's settings.
UserSettings = Settings | Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ModeCase(Compared):
    """Hold the run, the device and the user's settings for which a mode decides."""

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


def place_most(case: ModeCase, plan: Plan, transformers: list[str], whole: Placement, why: str) -> Plan:
    """Place everything, the transformers whole if they fit, else with as many resident blocks as fit.

    Args:
        case: The run, device and settings.
        plan: The decisions made so far.
        transformers: The names of the transformers to place.
        whole: The transformers' placement if they fit.
        why: The reason for that placement.

    Returns:
        The plan with all components placed.
    """
    for others_on_disk, on_disk in ((False, False), (True, False), (True, True)):
        others = place_others(case, plan, on_disk=others_on_disk)
        placed = _transformers(case, others, transformers, whole, why, on_disk=on_disk)
        if case.limits(placed).fits:
            break
    return placed


def place_others(case: ModeCase, plan: Plan, *, on_disk: bool = False) -> Plan:
    """Return the plan with every component placed except the transformers."""
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


def _transformers(case: ModeCase, plan: Plan, names: list[str], whole: Placement, why: str, *, on_disk: bool) -> Plan:
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
    """Return the plan with a device mode's decisions added; the user's settings stay as they are."""
    return plan.decide(settings, by="device mode", why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Hold whether the resident mode fits, and why; true in a condition where it fits.

    Attributes:
        fits: Whether the mode fits.
        why: The reason, in a sentence.
        needed_bytes: Device memory that the mode needs at its peak, the allocator's slack included.
        free_bytes: Free memory of the device.
    """

    fits: bool
    why: str
    needed_bytes: int
    free_bytes: int

    def __bool__(self) -> bool:
        return self.fits


def device_mode(
    mode: str,
    subject: Rehearsal | Pipeline | Any,
    request: Mapping[str, Any] | None = None,
    *,
    device: DeviceSpec | None = None,
    free_bytes: int | None = None,
    settings: UserSettings = None,
) -> Plan:
    """Return the plan of a device mode.

    >>> from reslab.ltx2 import rehearsal
    >>> from reslab.residency import device
    >>> device_mode("auto", rehearsal("LTX-2.3"), device=device("H200")).name
    'auto: resident'

    Args:
        mode: "original", "snapshot", "resident" or "auto"; see `DeviceMode`.
        subject: A rehearsal; or a pipeline or a checkpoint, which is rehearsed with the request.
        request: The arguments of the run, where the subject is no rehearsal.
        device: The selected device; by default this machine's.
        free_bytes: Free memory of the device; by default the device's own figure.
        settings: The user's settings, from `residency.user_settings` or as a mapping.

    Raises:
        PlanError: The mode is unknown, or a setting contradicts it or names a component that does not exist.
    """
    chosen = choose(DeviceMode, "device mode", mode, error=PlanError)
    case = _case(_rehearsed(subject, request), device, free_bytes, settings)
    _check(chosen, case.settings, has_lora=case.has_lora)
    return _PLANNERS[chosen](case)


def fits_resident(
    subject: Rehearsal | Pipeline | Any,
    device: DeviceSpec | None = None,
    *,
    request: Mapping[str, Any] | None = None,
    free_bytes: int | None = None,
    settings: UserSettings = None,
) -> Fit:
    """Tell whether the resident mode fits.

    The check goes stage by stage: the weights that the mode keeps after the user's placements, the activations at this
    size, and the allocator's slack must fit in the free memory of the selected device. The mode never fits where the
    user placed a transformer elsewhere. Every caller uses this one predicate.

    Args:
        subject: A rehearsal, a pipeline or a checkpoint, as for `device_mode`.
        device: The selected device; by default this machine's.
        request: The arguments of the run, where the subject is no rehearsal.
        free_bytes: Free memory of the device; by default the device's own figure.
        settings: The user's settings, from `residency.user_settings` or as a mapping.
    """
    case = _case(_rehearsed(subject, request), device, free_bytes, settings)
    limits = case.limits(_resident(case))
    needed = limits.memory.peak_bytes + limits.memory.slack_bytes
    elsewhere = _elsewhere(case.settings)
    why = f"You set {elsewhere}, so a transformer is not resident." if elsewhere else limits.why
    fits = limits.fits and not elsewhere
    return Fit(fits=fits, why=why, needed_bytes=needed, free_bytes=case.device.free_bytes)


def _original(case: ModeCase) -> Plan:
    plan = case.start("original")
    if case.has_lora:
        plan = decide(plan, {"lora": Lora.DYNAMIC}, "original adds the LoRA on the fly")
    return place_most(case, plan, [TRANSFORMER], resident(), "it stays, since it fits")


def _snapshot(case: ModeCase) -> Plan:
    if not case.has_lora:
        return replace(_original(case), name="snapshot")
    plan = decide(case.start("snapshot"), {"lora": Lora.MERGED}, "snapshot swaps in a copy with the LoRA merged")
    return place_most(case, plan, [TRANSFORMER, SECOND], swap(), "the other waits in host memory meanwhile")


def _resident(case: ModeCase) -> Plan:
    defaults = place_others(case, case.start("resident"))
    plan = case.start("resident")
    if case.has_lora:
        plan = decide(plan, {"lora": Lora.MERGED}, "resident switches to a transformer with the LoRA merged")
    for name in case.work(plan).components:
        was = defaults.placement(name)
        changed = "" if name in (TRANSFORMER, SECOND) or was == resident() else f", where others have it {was.kind}"
        plan = decide(plan, {name: resident()}, f"resident keeps it on the device{changed}")
    return plan


def _auto(case: ModeCase) -> Plan:
    lora = next((each.value for key, each in case.settings.items.items() if str(key) == "lora"), None)
    if elsewhere := _elsewhere(case.settings):
        return _named(_original(case), "original", f"You set {elsewhere}.")
    if lora is Lora.DYNAMIC and case.has_lora:
        return _named(_original(case), "original", "You set lora='dynamic'.")
    plan = _resident(case)
    limits = case.limits(plan)
    if limits.fits:
        return _named(plan, "resident", limits.why)
    why = f"Resident: {limits.why}"
    plan = _snapshot(case)
    if case.has_lora and (_waits_in_memory(case, plan) or lora is Lora.MERGED):
        return _named(plan, "snapshot", why)
    return _named(_original(case), "original", f"{why} Snapshot: host memory has no room for two transformers.")


_PLANNERS = {
    DeviceMode.ORIGINAL: _original,
    DeviceMode.SNAPSHOT: _snapshot,
    DeviceMode.RESIDENT: _resident,
    DeviceMode.AUTO: _auto,
}


def _waits_in_memory(case: ModeCase, plan: Plan) -> bool:
    """Tell whether a snapshot plan fits with both transformers waiting in host memory rather than on disk."""
    on_disk = any(plan.placement(name).fields()["placement"] == "disk" for name in (TRANSFORMER, SECOND))
    return not on_disk and case.limits(plan).fits


def _named(plan: Plan, mode: str, why: str) -> Plan:
    """Return the plan under auto's name; each decision of the mode says why auto chose the mode."""
    decisions = {
        key: each if plan.is_users(key) else replace(each, why=f"auto chose {mode}: {each.why}. {why}")
        for key, each in plan.decisions.items()
    }
    return replace(plan, name=f"auto: {mode}", decisions=decisions)


def _elsewhere(settings: Settings) -> str:
    """Return the user's setting that places a transformer off the device, as text; empty where there is none."""
    for key, each in settings.items.items():
        if key.subject in (TRANSFORMER, SECOND) and key.field == "placement" and each.value != "resident":
            return str(each)
    return ""


#: How the LoRA reaches the transformer; auto takes either.
_LORA = {DeviceMode.ORIGINAL: Lora.DYNAMIC, DeviceMode.SNAPSHOT: Lora.MERGED, DeviceMode.RESIDENT: Lora.MERGED}


def _check(mode: DeviceMode, settings: Settings, *, has_lora: bool) -> None:
    """Check that no setting contradicts the named mode; a PlanError names both."""
    elsewhere = _elsewhere(settings)
    if mode is DeviceMode.RESIDENT and elsewhere:
        raise PlanError(f"the device mode 'resident' contradicts {elsewhere}; leave one of them out, or take 'auto'")
    wanted = _LORA.get(mode)
    for key, each in settings.items.items():
        if str(key) == "lora" and has_lora and wanted is not None and each.value != wanted:
            raise PlanError(
                f"the device mode {str(mode)!r} contradicts {each}: it needs {str(wanted)!r}; leave one of them out"
            )


def _case(rehearsal: Rehearsal, device: DeviceSpec | None, free_bytes: int | None, settings: UserSettings) -> ModeCase:
    chosen = device or detect()
    if free_bytes is not None:
        chosen = replace(chosen, free_bytes=free_bytes)
    given = settings if isinstance(settings, Settings) else user_settings(settings or {})
    return ModeCase(rehearsal=rehearsal, device=chosen, settings=given)


def _rehearsed(subject: Rehearsal | Pipeline | Any, request: Mapping[str, Any] | None) -> Rehearsal:
    if isinstance(subject, Rehearsal):
        return subject
    from reslab.ltx2._pipeline._compose import two_stage
    from reslab.residency import rehearse

    pipeline = subject if isinstance(subject, Pipeline) else two_stage(subject)
    return rehearse(pipeline, **request or {})
