"""What the device modes share: a case to decide, and placing as much as fits.

Host memory runs out as well as the device's. So what is no transformer streams from host memory, and from disk where
the host has no room for it; transformers do so last, since they are read again in every step.

Device modes: LTX-2's presets for where two transformers' worth of weights live, each a function to a plan.

    plan = device_mode("auto", rehearsal("LTX-2.3"), device=residency.device("H200"))
    plan = device_mode("snapshot", checkpoint, dict(prompt="a heron", width=1536, height=1024))
    fits_resident(rehearsal("LTX-2.3"), residency.device("H200")).why

`residency.apply(pipe, plan)` carries the plan out; where it merges, refining runs on "transformer+lora", whose weights
and bytes are counted beside the transformer's, and `residency.lora_difference` says what merging changes.

For refining, the distilled LoRA has to reach the transformer. The modes differ in how it does (`MODES`); a distilled
variant has no LoRA, so its modes differ only in what else stays on the device. Everything is decided by bytes, on the
device that was selected and for the size that was asked for: never by a card's name or a round number. What a person
set is passed over, and where it contradicts the mode they named, that is an error naming both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

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


MODES = {
    "original": "One transformer; for refining, the LoRA is added on the fly.",
    "snapshot": "A merged copy waits in host memory, and is swapped in for refining.",
    "resident": "Two transformers on the device, and everything else too, unless you placed it.",
    "auto": "Resident where it fits, else snapshot, else original: the leanest change between the stages that fits.",
}
Told = Settings | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether the resident mode fits, and why: truth is `fits`."""

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
    settings: Told = None,
) -> Plan:
    """Return the plan of a device mode.

    >>> from reslab.ltx2 import rehearsal
    >>> from reslab.residency import device
    >>> device_mode("auto", rehearsal("LTX-2.3"), device=device("H200")).name
    'auto: resident'

    Args:
        mode: One of `MODES`.
        subject: A rehearsal; or a pipeline or a checkpoint, which is rehearsed with the request.
        request: What the pipeline is going to be asked for, where the subject is no rehearsal.
        device: The device that was selected; by default this machine's.
        free_bytes: What of its memory is free; by default what the device says.
        settings: What a person set, from `residency.user_settings` or a mapping.

    Raises:
        PlanError: There is no such mode, or a setting contradicts it or names what is not there.
    """
    if mode not in MODES:
        raise PlanError(f"there is no device mode {mode!r}; there are: {', '.join(MODES)}")
    case = _case(_rehearsed(subject, request), device, free_bytes, settings)
    _check(mode, case.settings, has_lora=case.has_lora)
    return {"original": _original, "snapshot": _snapshot, "resident": _resident, "auto": _auto}[mode](case)


def fits_resident(
    subject: Rehearsal | Pipeline | Any,
    device: DeviceSpec | None = None,
    *,
    request: Mapping[str, Any] | None = None,
    free_bytes: int | None = None,
    settings: Told = None,
) -> Fit:
    """Tell whether the resident mode fits: the one predicate, for every caller.

    Stage by stage: what the mode keeps after the user's placements, the activations at this size, and the allocator's
    slack, against the free memory of the selected device. Where the user placed a transformer elsewhere it never fits.

    Args:
        subject: As for `device_mode`; so are the other arguments.
        device: The device that was selected.
        request: What is going to be asked for.
        free_bytes: What of the device's memory is free.
        settings: What a person set.
    """
    case = _case(_rehearsed(subject, request), device, free_bytes, settings)
    limits = case.limits(_resident(case))
    needed = limits.memory.peak_bytes + limits.memory.slack_bytes
    elsewhere = _elsewhere(case.settings)
    why = f"You set {elsewhere}, so a transformer is not resident." if elsewhere else limits.why
    fits = limits.fits and not elsewhere
    return Fit(fits=fits, why=why, needed_bytes=needed, free_bytes=case.device.free_bytes)


def _original(case: Case) -> Plan:
    plan = case.start("original")
    if case.has_lora:
        plan = decide(plan, {"lora": Lora.DYNAMIC}, "original adds the LoRA on the fly")
    return place_most(case, plan, [TRANSFORMER], resident(), "it stays, since it fits")


def _snapshot(case: Case) -> Plan:
    if not case.has_lora:
        return replace(_original(case), name="snapshot")
    plan = decide(case.start("snapshot"), {"lora": Lora.MERGED}, "snapshot swaps in a copy with the LoRA merged")
    return place_most(case, plan, [TRANSFORMER, SECOND], swap(), "the other waits in host memory meanwhile")


def _resident(case: Case) -> Plan:
    defaults = place_others(case, case.start("resident"))
    plan = case.start("resident")
    if case.has_lora:
        plan = decide(plan, {"lora": Lora.MERGED}, "resident switches to a transformer with the LoRA merged")
    for name in case.work(plan).components:
        was = defaults.placement(name)
        changed = "" if name in (TRANSFORMER, SECOND) or was == resident() else f", where others have it {was.kind}"
        plan = decide(plan, {name: resident()}, f"resident keeps it on the device{changed}")
    return plan


def _auto(case: Case) -> Plan:
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


def _waits_in_memory(case: Case, plan: Plan) -> bool:
    """Tell whether a snapshot is one: both transformers in host memory, and all of it fits."""
    on_disk = any(plan.placement(name).fields()["placement"] == "disk" for name in (TRANSFORMER, SECOND))
    return not on_disk and case.limits(plan).fits


def _named(plan: Plan, mode: str, why: str) -> Plan:
    """Return the plan under auto's name, every decision of the mode saying why it was chosen."""
    decisions = {
        key: each if plan.is_users(key) else replace(each, why=f"auto chose {mode}: {each.why}. {why}")
        for key, each in plan.decisions.items()
    }
    return replace(plan, name=f"auto: {mode}", decisions=decisions)


def _elsewhere(settings: Settings) -> str:
    """Return the setting of a person's that places a transformer off the device, if there is one."""
    for key, each in settings.items.items():
        if key.subject in (TRANSFORMER, SECOND) and key.field == "placement" and each.value != "resident":
            return str(each)
    return ""


def _check(mode: str, settings: Settings, *, has_lora: bool) -> None:
    """Raise where a setting contradicts the mode that was named."""
    elsewhere = _elsewhere(settings)
    if mode == "resident" and elsewhere:
        raise PlanError(f"the device mode 'resident' contradicts {elsewhere}; leave one of them out, or take 'auto'")
    wanted = {"original": Lora.DYNAMIC, "snapshot": Lora.MERGED, "resident": Lora.MERGED}.get(mode)
    for key, each in settings.items.items():
        if str(key) == "lora" and has_lora and wanted is not None and each.value != wanted:
            raise PlanError(
                f"the device mode {mode!r} contradicts {each}: it needs {str(wanted)!r}; leave one of them out"
            )


def _case(rehearsal: Rehearsal, device: DeviceSpec | None, free_bytes: int | None, settings: Told) -> Case:
    chosen = device or detect()
    if free_bytes is not None:
        chosen = replace(chosen, free_bytes=free_bytes)
    told = settings if isinstance(settings, Settings) else user_settings(settings or {})
    return Case(rehearsal=rehearsal, device=chosen, settings=told)


def _rehearsed(subject: Rehearsal | Pipeline | Any, request: Mapping[str, Any] | None) -> Rehearsal:
    if isinstance(subject, Rehearsal):
        return subject
    from reslab.ltx2._pipeline._compose import two_stage
    from reslab.residency import rehearse

    pipeline = subject if isinstance(subject, Pipeline) else two_stage(subject)
    return rehearse(pipeline, **request or {})
