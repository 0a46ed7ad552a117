"""The device of this machine: what it is, what is free and who holds the rest, and what its host allows.

    here = detect()                        # the accelerator that torch sees, else the CPU
    here = detect("cuda:1")                # another one
    here = detect(link="1 GB/s")           # as if copies were as slow as that
    here = detect(link=measure_link())     # with the link as it was timed

Memory is read from the driver, rates come from the catalogue by the card's name: nothing is timed. A card whose
name says more than it has (a slice of an H200 calls itself H200) gets rates by its share of the memory.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from reslab.residency._device._catalogue import device as catalogued
from reslab.residency._device._catalogue import devices, find, with_figures
from reslab.residency._device._host import HostMemory
from reslab.residency._device._host import host_memory as read_host_memory
from reslab.residency._device._link import LinkSpeed
from reslab.residency._device._machine import Machine, this_machine
from reslab.residency._device._spec import Confidence, DeviceError, DeviceSpec, Evidence, Holder
from reslab.residency._units import nearest, parse_bytes, parse_rate

#: Below this share of the memory that its name promises, a device is a slice of the card.
_SLICE = 0.9
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
    link: int | str | LinkSpeed | None = None,
    host_memory: int | str | None = None,
    machine: Machine | None = None,
) -> DeviceSpec:
    """Describe a device of this machine.

    Args:
        device: What torch calls it, such as "cuda:1" or "cpu"; by default the accelerator, else the CPU.
        like: A device of the catalogue whose rates it has, where the catalogue does not know its name.
        link: Take copies to be as fast as this, such as "1 GB/s" or what `measure_link` found; memory is then not
            unified.
        host_memory: Take the host to have this much, all of it to be pinned; by default what it has.
        machine: Another machine to look at; a test's.

    Returns:
        A device whose memory is what the driver says now.

    Raises:
        DeviceError: The machine has no such device, or the catalogue does not know it and `like` is not given.
    """
    machine = machine or this_machine()
    host = read_host_memory(machine)
    kind, index = _choose(device, machine)
    spec = _cpu(machine, host) if kind == "cpu" else _accelerator(kind, index, like, machine, host)
    told = Evidence(confidence=Confidence.GIVEN, source="you")
    if host_memory is not None:
        memory = dict.fromkeys(("host_memory_bytes", "pinnable_bytes"), parse_bytes(host_memory))
        spec = with_figures(spec, memory, told)
    if link is None:
        return spec
    if isinstance(link, LinkSpeed):
        return replace(with_figures(spec, link.figures, link.evidence), unified=False)
    given = dict.fromkeys(("link_bytes_per_s", "link_back_bytes_per_s", "link_pageable_bytes_per_s"), parse_rate(link))
    return replace(with_figures(spec, given, told), unified=False)


def _choose(device: str | None, machine: Machine) -> tuple[str, int]:
    torch = machine.torch
    found = "cpu"
    if torch is not None and torch.cuda.is_available():
        found = "cuda"
    elif torch is not None and torch.backends.mps.is_available():
        found = "mps"
    kind, _, number = (device or found).partition(":")
    count = torch.cuda.device_count() if found == "cuda" else 1
    exists = kind == "cpu" or (kind == found and (number or "0").isdigit() and int(number or 0) < count)
    if not exists:
        has = "no accelerator that torch sees" if found == "cpu" else f"{found}:0 to {found}:{count - 1}"
        raise DeviceError(f"there is no device {device!r} here; this machine has the CPU and {has}")
    return kind, int(number or 0)


def _accelerator(kind: str, index: int, like: str | None, machine: Machine, host: HostMemory) -> DeviceSpec:
    torch = machine.torch
    if kind == "mps":
        name, unified = "Apple GPU", True
        total = torch.mps.recommended_max_memory()
        free, own, uuid = total - torch.mps.driver_allocated_memory(), 0, None
    else:
        properties = torch.cuda.get_device_properties(index)
        name, unified = properties.name, bool(getattr(properties, "is_integrated", False))
        free, total = torch.cuda.mem_get_info(index)
        own, uuid = torch.cuda.memory_reserved(index), getattr(properties, "uuid", None)
    spec = _rates(name, like, total)
    here = {"memory_bytes": total, "free_bytes": free}
    spec = with_figures(spec, here, _detected("the driver"), name=name)
    spec = with_figures(spec, {"host_memory_bytes": host.usable_bytes}, _available(host))
    spec = with_figures(spec, {"pinnable_bytes": host.pinnable_bytes}, _detected(host.pinnable_because))
    holders = _holders(machine, uuid, held=total - free - own, own=own)
    return replace(spec, kind=kind, unified=unified, holders=holders)


def _rates(name: str, like: str | None, total: int) -> DeviceSpec:
    """Return the catalogue's device of this name, its rates scaled to its share of the memory where it is a slice."""
    found = like or find(name) or find(name.split(" MIG")[0])
    if found is None:
        raise DeviceError(
            f"the catalogue does not know {name!r}; say which card it is like, as in "
            f"detect(like={devices()[8]!r}): {nearest(name, devices())}"
        )
    spec = catalogued(found)
    share = total / spec.memory_bytes
    if like or share >= _SLICE:
        return spec
    source = f"{spec.name}'s × {share:.2f}, its share of the memory: it is a slice of the card"
    evidence = Evidence(confidence=Confidence.ASSUMED, source=source)
    kinds = ("matrix_flops_per_s", "attention_flops_per_s")
    scaled = {kind: {dtype: round(rate * share) for dtype, rate in getattr(spec, kind).items()} for kind in kinds}
    sources = {f"{kind}.{dtype}": evidence for kind, rates in scaled.items() for dtype in rates}
    sliced = with_figures(spec, {"memory_bytes_per_s": round(spec.memory_bytes_per_s * share)}, evidence)
    frozen = {kind: MappingProxyType(rates) for kind, rates in scaled.items()}
    return replace(sliced, evidence=MappingProxyType({**sliced.evidence, **sources}), **frozen)  # type: ignore[arg-type]


def _holders(machine: Machine, uuid: Any, *, held: int, own: int) -> tuple[Holder, ...]:
    """Return who holds memory: this process, others by name where the driver tells them, and the rest."""
    listed = [] if uuid is None else _processes(machine, str(uuid))
    rest = held - sum(holder.nbytes for holder in listed)
    mine = [Holder(who="torch in this process", nbytes=own)] if own > 0 else []
    other = [Holder(who="the driver, and others that it does not name", nbytes=rest)] if rest > 0 else []
    return (*mine, *listed, *other)


def _processes(machine: Machine, uuid: str) -> list[Holder]:
    which = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    query = "--query-compute-apps=pid,process_name,used_memory"
    text = machine.driver([f"--id={which}", query, "--format=csv,noheader,nounits"]) or ""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    named = [row for row in rows if len(row) == 3 and row[2].isdigit()]  # "[N/A]" where it may not tell
    return [Holder(who=f"{name} (process {pid})", nbytes=int(used) * 2**20) for pid, name, used in named]


def _cpu(machine: Machine, host: HostMemory) -> DeviceSpec:
    flops = machine.cpus * _CPU_FLOPS_PER_S
    rates = MappingProxyType(dict.fromkeys(("float32", "bfloat16", "float16"), flops))
    assumed = Evidence(confidence=Confidence.ASSUMED, source=f"{machine.cpus} cores × 80 GFLOP/s of AVX2 at 2.5 GHz")
    typical = Evidence(confidence=Confidence.ASSUMED, source="a usual desktop")
    evidence = {
        **dict.fromkeys(("memory_bytes", "free_bytes"), _detected(host.limited_by)),
        "host_memory_bytes": _available(host),
        **dict.fromkeys(_CPU_TYPICAL, typical),
        "pinnable_bytes": _detected("nothing has to be pinned to compute on the CPU"),
        **{f"{kind}_flops_per_s.{dtype}": assumed for kind in ("matrix", "attention") for dtype in rates},
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
        evidence=MappingProxyType(evidence),
    )


def _available(host: HostMemory) -> Evidence:
    return _detected(f"{host.limited_by}: what is available now, less a tenth")


def _detected(source: str) -> Evidence:
    return Evidence(confidence=Confidence.DETECTED, source=source)
