"""The catalogue of devices, as data: `data/devices.csv` has a row a figure, with its confidence, source and derivation.

    device("H200")                                             # by name, whatever its capitals
    device("mine", like="RTX 4090", memory="12 GiB")           # another card, with figures of your own
    devices()                                                  # all names

A card's host is as assumed as it can be: say what yours has (`host_memory`, `link`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple

from reslab.residency._device._link import LinkSpeed
from reslab.residency._device._spec import CONTEXT_BYTES, Confidence, DeviceError, DeviceSpec, Evidence
from reslab.residency._units import nearest, parse_bytes, parse_rate

_GIB, _GB, _TERA = 2**30, 10**9, 10**12
_DISK_BYTES_PER_S = 5_000_000_000
_DISK = "a usual NVMe disk on PCIe 4.0, reading in sequence; say disk=... for yours"


class Figure(NamedTuple):
    """One row of the catalogue."""

    value: float
    evidence: Evidence


def devices() -> tuple[str, ...]:
    """Return the names of the catalogue.

    >>> devices()[:3]
    ('T4', 'L4', 'A10G')
    """
    return tuple(_catalogue())


def device(
    name: str,
    *,
    like: str | None = None,
    memory: int | str | None = None,
    free: int | str | None = None,
    link: int | str | LinkSpeed | None = None,
    disk: int | str | None = None,
    host_memory: int | str | None = None,
    pinnable: int | str | None = None,
) -> DeviceSpec:
    """Return a device of the catalogue, or one of your own that is like one of it.

    >>> device("H200")
    DeviceSpec('H200', cuda, 139.8 GiB)
    >>> device("mine", like="RTX 4090", memory="12 GiB").evidence["memory_bytes"].confidence
    <Confidence.GIVEN: 'given'>
    >>> device("RTX 490")
    Traceback (most recent call last):
    reslab.residency._device._spec.DeviceError: there is no device 'RTX 490'; did you mean 'RTX 4090' or 'RTX 5090' \
or 'RTX 3090'? \
For a card of your own, write device('RTX 490', like='RTX 4090', memory='12 GiB')

    Args:
        name: Of the catalogue, or any where `like` is given.
        like: The device of the catalogue whose figures it has.
        memory: All memory; bytes, or a text such as "12 GiB".
        free: What of it is free; by default all but the driver's context.
        link: Copies from pinned memory to the device, such as "25 GB/s"; pageable copies scale with it. Or
            what `measure_link` found.
        disk: Reading from disk, such as "3 GB/s".
        host_memory: Memory of the host.
        pinnable: What of that can be pinned; by default all of it.

    Raises:
        DeviceError: There is no such device; it names the nearest.
        ValueError: A figure that cannot be read.
    """
    spec = _spec(like or name)
    told = {"memory_bytes": memory, "free_bytes": free, "host_memory_bytes": host_memory, "pinnable_bytes": pinnable}
    given = {figure: parse_bytes(value) for figure, value in told.items() if value is not None}
    if memory is not None:
        given.setdefault("free_bytes", max(given["memory_bytes"] - CONTEXT_BYTES, 0))
    if host_memory is not None:
        given.setdefault("pinnable_bytes", given["host_memory_bytes"])
    if disk is not None:
        given["disk_bytes_per_s"] = parse_rate(disk)
    if isinstance(link, LinkSpeed):
        spec = with_figures(spec, link.figures, link.evidence)
    elif link is not None:
        given |= _scaled_link(spec, parse_rate(link))
    return with_figures(spec, given, Evidence(confidence=Confidence.GIVEN, source="you"), name=name if like else None)


def with_figures(
    spec: DeviceSpec, given: Mapping[str, Any], evidence: Evidence, *, name: str | None = None
) -> DeviceSpec:
    """Return the device with other figures, and where they come from."""
    sources = {**spec.evidence, **dict.fromkeys(given, evidence)}
    return replace(spec, name=name or spec.name, evidence=MappingProxyType(sources), **given)


def find(name: str) -> str | None:
    """Return the catalogue's name for a device that it has under this or another name, such as the driver's."""
    return _names().get(_folded(name))


def _spec(name: str) -> DeviceSpec:
    found = find(name)
    if found is None:
        known = nearest(name, devices())
        raise DeviceError(
            f"there is no device {name!r}; {known} For a card of your own, write "
            f"device({name!r}, like='RTX 4090', memory='12 GiB')"
        )
    return _build(found)


def _scaled_link(spec: DeviceSpec, rate: int) -> dict[str, int]:
    ratio = rate / spec.link_bytes_per_s
    return {
        "link_bytes_per_s": rate,
        "link_back_bytes_per_s": round(spec.link_back_bytes_per_s * ratio),
        "link_pageable_bytes_per_s": round(spec.link_pageable_bytes_per_s * ratio),
    }


@cache
def _build(name: str) -> DeviceSpec:
    figures = _catalogue()[name]
    scaled = {
        "memory_bytes": ("memory_gib", _GIB),
        "memory_bytes_per_s": ("memory_bandwidth_gb_s", _GB),
        "host_ns_per_operation": ("host_us_per_operation", 1000),
        "link_bytes_per_s": ("link_h2d_gb_s", _GB),
        "link_back_bytes_per_s": ("link_d2h_gb_s", _GB),
        "link_pageable_bytes_per_s": ("link_pageable_gb_s", _GB),
        "host_memory_bytes": ("host_memory_gib", _GIB),
    }
    plain: dict[str, Any] = {field: round(figures[figure].value * unit) for field, (figure, unit) in scaled.items()}
    evidence = {field: figures[figure].evidence for field, (figure, _) in scaled.items()}
    for kind in ("matrix", "attention"):
        for figure, value in figures.items():
            if figure.startswith(kind):
                evidence[f"{kind}_flops_per_s.{_dtype(figure)}"] = value.evidence
    context = Evidence(confidence=Confidence.ASSUMED, source="all memory less 0.5 GiB for the driver's context")
    disk = Evidence(confidence=Confidence.ASSUMED, source=_DISK)
    pinned = Evidence(confidence=Confidence.ASSUMED, source="all memory of the host")
    return DeviceSpec(
        name=name,
        **plain,
        free_bytes=plain["memory_bytes"] - CONTEXT_BYTES,
        disk_bytes_per_s=_DISK_BYTES_PER_S,
        pinnable_bytes=plain["host_memory_bytes"],
        matrix_flops_per_s=_rates(figures, "matrix"),
        attention_flops_per_s=_rates(figures, "attention"),
        evidence=MappingProxyType(
            evidence | {"free_bytes": context, "pinnable_bytes": pinned, "disk_bytes_per_s": disk}
        ),
    )


def _rates(figures: Mapping[str, Figure], kind: str) -> Mapping[str, int]:
    return MappingProxyType(
        {_dtype(name): round(figure.value * _TERA) for name, figure in figures.items() if name.startswith(kind)}
    )


def _dtype(figure: str) -> str:
    return figure.split("_")[1]


@cache
def _catalogue() -> Mapping[str, Mapping[str, Figure]]:
    where = {row["source"]: row["where"] for row in _rows("sources.csv")}
    found: dict[str, dict[str, Figure]] = {}
    for row in _rows("devices.csv"):
        source = "; ".join(filter(None, (where.get(row["source"]), row["derived"])))
        evidence = Evidence(confidence=Confidence(row["confidence"]), source=source)
        found.setdefault(row["device"], {})[row["figure"]] = Figure(float(row["value"]), evidence)
    return found


@cache
def _names() -> Mapping[str, str]:
    own = {_folded(name): name for name in _catalogue()}
    return {_folded(row["alias"]): row["device"] for row in _rows("names.csv")} | own


def _rows(file: str) -> list[dict[str, str]]:
    text = (files(__package__) / "data" / file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
