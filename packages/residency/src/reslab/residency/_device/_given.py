"""Figures that the user gives for a device: sizes and rates as text with units, checked, with their evidence.

    size("memory", "12 GiB"), rate("bandwidth", "288 GB/s"), throughput("44 TFLOP/s")
    with_compute(spec, "44 TFLOP/s")          # scales its other types too
    borrowed(device("RTX 4090"), "mine")      # every figure assumed: taken from RTX 4090

A bare number that is too small is refused: `memory=24` would be 24 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reslab.residency._device._evidence import Confidence, Evidence
from reslab.residency._device._spec import CONTEXT_BYTES, DeviceError, DeviceSpec
from reslab.residency._units import LEAST_BARE_RATE, parse_bytes, parse_rate

GIVEN = Evidence(confidence=Confidence.GIVEN, source="user")
#: The 16-bit types: a throughput without a type is theirs.
_HALF = ("bfloat16", "float16")
#: Below these limits a bare number is refused, since its unit was probably forgotten.
_BARE = {"GiB": 2**20, "GB/s": LEAST_BARE_RATE, "TFLOP/s": 10**9}
_FLOPS = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([GTP])FLOP/s\s*")
_PREFIX = {"G": 10**9, "T": 10**12, "P": 10**15}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z/]*)\s*")
_SIZES = ("MB", "MiB", "GB", "GiB", "TB", "TiB")
#: By unit: how it is written, by how users spell it; "" is a number without a unit.
_SPELT: Mapping[str, Mapping[str, str]] = {
    "GiB": {"": "GiB", "g": "GiB", "m": "MiB"} | {each.casefold(): each for each in _SIZES},
    "GB/s": {"": "GB/s"} | {f"{each}/s".casefold(): f"{each}/s" for each in _SIZES},
    "TFLOP/s": {"": "TFLOP/s", "tops": "TFLOP/s"}
    | {f"{each}flop{end}": f"{each.upper()}FLOP/s" for each in "gtp" for end in ("", "s", "/s", "s/s")},
}

Size = int | str
Compute = int | str | Mapping[str, int | str]


def size(what: str, value: Size, *, least: int = 2**20) -> int:
    """Return a size of memory in bytes.

    >>> size("memory", "12 GiB")
    12884901888
    >>> size("memory", 24)
    Traceback (most recent call last):
    reslab.residency._device._spec.DeviceError: memory=24 is 24 bytes; did you mean '24 GiB'?

    Args:
        what: The argument's name.
        value: The argument's value.
        least: The smallest size allowed; a bare number below 1 MiB is always refused, except 0.

    Raises:
        DeviceError: The value is not a size, or too small.
    """
    return _checked(what, value, parse_bytes, least, "bytes", "GiB", "a size of memory is written '12 GiB'")


def rate(what: str, value: Size) -> int:
    """Return a rate in bytes a second.

    Raises:
        DeviceError: The value is not a rate, is zero, or is a bare number below 1 MB/s.
    """
    wanted = "a rate of copies or memory is written '25 GB/s'"
    return _checked(what, value, parse_rate, 1, "bytes a second", "GB/s", wanted)


def throughput(value: Size) -> int:
    """Return a throughput in FLOP a second.

    >>> throughput("44 TFLOP/s")
    44000000000000
    >>> throughput("288 GB/s")
    Traceback (most recent call last):
    reslab.residency._device._spec.DeviceError: compute='288 GB/s': a throughput is written '44 TFLOP/s'

    Raises:
        DeviceError: The value is not a throughput, is zero, or is a bare number below 1 GFLOP/s.
    """
    wanted = "a throughput is written '44 TFLOP/s'"
    return _checked("compute", value, _parse_flops, 1, "FLOP a second", "TFLOP/s", wanted)


def _checked(what: str, value: Any, parse: Any, least: int, unit: str, meant: str, wanted: str) -> int:
    try:
        found = int(parse(value))
    except ValueError:
        raise DeviceError(f"{what}={value!r}: {_meant(value, meant) or wanted}") from None
    guess = _meant(value, meant) if isinstance(value, int) and 0 < value < _BARE[meant] else ""
    if found >= least and not guess:
        return found
    raise DeviceError(f"{what}={value!r} is {found} {unit}; {guess or wanted}")


def _meant(value: Any, unit: str) -> str:
    """Return a proposal for a number without a unit, or with a unit spelt in another way; else ""."""
    text = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    written = _SPELT[unit].get(match[2].casefold()) if match else None
    return f"did you mean '{match[1]} {written}'?" if match and written else ""


def _parse_flops(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _FLOPS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    return round(float(match[1]) * _PREFIX[match[2]])


def with_figures(
    spec: DeviceSpec, given: Mapping[str, Any], evidence: Evidence, *, name: str | None = None
) -> DeviceSpec:
    """Return the device with other figures and their evidence."""
    sources = {**spec.evidence, **dict.fromkeys(given, evidence)}
    return replace(spec, name=name or spec.name, evidence=sources, **given)


def assumed(source: str) -> Evidence:
    """Return the evidence of an assumed figure."""
    return Evidence(confidence=Confidence.ASSUMED, source=source)


def borrowed(spec: DeviceSpec, name: str) -> DeviceSpec:
    """Return the device under another name, with all figures assumed."""
    known = {figure: each for figure, each in spec.evidence.items() if each.confidence is not Confidence.UNKNOWN}
    taken = {figure: assumed(f"taken from {spec.name}: {each.source}") for figure, each in known.items()}
    return replace(spec, name=name, evidence={**spec.evidence, **taken})


def with_memory(spec: DeviceSpec, memory_bytes: int) -> DeviceSpec:
    """Return the device with this total memory and the usual share of it free: on an Apple chip three quarters."""
    spec = with_figures(spec, {"memory_bytes": memory_bytes}, GIVEN)
    if spec.kind == "mps":
        quarters = assumed("three quarters of the given memory, the default limit of an Apple GPU")
        return with_figures(spec, {"free_bytes": memory_bytes * 3 // 4}, quarters)
    free = max(memory_bytes - CONTEXT_BYTES, 0)
    return with_figures(spec, {"free_bytes": free}, assumed("the given memory, less 0.5 GiB"))


def with_host(spec: DeviceSpec, host_bytes: int) -> DeviceSpec:
    """Return the device in a host with this memory, all of it pinnable."""
    spec = with_figures(spec, {"host_memory_bytes": host_bytes}, GIVEN)
    return with_figures(spec, {"pinnable_bytes": host_bytes}, assumed("all memory of the host"))


def with_link(spec: DeviceSpec, bytes_per_s: int) -> DeviceSpec:
    """Return the device with this link rate and no shared memory; other copies scale in proportion."""
    ratio = bytes_per_s / spec.link_bytes_per_s
    others = ("link_back_bytes_per_s", "link_pageable_bytes_per_s")
    scaled = {figure: round(getattr(spec, figure) * ratio) for figure in others}
    spec = with_figures(replace(spec, unified=False), {"link_bytes_per_s": bytes_per_s}, GIVEN)
    return with_figures(spec, scaled, assumed("in proportion to the given link"))


def with_compute(spec: DeviceSpec, compute: Compute) -> DeviceSpec:
    """Return the device with this throughput of matrix products; other types and attention scale in proportion.

    Args:
        spec: The device.
        compute: Throughput of the 16-bit types, or by torch's name of the type.
    """
    texts = compute if isinstance(compute, Mapping) else dict.fromkeys(_HALF, compute)
    given = {dtype: throughput(value) for dtype, value in texts.items()}
    ratio = _ratio(spec, given)
    matrix = {dtype: round(each * ratio) for dtype, each in spec.matrix_flops_per_s.items()} if ratio else {}
    attention = {dtype: round(each * ratio) for dtype, each in spec.attention_flops_per_s.items()} if ratio else {}
    follows = assumed("in proportion to the given compute")
    evidence = {key: each for key, each in spec.evidence.items() if "_flops_per_s" not in key}
    evidence |= {f"matrix_flops_per_s.{dtype}": follows for dtype in matrix}
    evidence |= {f"attention_flops_per_s.{dtype}": follows for dtype in attention}
    evidence |= {f"matrix_flops_per_s.{dtype}": GIVEN for dtype in given}
    rates = {"matrix_flops_per_s": matrix | given, "attention_flops_per_s": attention}
    return replace(spec, evidence=evidence, **rates)  # type: ignore[arg-type]


def _ratio(spec: DeviceSpec, given: Mapping[str, int]) -> float | None:
    """Return given ÷ known throughput of the first type that both have, or None."""
    both = [dtype for dtype in given if dtype in spec.matrix_flops_per_s]
    return given[both[0]] / spec.matrix_flops_per_s[both[0]] if both else None
