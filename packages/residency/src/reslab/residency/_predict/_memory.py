"""The bytes that a plan needs in each memory (device, pinned host, pageable host), and whether the memory has them.

    limits = bounds(rehearsal, plan, card)
    limits.memory.fits_device, limits.memory.missing_host_bytes

Host memory is the account of `footprint`, which `apply` uses too: copies of weights that move, and a window for weights
that stream from disk. It is pinned as far as the host allows; the rest is pageable, and slower to copy. Where host and
device share one memory, no weight moves and each weight counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reslab.profiler import gib
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._workload import Workload
from reslab.residency._schedule._footprint import NOTHING, Footprint, HostBytes, allocator_slack
from reslab.stages.support import freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBounds:
    """The bytes that a plan needs in each memory, and the bytes that it has.

    Attributes:
        weight_bytes: The most bytes of weights on the device, by the stage's registered name.
        peak_bytes: The most bytes on the device, activations included.
        peak_stage: The stage with that peak.
        slack_bytes: Bytes that the allocator holds beyond the peak.
        free_bytes: Free memory of the device.
        pinned_bytes: Pinned host memory.
        pageable_bytes: Host memory that would be pinned if the host allowed it.
        host_bytes: Host memory that the plan may use.
        ns_per_byte: Time to copy a byte of each component to the device.
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
        """Return whether the device has the memory."""
        return self.peak_bytes + self.slack_bytes <= self.free_bytes

    @property
    def fits_host(self) -> bool:
        """Return whether the host has the memory."""
        return self.pinned_bytes + self.pageable_bytes <= self.host_bytes

    @property
    def fits(self) -> bool:
        """Return whether both have the memory."""
        return self.fits_device and self.fits_host

    @property
    def missing_device_bytes(self) -> int:
        """Return the bytes that the device lacks, the allocator's slack included; 0 if the plan fits."""
        return max(0, self.peak_bytes + self.slack_bytes - self.free_bytes)

    @property
    def missing_host_bytes(self) -> int:
        """Return the bytes that the host lacks; 0 if the plan fits."""
        return max(0, self.pinned_bytes + self.pageable_bytes - self.host_bytes)

    @property
    def why(self) -> str:
        """Return a sentence that says whether the plan fits, and where memory is tightest."""
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


def memory(
    account: Footprint, workload: Workload, device: DeviceSpec, *, allocator_slack_bytes: int | None
) -> MemoryBounds:
    """Return the bytes that a plan needs on a device and its host, from the account of its bytes."""
    weights = _on_device(account, workload, device)
    peaks = {stage: nbytes + account.activations[stage] for stage, nbytes in weights.items()}
    stage = max(peaks, key=peaks.__getitem__)
    slack = allocator_slack(peaks[stage], device.kind) if allocator_slack_bytes is None else allocator_slack_bytes
    host = NOTHING if device.unified else account.host(pinnable_bytes=device.pinnable_bytes)
    return MemoryBounds(
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
        # shared memory holds every weight that is not on disk, whether it is resident or waits
        shared = device.unified and not row.from_disk
        weights[row.stage] += workload.components[row.component].weight_bytes if shared else row.device_bytes
    return weights


def _ns_per_byte(name: str, host: HostBytes, device: DeviceSpec, *, from_disk: bool) -> float:
    if from_disk:
        # all that comes from disk goes through one window
        share = 1.0 if host.pinned_window_bytes else 0.0
    else:
        share = host.pinned[name] / host.copies[name] if name in host.copies else 1.0
    # reading from disk overlaps with copying, so the slower of the two counts
    over_the_link = share / device.link_bytes_per_s + (1 - share) / device.link_pageable_bytes_per_s
    return 1e9 * max(over_the_link, 1 / device.disk_bytes_per_s if from_disk else 0.0)
