"""What a plan needs of each memory: the device's, pinned and pageable host memory, and whether that is there.

Host copies exist of what moves during the run; what is fetched once before it and stays needs none, and what streams
from disk needs a window as large as its slots. They are pinned as far as memory can be pinned, first what moves most
often: the rest is pageable, and slower to copy. Where host and device share one memory nothing moves, and a weight
takes its place once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._footprint import ComponentBytes, HostBytes, host_bytes
from reslab.residency._plan._placement import Kind
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._units import gib
from reslab.stages import freeze

#: What torch's allocator holds at most beyond what is alive: 2.0, 2.0 and 2.9 GiB between reserved and allocated in
#: sglang's records of resident FLUX.1, Qwen-Image and FLUX.2-klein on an H100 (0.5.23, perf_baselines/h100.json).
POOL_SLACK_BYTES = 2 * 2**30
#: The same as a share of what is alive, for small peaks: cache-dit's offload guide publishes 25 GiB for FLUX.1 with
#: model offload on an L20, where 22.6 GiB are alive; in sglang's records it is 5 % to 6 % of FLUX.1 and Qwen-Image. (A
#: pool that has no need to give anything back holds more: 27 % of FLUX.2-klein's 10.6 GiB, on a card with 80.)
POOL_SLACK_SHARE = 0.1
_POOLED = ("cuda", "xpu")


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


def memory(
    plan: Plan,
    workload: Workload,
    placed: Sequence[ComponentBytes],
    device: DeviceSpec,
    *,
    pool_slack_bytes: int | None,
) -> Memory:
    """Return what a plan needs of each memory of a device and its host."""
    weights = _on_device(workload, placed, device)
    peaks = {stage: nbytes + workload.activations.get(stage, 0) for stage, nbytes in weights.items()}
    stage = max(peaks, key=peaks.__getitem__)
    copies = {} if device.unified else host_bytes(plan, workload)
    pinned, rates = _pinned(copies, placed, device)
    return Memory(
        weight_bytes=weights,
        peak_bytes=peaks[stage],
        peak_stage=stage,
        slack_bytes=pool_slack(peaks[stage], device) if pool_slack_bytes is None else pool_slack_bytes,
        free_bytes=device.free_bytes,
        pinned_bytes=pinned,
        pageable_bytes=sum(each.nbytes for each in copies.values()) - pinned,
        host_bytes=device.host_memory_bytes,
        ns_per_byte=rates,
    )


def pool_slack(peak_bytes: int, device: DeviceSpec) -> int:
    """Return what the allocator of CUDA or XPU takes beyond a peak: `POOL_SLACK_BYTES`, or a tenth of it if less.

    >>> from reslab.residency import device
    >>> [pool_slack(peak * 2**30, device("H100")) / 2**30 for peak in (5, 60)]
    [0.5, 2.0]
    """
    return min(POOL_SLACK_BYTES, round(peak_bytes * POOL_SLACK_SHARE)) if device.kind in _POOLED else 0


def _on_device(workload: Workload, placed: Sequence[ComponentBytes], device: DeviceSpec) -> dict[str, int]:
    weights = dict.fromkeys(workload.stages, 0)
    for row in placed:
        shared = device.unified and not row.from_disk
        weights[row.stage] += workload.components[row.component].weight_bytes if shared else row.device_bytes
    return weights


def _pinned(
    copies: Mapping[str, HostBytes], placed: Sequence[ComponentBytes], device: DeviceSpec
) -> tuple[int, dict[str, float]]:
    """Return the bytes that are pinned, and what copying a byte of each component takes."""
    fetched: dict[str, int] = {}
    for row in placed:
        fetched[row.component] = fetched.get(row.component, 0) + row.fetched_bytes
    often = sorted(copies, key=lambda name: fetched[name] / max(copies[name].nbytes, 1), reverse=True)
    left, shares = device.pinnable_bytes, {}
    for name in often:
        taken = min(copies[name].nbytes, left)
        shares[name], left = taken / max(copies[name].nbytes, 1), left - taken
    rates = {name: _ns_per_byte(shares.get(name, 1.0), copies.get(name), device) for name in fetched}
    return device.pinnable_bytes - left, rates


def _ns_per_byte(share: float, copies: HostBytes | None, device: DeviceSpec) -> float:
    over_the_link = share / device.link_bytes_per_s + (1 - share) / device.link_pageable_bytes_per_s
    from_disk = 1 / device.disk_bytes_per_s if copies is not None and copies.kind is Kind.DISK else 0.0
    return 1e9 * max(over_the_link, from_disk)
