"""Detection of this machine's device: its name, its free memory and who holds the rest, and the memory of its host.

    here = detect()                        # the accelerator that torch sees, else the CPU
    here = detect("cuda:1")                # another one
    here = detect(link="1 GB/s")           # with another link rate
    here = detect(link=measure_link())     # with the measured link rate
    here = detect(compute="44 TFLOP/s", bandwidth="288 GB/s")           # a card that the catalogue does not have

Memory is read from the driver, and rates come from the catalogue by the card's name; nothing is timed. Where one name
stands for two sizes, the memory decides. A MIG slice gets a share of its card's rates. A card that is not in the
catalogue has memory and no rates until they are given.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from reslab.residency._device._catalogue import build, find, like_card, linked, unknown_card, with_rates
from reslab.residency._device._evidence import Confidence, Evidence, Holder
from reslab.residency._device._given import Compute, Size, assumed, size, with_figures, with_host
from reslab.residency._device._machine import HostMemory, Machine, this_machine
from reslab.residency._device._machine import host_memory as read_host_memory
from reslab.residency._device._spec import DeviceError, DeviceSpec, LinkSpeed

#: The name of a slice: its card, and its number of the card's compute slices.
_SLICE = re.compile(r"(.*) MIG (?:(\d+)c\.)?(\d+)g\..*")
#: Compute slices of a card: seven, except the cards for which the MIG user guide lists four.
_SLICES, _FEWER = 7, {"A30": 4, "RTX PRO 6000": 4, "RTX PRO 6000 Max-Q": 4, "RTX PRO 6000 Server": 4}
#: One core: two 256-bit fused multiply-adds a cycle on eight float32 at 2.5 GHz.
_CPU_FLOPS_PER_S = 2 * 8 * 2 * 2_500_000_000
_CPU_MEMORY_BYTES_PER_S = 20_000_000_000
_CPU_DISK_BYTES_PER_S = 5_000_000_000
_CPU_HOST_NS = 5_000
_CPU_TYPICAL = (
    "memory_bytes_per_s",
    "host_ns_per_operation",
    "link_bytes_per_s",
    "link_back_bytes_per_s",
    "link_pageable_bytes_per_s",
    "disk_bytes_per_s",
)


def detect(
    device: str | None = None,
    *,
    like: str | None = None,
    compute: Compute | None = None,
    bandwidth: Size | None = None,
    link: int | str | LinkSpeed | None = None,
    host_memory: Size | None = None,
    machine: Machine | None = None,
) -> DeviceSpec:
    """Describe a device of this machine.

    Args:
        device: The device's name in torch, such as "cuda:1", "xpu" or "cpu"; by default the accelerator, else the CPU.
        like: A card of the catalogue that lends its rates, which are then assumed.
        compute: Throughput of 16-bit matrix products, such as "44 TFLOP/s", or by type; see `device`.
        bandwidth: Bandwidth of the device's memory, such as "288 GB/s".
        link: Rate of copies to assume, such as "1 GB/s", or a `LinkSpeed` from `measure_link`; memory is then not
            unified.
        host_memory: Host memory to assume, all of it pinnable; by default the memory that is available now.
        machine: The machine to read, by default this one; tests give another.

    Returns:
        The device, with its memory as the driver reports it now.

    Raises:
        DeviceError: The machine has no such device, or torch sees an accelerator of an unsupported kind.
    """
    machine = machine or this_machine()
    host = read_host_memory(machine)
    kind, index = _choose(device, machine)
    spec = _cpu(machine, host) if kind == "cpu" else _accelerator(kind, index, like, machine, host)
    spec = with_rates(spec, compute, bandwidth)
    if host_memory is not None:
        spec = with_host(spec, size("host_memory", host_memory))
    return linked(spec, link)


def _choose(device: str | None, machine: Machine) -> tuple[str, int]:
    counts = _accelerators(machine.torch)
    if device is None and not counts:
        _check_none(machine.torch)
    kind, _, number = (device or next(iter(counts), "cpu")).partition(":")
    count = 1 if kind == "cpu" else counts.get(kind, 0)
    if not ((number or "0").isdigit() and int(number or 0) < count):
        seen = " and ".join(f"{each}:0 to {each}:{count - 1}" for each, count in counts.items())
        has = seen or "no accelerator that torch sees"
        raise DeviceError(f"there is no device {device!r} here; this machine has the CPU and {has}")
    return kind, int(number or 0)


def _accelerators(torch: Any) -> dict[str, int]:
    """Return the number of devices that torch sees of each kind; AMD's count as "cuda"."""
    kinds = ("cuda", "xpu") if torch is not None else ()
    parts = {kind: getattr(torch, kind, None) for kind in kinds}
    found = {kind: part.device_count() for kind, part in parts.items() if part is not None and part.is_available()}
    if torch is not None and torch.backends.mps.is_available():
        found["mps"] = 1
    return found


def _check_none(torch: Any) -> None:
    """Raise if torch sees an accelerator of another kind, so that it is not mistaken for a CPU."""
    part = getattr(torch, "accelerator", None)
    found = part.current_accelerator() if part is not None and part.is_available() else None
    if found is not None:
        raise DeviceError(
            f"torch sees an accelerator of the kind {found.type!r}, which detect cannot read; describe it with "
            "device(..., memory=, compute=, bandwidth=), or use detect('cpu')"
        )


def _accelerator(kind: str, index: int, like: str | None, machine: Machine, host: HostMemory) -> DeviceSpec:
    name, total, free, own, properties = (_mps if kind == "mps" else _card)(kind, index, machine)
    spec = like_card(name, like, total) if like else _by_name(name, kind, total)
    spec = with_figures(spec, {"memory_bytes": total, "free_bytes": free}, _detected("the driver"), name=name)
    spec = with_figures(spec, {"host_memory_bytes": host.usable_bytes}, _available(host))
    spec = with_figures(spec, {"pinnable_bytes": host.pinnable_bytes}, _detected(host.pinnable_because))
    holders = _holders(machine, getattr(properties, "uuid", None), held=total - free - own, own=own)
    shares = bool(getattr(properties, "is_integrated", kind == "mps"))
    return replace(spec, kind=kind, unified=shares, holders=holders)


def _mps(_kind: str, _index: int, machine: Machine) -> tuple[str, int, int, int, Any]:
    """Return name, total memory, free memory and memory held by this process of an Apple GPU."""
    total = machine.torch.mps.recommended_max_memory()
    return machine.chip() or "Apple GPU", total, total - machine.torch.mps.driver_allocated_memory(), 0, None


def _card(kind: str, index: int, machine: Machine) -> tuple[str, int, int, int, Any]:
    """Return the same for a card, with its properties."""
    part = getattr(machine.torch, kind)
    properties = part.get_device_properties(index)
    own = part.memory_reserved(index)
    if hasattr(part, "mem_get_info"):
        free, total = part.mem_get_info(index)
    else:  # older builds for Intel
        total = properties.total_memory
        free = total - own
    return properties.name, total, free, own, properties


def _by_name(name: str, kind: str, total: int) -> DeviceSpec:
    """Return the catalogue's device of this name and memory, a slice of it, or a device without rates."""
    found = find(name, total)
    if found is not None:
        return build(found)
    match = _SLICE.fullmatch(name)
    card = find(match[1]) if match else None
    if match is None or card is None:
        return unknown_card(name, total, kind=kind)
    parts = int(match[2] or match[3])
    return _slice(build(card), parts / _FEWER.get(card, _SLICES), total)


def _slice(card: DeviceSpec, compute: float, total: int) -> DeviceSpec:
    """Return a slice of a card: throughput in proportion to compute slices, bandwidth to memory."""
    share = total / card.memory_bytes
    bandwidth = None if card.memory_bytes_per_s is None else round(card.memory_bytes_per_s * share)
    part = assumed(f"{card.name}'s × {share:.2f}, the slice's share of the memory")
    spec = with_figures(card, {"memory_bytes_per_s": bandwidth}, part)
    kinds = ("matrix_flops_per_s", "attention_flops_per_s")
    rates = {kind: {dtype: round(rate * compute) for dtype, rate in getattr(card, kind).items()} for kind in kinds}
    slower = assumed(f"{card.name}'s × {compute:.2f}, the slice's share of the compute")
    evidence = {f"{kind}.{dtype}": slower for kind, each in rates.items() for dtype in each}
    return replace(spec, evidence={**spec.evidence, **evidence}, **rates)  # type: ignore[arg-type]


def _holders(machine: Machine, uuid: Any, *, held: int, own: int) -> tuple[Holder, ...]:
    """Return the holders of memory: this process, others that the driver names, and the rest."""
    listed = [] if uuid is None else _processes(machine, str(uuid))
    rest = held - sum(holder.nbytes for holder in listed)
    mine = [Holder(who="torch in this process", nbytes=own)] if own > 0 else []
    other = [Holder(who="the driver, and processes that it does not name", nbytes=rest)] if rest > 0 else []
    return (*mine, *listed, *other)


def _processes(machine: Machine, uuid: str) -> list[Holder]:
    which = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    query = "--query-compute-apps=pid,process_name,used_memory"
    text = machine.driver([f"--id={which}", query, "--format=csv,noheader,nounits"]) or ""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    named = [
        row for row in rows if len(row) == 3 and row[2].isdigit()
    ]  # the driver prints "[N/A]" where it may not say
    return [Holder(who=f"{name} (process {pid})", nbytes=int(used) * 2**20) for pid, name, used in named]


def _cpu(machine: Machine, host: HostMemory) -> DeviceSpec:
    flops = machine.cpus * _CPU_FLOPS_PER_S
    rates = dict.fromkeys(("float32", "bfloat16", "float16"), flops)
    cores = assumed(f"{machine.cpus} cores × 80 GFLOP/s of AVX2 at 2.5 GHz")
    evidence = {
        **dict.fromkeys(("memory_bytes", "free_bytes"), _detected(host.limited_by)),
        "host_memory_bytes": _available(host),
        **dict.fromkeys(_CPU_TYPICAL, assumed("typical desktop")),
        "pinnable_bytes": _detected("the CPU computes without pinned memory"),
        **{f"{kind}_flops_per_s.{dtype}": cores for kind in ("matrix", "attention") for dtype in rates},
    }
    return DeviceSpec(
        name="CPU",
        kind="cpu",
        memory_bytes=host.limit_bytes,
        free_bytes=host.available_bytes,
        memory_bytes_per_s=_CPU_MEMORY_BYTES_PER_S,
        matrix_flops_per_s=rates,
        attention_flops_per_s=rates,
        host_ns_per_operation=_CPU_HOST_NS,
        link_bytes_per_s=_CPU_MEMORY_BYTES_PER_S,
        link_back_bytes_per_s=_CPU_MEMORY_BYTES_PER_S,
        link_pageable_bytes_per_s=_CPU_MEMORY_BYTES_PER_S,
        disk_bytes_per_s=_CPU_DISK_BYTES_PER_S,
        host_memory_bytes=host.usable_bytes,
        pinnable_bytes=host.available_bytes,
        unified=True,
        evidence=evidence,
    )


def _available(host: HostMemory) -> Evidence:
    return _detected(f"{host.limited_by}: available now, less a tenth")


def _detected(source: str) -> Evidence:
    return Evidence(confidence=Confidence.DETECTED, source=source)
