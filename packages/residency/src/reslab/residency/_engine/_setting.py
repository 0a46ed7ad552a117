"""What `apply` was told beside the plan, and what follows from it: the lane, the memory, where weights wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._engine._buffers import Source
from reslab.residency._engine._checkpoint import Paths
from reslab.residency._engine._disk import Disk, Names
from reslab.residency._engine._fit import Budget
from reslab.residency._engine._lanes import CopyLane, ThreadLane
from reslab.residency._engine._merged_unit import MergedUnit
from reslab.residency._engine._throttle import Link
from reslab.residency._engine._unit import Unit
from reslab.residency._plan._placement import Kind
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a plan is carried out.

    Args:
        device: Where things compute.
        link: What copies are held to.
        budget: What may be used.
        steps_down: Whether a leaner plan is tried when memory does not suffice.
        calls: The calls that are foreseen.
        blocks: Names of blocks by component, where they are not to be found.
        files: Safetensors files by component, for what is placed on disk.
        activations: Highest bytes alive besides weights, by stage, as far as they are known.
    """

    device: torch.device
    link: Link
    budget: Budget
    steps_down: bool = False
    calls: tuple[Call, ...] = ()
    blocks: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, Paths] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)

    @property
    def pins(self) -> bool:
        """Tell whether host memory of what moves is pinned."""
        return self.device.type != "cpu" and _accelerator.pinner(self.device) is not None

    def lane(self, *, reads_disk: bool) -> CopyLane:
        """Return the lane that makes the copies: a stream, or a thread where something has to be waited for."""
        if self.device.type == "cpu":
            return ThreadLane(throttle=self.link, clock=time.perf_counter)
        if reads_disk or self.link.is_limited:
            copy = _accelerator.blocking_copy(self.device)
            return ThreadLane(copy=copy, throttle=self.link, clock=time.perf_counter)
        return _accelerator.StreamLane(self.device)


class Sources:
    """Makes the places where weights wait: host memory, pinned where they move often, or disk.

    Args:
        setting: Device and files.
        plan: Says what is on disk, and what moves.
    """

    def __init__(self, setting: Setting, plan: Plan) -> None:
        self._setting, self.disk = setting, Disk(setting.files)
        kinds: dict[str, set[Kind]] = {}
        for (component, _stage), placement in plan.placements.items():
            kinds.setdefault(component, set()).add(placement.kind)
        self._kinds = kinds
        self.names: dict[str, Names] = {}

    @property
    def reads_disk(self) -> bool:
        """Tell whether anything is read from disk."""
        return bool(self._setting.files) or any(Kind.DISK in kinds for kinds in self._kinds.values())

    def make(self, unit: Unit) -> Source:
        """Return where the weights of a unit wait from now on, copied there."""
        kinds = self._kinds.get(unit.component, {Kind.RESIDENT})
        is_pinned = self._setting.pins and kinds != {Kind.RESIDENT}
        pin = _accelerator.pinner(self._setting.device) if is_pinned else None
        if isinstance(unit, MergedUnit):
            return unit.make(pin=pin, disk=self.disk if Kind.DISK in kinds else None)
        names = self.names[unit.component]
        with torch.inference_mode(False), torch.no_grad():
            if Kind.DISK in kinds or (kinds == {Kind.RESIDENT} and unit.has_unknown):
                return self.disk.source(unit.component, unit.layout, names)
            return self.disk.memory(unit.component, unit.layout, names, pin=pin)
