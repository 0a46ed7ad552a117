"""Figures of the catalogue, as data: a row a card in `data/cards.csv`, a row a measured figure in `data/devices.csv`.

    catalogue()["RTX 4090"]["memory_bandwidth_gb_s"]        # CardFigure(value, evidence)
    named("NVIDIA GeForce RTX 4060 Ti")                     # ('RTX 4060 Ti 16GB', 'RTX 4060 Ti 8GB')

A figure in `devices.csv` replaces the one in `cards.csv`. Link rates follow from the bus (`buses.csv`). A card is found
by the name that its driver gives, in any case and with or without vendor and brand; where a driver gives one name to
two sizes of memory, both are found. To add a card, add a row to `cards.csv`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from reslab.residency._device._evidence import Confidence, Evidence

#: Words of drivers' names that do not tell cards apart.
_EMPTY = {"nvidia", "geforce", "tesla", "blackwell", "amd", "radeon", "instinct", "intel", "r", "tm", "apple"}
_EMPTY |= {"graphics", "gpu", "generation", "edition", "workstation"}
#: Microseconds in which a host issues one operation.
_HOST_US = 5.0
#: Speed of copies from pageable memory, relative to copies from pinned memory.
_PAGEABLE = 123 / 331
#: The bus of a device that shares its memory with the host.
UNIFIED = "unified"
#: By column of cards.csv: the column with its source, then the figures that it stands for.
_COLUMNS = {
    "memory_gib": ("memory_by", "memory_gib"),
    "bandwidth_gb_s": ("bandwidth_by", "memory_bandwidth_gb_s"),
    "bfloat16_tflops": ("matrix_by", "matrix_bfloat16_tflops"),
    "float16_tflops": ("matrix_by", "matrix_float16_tflops"),
    "float32_tflops": ("float32_by", "matrix_float32_tflops"),
    "float8_tflops": ("eight_by", "matrix_float8_e4m3fn_tflops"),
    "int8_tops": ("eight_by", "matrix_int8_tflops"),
    "attention_tflops": ("matrix_by", "attention_bfloat16_tflops", "attention_float16_tflops"),
}


class CardFigure(NamedTuple):
    """One figure of one card, with its source."""

    value: float
    evidence: Evidence


class Card(NamedTuple):
    """A card without its figures: family, driver's names and bus."""

    family: str
    names: tuple[str, ...]
    bus: str


@cache
def cards() -> Mapping[str, Card]:
    """Return all cards by name, ordered by family."""
    return {
        row["card"]: Card(row["family"], tuple(filter(None, row["names"].split("|"))), row["bus"])
        for row in rows("cards.csv")
    }


@cache
def catalogue() -> Mapping[str, Mapping[str, CardFigure]]:
    """Return the figures of all cards; a figure without a source is missing."""
    found = {row["card"]: dict(_own(row)) for row in rows("cards.csv")}
    for row in rows("devices.csv"):
        evidence = _evidence(row["confidence"], row["source"], row["derived"])
        found[row["device"]][row["figure"]] = CardFigure(float(row["value"]), evidence)
    return {name: dict(_copies(cards()[name].bus, figures)) | figures for name, figures in found.items()}


def named(name: str) -> tuple[str, ...]:
    """Return the cards with this name, or an equivalent one; the most common comes first."""
    return _names().get(folded(name), ())


@cache
def _names() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for name, card in cards().items():
        for each in card.names:
            found.setdefault(folded(each), {})[name] = None
    for row in rows("names.csv"):
        found[folded(row["alias"])] = {row["device"]: None} | found.get(folded(row["alias"]), {})
    return {each: tuple(names) for each, names in found.items()} | {folded(name): (name,) for name in cards()}


def folded(name: str) -> str:
    """Return a name in lower case, without punctuation, vendor and brand.

    >>> folded("NVIDIA GeForce RTX 4060 Ti"), folded("Intel(R) Arc(TM) Pro B60 Graphics"), folded("RTX-3070 Mobile")
    ('rtx4060ti', 'arcprob60', 'rtx3070laptop')
    """
    words = re.findall(r"[a-z0-9.+]+", name.casefold())
    return "".join("laptop" if word == "mobile" else word for word in words if word not in _EMPTY)


def rows(file: str) -> list[dict[str, str]]:
    """Return the rows of a file in `data`."""
    text = (files(__package__) / "data" / file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _own(row: Mapping[str, str]) -> Iterator[tuple[str, CardFigure]]:
    """Yield the figures in one row of cards.csv."""
    for column, (said, *figures) in _COLUMNS.items():
        for figure in figures if row[column] else ():
            yield figure, CardFigure(float(row[column]), _evidence(*row[said].split(";", 2)))
    host = "typical machine for such a card; give host_memory=... for yours"
    yield "host_memory_gib", CardFigure(float(row["host_memory_gib"]), _evidence("assumed", "", host))
    slow = "low end of the range, so that bounds stay bounds"
    yield "host_us_per_operation", CardFigure(_HOST_US, _evidence("assumed", "dispatch", slow))


def _copies(bus: str, figures: Mapping[str, CardFigure]) -> Iterator[tuple[str, CardFigure]]:
    """Yield the link rates of a card's bus; where memory is shared, the bandwidth of that memory."""
    row = _buses()[bus]
    evidence = _evidence(row["confidence"], row["source"], row["derived"])
    shared = figures.get("memory_bandwidth_gb_s", CardFigure(100.0, evidence)).value
    to, back = float(row["to_device_gb_s"] or shared), float(row["back_gb_s"] or shared)
    yield "link_h2d_gb_s", CardFigure(to, evidence)
    yield "link_d2h_gb_s", CardFigure(back, evidence)
    ratio = "pinned × 123/331, the ratio of pageable to pinned copies on an RTX 4090"
    slow = CardFigure(to * _PAGEABLE, _evidence("assumed", "sglang-map", ratio))
    yield "link_pageable_gb_s", CardFigure(to, evidence) if bus == UNIFIED else slow


@cache
def _buses() -> Mapping[str, Mapping[str, str]]:
    return {row["bus"]: row for row in rows("buses.csv")}


@cache
def _sources() -> Mapping[str, str]:
    return {row["source"]: row["where"] for row in rows("sources.csv")}


def _evidence(confidence: str, source: str, derived: str) -> Evidence:
    said = "; ".join(filter(None, (_sources()[source] if source else "", derived)))
    return Evidence(confidence=Confidence(confidence), source=said)
