"""A device of the catalogue by name, or one that the user describes.

    device("H200")                                             # by name, whatever its capitals
    device("NVIDIA GeForce RTX 4060 Ti", memory="8 GiB")       # by the name that its driver gives
    device("mine", like="RTX 4090", memory="12 GiB")           # another card, with figures of its own
    device("mine", memory="12 GiB", compute="44 TFLOP/s", bandwidth="288 GB/s")
    devices(), devices("laptop")                               # all names, or those that contain a text

The catalogue cannot know the host that a card sits in: host memory, link and disk are assumed until they are given
(`host_memory=`, `link=`, `disk=`). A name that the catalogue lacks is an error that proposes the nearest card. The data
is read in `_cards`, arguments are checked in `_given`, and `_detect` describes this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cache
from math import ceil, log
from typing import TYPE_CHECKING, Any

from reslab.profiler import GIB
from reslab.residency._device._cards import UNIFIED, CardFigure, cards, catalogue, folded, named
from reslab.residency._device._evidence import NOWHERE, Confidence, Evidence
from reslab.residency._device._given import (
    GIVEN,
    Compute,
    Size,
    assumed,
    borrowed,
    rate,
    size,
    with_compute,
    with_figures,
    with_host,
    with_link,
    with_memory,
)
from reslab.residency._device._spec import CONTEXT_BYTES, DeviceError, DeviceSpec, LinkSpeed
from reslab.stages.support import nearest

if TYPE_CHECKING:
    import polars as pl


_GB, _TERA = 10**9, 10**12
_DISK_BYTES_PER_S = 5_000_000_000
_DISK = "typical NVMe disk on PCIe 4.0, sequential reads; give disk=... for yours"
_KINDS = {"Apple": "mps", "Intel": "xpu"}
#: By field of `DeviceSpec`: the catalogue's figure and its unit.
_FIELDS = {
    "memory_bytes": ("memory_gib", GIB),
    "memory_bytes_per_s": ("memory_bandwidth_gb_s", _GB),
    "host_ns_per_operation": ("host_us_per_operation", 1000),
    "link_bytes_per_s": ("link_h2d_gb_s", _GB),
    "link_back_bytes_per_s": ("link_d2h_gb_s", _GB),
    "link_pageable_bytes_per_s": ("link_pageable_gb_s", _GB),
    "host_memory_bytes": ("host_memory_gib", GIB),
}


class Devices(tuple[str, ...]):
    """Names of devices; a notebook shows them as a table by family.

    >>> devices("3090")
    ('RTX 3090 Ti', 'RTX 3090')
    """

    __slots__ = ()

    def table(self) -> pl.DataFrame:
        """Return a row a device: family, device, memory_gib, bandwidth_gb_s, bfloat16_tflops, and its confidence."""
        from reslab.residency._device._device_table import overview

        return overview(map(_line, self))

    def _repr_html_(self) -> str:
        from reslab.residency._device._device_table import overview_html

        return overview_html(self.table())


def devices(text: str = "") -> Devices:
    """Return the names of the catalogue, ordered by family.

    >>> devices()[:3]
    ('RTX 5090', 'RTX 5090 D', 'RTX 5090 D V2')
    >>> devices("5060 Ti")
    ('RTX 5060 Ti 16GB', 'RTX 5060 Ti 8GB')

    Args:
        text: A part of the name, of the family or of the driver's name; "" for all devices.

    Raises:
        DeviceError: No device matches; the message names the nearest.
    """
    held = {name: (name, card.family, *card.names) for name, card in cards().items()}
    found = Devices(name for name, texts in held.items() if any(_holds(each, text) for each in texts))
    if not found:
        raise DeviceError(f"no device's name contains {text!r}; {nearest(text, [*cards(), *_families()])}")
    return found


def device(
    name: str,
    *,
    like: str | None = None,
    memory: Size | None = None,
    free: Size | None = None,
    compute: Compute | None = None,
    bandwidth: Size | None = None,
    link: int | str | LinkSpeed | None = None,
    disk: Size | None = None,
    host_memory: Size | None = None,
    pinnable: Size | None = None,
) -> DeviceSpec:
    """Return a device of the catalogue, or describe another one by a similar card or by its own figures.

    >>> device("H200")
    DeviceSpec('H200', cuda, 139.8 GiB)
    >>> device("mine", like="RTX 4090", memory="12 GiB").evidence["memory_bytes"].confidence
    <Confidence.GIVEN: 'given'>
    >>> device("RTX 4065")
    Traceback (most recent call last):
    reslab.residency._device._spec.DeviceError: there is no device 'RTX 4065'; did you mean 'RTX 4060' or 'RTX 5060' \
or 'RTX 4090'? To describe another card, write device('RTX 4065', like='RTX 4060', memory='8 GiB')

    Args:
        name: A name of the catalogue or of a driver; any name if `like`, or memory, compute and bandwidth, are given.
        like: The card of the catalogue that lends its figures; all of them are then assumed.
        memory: Total memory, in bytes or as a text such as "12 GiB". It selects among cards that share a name.
        free: Free memory; by default all memory but the driver's context.
        compute: Throughput of 16-bit matrix products, such as "44 TFLOP/s", which scales other types and attention; or
            throughput by type, such as {"bfloat16": "44 TFLOP/s", "float32": "22 TFLOP/s"}.
        bandwidth: Bandwidth of the device's memory, such as "288 GB/s".
        link: Rate of copies from pinned memory to the device, such as "25 GB/s", which scales all other copies; or a
            `LinkSpeed` from `measure_link`. With a link, memory is not shared with the host.
        disk: Rate of sequential reads from disk, such as "3 GB/s".
        host_memory: Memory of the host.
        pinnable: Host memory that can be pinned; by default all of it.

    Raises:
        DeviceError: There is no such device (the message names the nearest), or a figure cannot be read.
    """
    memory_bytes = None if memory is None else size("memory", memory)
    spec = _base(name, like, memory_bytes, own=compute is not None and bandwidth is not None)
    if memory_bytes is not None:
        spec = with_memory(spec, memory_bytes)
    if free is not None:
        spec = with_figures(spec, {"free_bytes": size("free", free, least=0)}, GIVEN)
    spec = with_rates(spec, compute, bandwidth)
    if host_memory is not None:
        spec = with_host(spec, size("host_memory", host_memory))
    if pinnable is not None:
        spec = with_figures(spec, {"pinnable_bytes": size("pinnable", pinnable, least=0)}, GIVEN)
    if disk is not None:
        spec = with_figures(spec, {"disk_bytes_per_s": rate("disk", disk)}, GIVEN)
    return linked(spec, link)


def with_rates(spec: DeviceSpec, compute: Compute | None, bandwidth: Size | None) -> DeviceSpec:
    """Return the device with the rates that the user gave."""
    if compute is not None:
        spec = with_compute(spec, compute)
    if bandwidth is not None:
        spec = with_figures(spec, {"memory_bytes_per_s": rate("bandwidth", bandwidth)}, GIVEN)
    return spec


def linked(spec: DeviceSpec, link: int | str | LinkSpeed | None) -> DeviceSpec:
    """Return the device with a given or measured link."""
    if link is None:
        return spec
    if isinstance(link, LinkSpeed):
        return replace(with_figures(spec, link.figures, link.evidence), unified=False)
    return with_link(spec, rate("link", link))


def like_card(name: str, like: str, memory_bytes: int | None = None) -> DeviceSpec:
    """Return a device of this name with all figures taken from a card of the catalogue."""
    found = find(like, memory_bytes)
    if found is None:
        raise DeviceError(f"there is no device {like!r} to take figures from; {nearest(like, cards())}")
    return borrowed(build(found), name)


def _base(name: str, like: str | None, memory_bytes: int | None, *, own: bool) -> DeviceSpec:
    if like is not None:
        return like_card(name, like, memory_bytes)
    found = find(name, memory_bytes)
    if found is not None:
        return build(found)
    if memory_bytes is not None and own:
        return unknown_card(name, memory_bytes)
    raise DeviceError(unknown(name))


def unknown_card(name: str, memory_bytes: int, *, kind: str = "cuda") -> DeviceSpec:
    """Return a device of which only the memory is known: rates are missing, link and host are typical."""
    usual = build(_USUAL)
    figures = ("link_bytes_per_s", "link_back_bytes_per_s", "link_pageable_bytes_per_s", "host_memory_bytes")
    evidence = dict(usual.evidence) | dict.fromkeys(figures, assumed("typical desktop with PCIe 4.0 x16"))
    rates: dict[str, Any] = {"memory_bytes_per_s": None, "matrix_flops_per_s": {}, "attention_flops_per_s": {}}
    known = {key: each for key, each in evidence.items() if "_flops_per_s" not in key}
    spec = replace(usual, name=name, kind=kind, unified=False, evidence=known | _unknown(rates), **rates)
    return with_memory(spec, memory_bytes)


#: A card with a typical host and link.
_USUAL = "RTX 4090"


@cache
def build(name: str) -> DeviceSpec:
    """Return the device of the catalogue with exactly this name."""
    figures, card = catalogue()[name], cards()[name]
    plain: dict[str, Any] = {
        field: round(figures[figure].value * unit) if figure in figures else None
        for field, (figure, unit) in _FIELDS.items()
    }
    evidence = {field: figures[figure].evidence for field, (figure, _) in _FIELDS.items() if figure in figures}
    for kind in ("matrix", "attention"):
        for figure, value in figures.items():
            if figure.startswith(kind):
                evidence[f"{kind}_flops_per_s.{_dtype(figure)}"] = value.evidence
    rates = {f"{kind}_flops_per_s": _rates(figures, kind) for kind in ("matrix", "attention")}
    return DeviceSpec(
        name=name,
        kind=_KINDS.get(card.family.partition(" ")[0].strip(","), "cuda"),
        **plain,
        **rates,  # type: ignore[arg-type]
        free_bytes=plain["memory_bytes"] - CONTEXT_BYTES,
        disk_bytes_per_s=_DISK_BYTES_PER_S,
        pinnable_bytes=plain["host_memory_bytes"],
        unified=card.bus == UNIFIED,
        evidence={
            **evidence,
            **_unknown(plain | rates),
            "free_bytes": assumed("all memory, less 0.5 GiB for the driver's context"),
            "pinnable_bytes": assumed("all memory of the host"),
            "disk_bytes_per_s": assumed(_DISK),
        },
    )


def _unknown(figures: Mapping[str, Any]) -> dict[str, Evidence]:
    """Return the evidence of figures that no source has: bandwidth, and throughput of the 16-bit types."""
    evidence = Evidence(
        confidence=Confidence.UNKNOWN, source="the catalogue does not have it; give compute=... or like=..."
    )
    found = {}
    if figures["memory_bytes_per_s"] is None:
        source = "the catalogue does not have it; give bandwidth=... or like=..."
        found["memory_bytes_per_s"] = Evidence(confidence=Confidence.UNKNOWN, source=source)
    for dtype in ("bfloat16", "float16"):
        if dtype not in figures["matrix_flops_per_s"]:
            found[f"matrix_flops_per_s.{dtype}"] = evidence
    return found


def _line(name: str) -> tuple[str | float | None, ...]:
    """Return a row of `OVERVIEW`: family, name, memory, bandwidth, throughput and its confidence."""
    spec = build(name)
    bandwidth, rate = spec.memory_bytes_per_s, spec.matrix_flops_per_s.get("bfloat16")
    by = spec.evidence.get("matrix_flops_per_s.bfloat16", NOWHERE).confidence
    rates = (bandwidth and bandwidth / _GB, rate and rate / _TERA)
    return (cards()[name].family, name, spec.memory_bytes / GIB, *rates, str(by))


def _rates(figures: Mapping[str, CardFigure], kind: str) -> dict[str, int]:
    return {_dtype(name): round(each.value * _TERA) for name, each in figures.items() if name.startswith(kind)}


def _dtype(figure: str) -> str:
    """Return the dtype in the name of a figure.

    >>> _dtype("matrix_float8_e4m3fn_tflops")
    'float8_e4m3fn'
    """
    return figure.partition("_")[2].removesuffix("_tflops")


def _holds(name: str, text: str) -> bool:
    return text.casefold() in name.casefold() or (bool(folded(text)) and folded(text) in folded(name))


def _families() -> list[str]:
    return list(dict.fromkeys(card.family for card in cards().values()))


#: Leading letters, and share of common letters, that a name needs to be near to a card's.
_LETTERS, _COMMON = 2, 0.6
_SIZE = re.compile(r"\b(\d+) ?Gi?B\b", re.IGNORECASE)


def find(name: str, memory_bytes: int | None = None) -> str | None:
    """Return the card with this name, or None; of several sizes the one nearest in memory, else the most common.

    >>> find("RTX 4060 Ti"), find("NVIDIA GeForce RTX 4060 Ti", memory_bytes=round(7.75 * 2**30))
    ('RTX 4060 Ti 16GB', 'RTX 4060 Ti 8GB')
    """
    found = named(name)
    if not found or not memory_bytes:
        return found[0] if found else None
    return min(found, key=lambda each: abs(log(memory_bytes / (catalogue()[each]["memory_gib"].value * GIB))))


def near(name: str) -> str | None:
    """Return the card with the nearest name of the same generation, or None.

    >>> near("RTX 4065"), near("RX 7950 XT"), near("abacus")
    ('RTX 4060', 'RX 7900 XT', None)
    """
    wanted = folded(_SIZE.sub("", name))
    alike = {
        each: (_leading(wanted, folded(each)), SequenceMatcher(None, wanted, folded(each)).ratio()) for each in cards()
    }
    best = max(alike, key=alike.__getitem__)
    letters, common = alike[best]
    return best if letters >= _LETTERS and common >= _COMMON else None


def _leading(one: str, other: str) -> int:
    """Return the number of leading letters that two texts share."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def unknown(name: str) -> str:
    """Return the error text for an unknown name: the nearest names, and how to describe another card."""
    close = nearest(_SIZE.sub("", name).strip(), cards())
    listed = close if close.startswith("did you mean") else f"devices() lists all {len(cards())}."
    return f"there is no device {name!r}; {listed} To describe another card, write {_own(name)}"


def _own(name: str) -> str:
    card = near(name)
    size = _SIZE.search(name)
    if card is None:
        memory = size[1] if size else "12"
        return (
            f"device({name!r}, memory='{memory} GiB', compute='44 TFLOP/s', bandwidth='288 GB/s') with its own figures"
        )
    memory = size[1] if size else f"{ceil(catalogue()[card]['memory_gib'].value / 2) * 2}"
    return f"device({name!r}, like={card!r}, memory='{memory} GiB')"
