"""What a plan needs of each memory: the device's, pinned and pageable host memory, and whether that is there.

What the host needs is in the account of `footprint`, which `apply` keeps to: copies of what comes and goes, and a
window for what streams from disk, pinned as far as memory can be pinned; the rest is pageable, and slower to copy.
Where host and device share one memory nothing moves, and a weight takes its place once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reslab.profiler import gib
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._workload import Workload
from reslab.residency._schedule._footprint import NOTHING, Footprint, HostBytes, allocator_slack
from reslab.stages import freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is needed of each memory, in bytes.

    Attributes:
        weight_bytes: On the device, by stage's registered name, at most.
        peak_bytes: On the device, activations included, at most.
        peak_stage: Where that is.
        slack_bytes: What the allocator takes beyond it.
        free_bytes: What the device has free.
        pinned_bytes: Host memory that is pinned.
        pageable_bytes: Host memory that should be pinned and cannot.
        host_bytes: What the host may use.
        ns_per_byte: What copying a byte of each component to the device takes.
    """

    weight_bytes: Mapping[str, int]
    peak_bytes: int
    peak_stage: str
    slack_bytes: int
    free_bytes: int
    pinned_bytes: int
    pageable_bytes: int
    host_bytes: int
    ns_per_byte: Mapping[str, float]

    def __post_init__(self) -> None:
        freeze(self)

    @property
    def fits_device(self) -> bool:
        """Tell whether the device has the memory."""
        return self.peak_bytes + self.slack_bytes <= self.free_bytes

    @property
    def fits_host(self) -> bool:
        """Tell whether the host has the memory."""
        return self.pinned_bytes + self.pageable_bytes <= self.host_bytes

    @property
    def fits(self) -> bool:
        """Tell whether both have it."""
        return self.fits_device and self.fits_host

    @property
    def missing_device_bytes(self) -> int:
        """Return the bytes that the device lacks, the allocator's slack included; 0 where it fits."""
        return max(0, self.peak_bytes + self.slack_bytes - self.free_bytes)

    @property
    def missing_host_bytes(self) -> int:
        """Return the bytes that the host lacks; 0 where it fits."""
        return max(0, self.pinned_bytes + self.pageable_bytes - self.host_bytes)

    @property
    def why(self) -> str:
        """Return in a sentence whether it fits, and where it is tightest."""
        device = (
            f"{self.peak_stage} is tightest: {gib(self.peak_bytes)} and {gib(self.slack_bytes)} of the allocator's "
            f"slack, of {gib(self.free_bytes)} free on the device"
        )
        wanted = self.pinned_bytes + self.pageable_bytes
        host = f"{gib(wanted)} of host memory, of {gib(self.host_bytes)}"
        if self.fits:
            return f"It fits: {device}; {host}."
        missing = [*([] if self.fits_device else [device]), *([] if self.fits_host else [f"it needs {host}"])]
        return f"It does not fit: {' and '.join(missing)}."


def memory(account: Footprint, workload: Workload, device: DeviceSpec, *, allocator_slack_bytes: int | None) -> Memory:
    """Return what a plan needs of each memory of a device and its host, from the account of its bytes."""
    weights = _on_device(account, workload, device)
    peaks = {stage: nbytes + account.activations[stage] for stage, nbytes in weights.items()}
    stage = max(peaks, key=peaks.__getitem__)
    slack = allocator_slack(peaks[stage], device.kind) if allocator_slack_bytes is None else allocator_slack_bytes
    host = NOTHING if device.unified else account.host(pinnable_bytes=device.pinnable_bytes)
    return Memory(
        weight_bytes=weights,
        peak_bytes=peaks[stage],
        peak_stage=stage,
        slack_bytes=slack,
        free_bytes=device.free_bytes,
        pinned_bytes=host.pinned_bytes,
        pageable_bytes=host.nbytes - host.pinned_bytes,
        host_bytes=device.host_memory_bytes,
        ns_per_byte={
            name: _ns_per_byte(name, host, device, from_disk=each.from_disk) for name, each in account.waiting.items()
        },
    )


def _on_device(account: Footprint, workload: Workload, device: DeviceSpec) -> dict[str, int]:
    weights = dict.fromkeys(workload.stages, 0)
    for row in account:
        shared = device.unified and not row.from_disk
        weights[row.stage] += workload.components[row.component].weight_bytes if shared else row.device_bytes
    return weights


def _ns_per_byte(name: str, host: HostBytes, device: DeviceSpec, *, from_disk: bool) -> float:
    if from_disk:
        share = 1.0 if host.pinned_window_bytes else 0.0
    else:
        share = host.pinned[name] / host.copies[name] if name in host.copies else 1.0
    over_the_link = share / device.link_bytes_per_s + (1 - share) / device.link_pageable_bytes_per_s
    return 1e9 * max(over_the_link, 1 / device.disk_bytes_per_s if from_disk else 0.0)
