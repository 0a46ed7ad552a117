"""The state of a residency as a line, a table, a picture in a notebook, and counters for a profiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import polars as pl
import torch

from reslab.profiler import gib
from reslab.residency._engine._component import Component
from reslab.residency._engine._layout import Source
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._unit import Unit, Where
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.stages.support import Markup, html_table

STATE: Mapping[str, Any] = {
    "component": pl.String,
    "placement": pl.String,
    "where": pl.String,
    "host_bytes": pl.Int64,
    "pinned_bytes": pl.Int64,
    "device_bytes": pl.Int64,
    "slots": pl.Int64,
}


def table(components: Mapping[str, Component], plan: Plan, mover: Mover) -> pl.DataFrame:
    """Return a row a component; host bytes that several units share are counted for the first."""
    rows, seen = [], set[int]()
    for name, component in components.items():
        units = list(component.units.values())
        places = [placement for (own, _stage), placement in plan.placements.items() if own == name]
        sources = _sources(units, seen)
        rows.append(
            (
                name,
                ", ".join(dict.fromkeys(map(repr, places))) or repr(plan.placement(name)),
                _where(units, plan.placement(name).kind),
                sum(source.host_bytes for source in sources),
                sum(source.pinned_bytes for source in sources),
                mover.held_bytes(name),
                len(mover.slots.get(name, ())),
            )
        )
    return pl.DataFrame(rows, schema=dict(STATE), orient="row")


def _sources(units: list[Unit], seen: set[int]) -> list[Source]:
    found = {id(unit.shared.source): unit.shared.source for unit in units if unit.shared.source is not None}
    fresh = [source for key, source in found.items() if key not in seen]
    seen.update(found)
    return fresh


def _where(units: list[Unit], kind: Place) -> str:
    """Return the place of a component's units, as a text."""
    here = sum(unit.where in (Where.DEVICE, Where.ARRIVING) for unit in units)
    if here == len(units):
        return "device"
    if all(unit.where is Where.UNTOUCHED for unit in units):
        return str(Where.UNTOUCHED)
    away = "disk" if kind is Place.DISK else "host"
    return away if not here else f"{away}, {here} of {len(units)} parts on the device"


def counters(mover: Mover) -> Mapping[str, int]:
    """Return the bytes of each pool, those on the device by component."""
    sources = _sources(mover.units, set())
    names = dict.fromkeys(unit.component for unit in mover.units)
    return {
        "host": sum(source.host_bytes for source in sources),
        "pinned": sum(source.pinned_bytes for source in sources),
        **{f"device/{name}": mover.held_bytes(name) for name in names},
    }


def line(plan: Plan, device: torch.device, *, is_in_force: bool, components: int, held_bytes: int) -> str:
    """Return the state in one line."""
    state = "in force" if is_in_force else "not in force"
    return f"Residency({plan.name!r} on {device}, {state}: {components} components, {gib(held_bytes)} on the device)"


def html(head_line: str, frame: pl.DataFrame, notes: Sequence[str]) -> str:
    """Return the line, the table with a bar for the bytes on the device, and the notes."""
    most = max(frame["device_bytes"].max() or 0, 1)
    rows = [
        (
            row["component"],
            row["placement"],
            row["where"],
            gib(row["host_bytes"]),
            gib(row["pinned_bytes"]),
            Markup(
                f'<span style="display:inline-block;background:#4477aa;height:0.7em;'
                f'width:{round(80 * row["device_bytes"] / most)}px"></span> {gib(row["device_bytes"])}'
            ),
            str(row["slots"]),
        )
        for row in frame.rows(named=True)
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    head = ("component", "placement", "where", "host", "pinned", "device", "slots")
    listed = f"<ul>{items}</ul>" if items else ""
    return f"<p><b>{escape(head_line)}</b></p>{html_table(head, rows)}{listed}"
