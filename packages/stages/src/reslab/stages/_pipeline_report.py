"""A pipeline as a table and as a diagram.

The table has a row a stage: place, registered name, profile name if it differs, class, components, values read and
written. The diagram has a column a stage, a row for each component (a dot where a stage declares it) and a row for each
value (a bar from the stage that writes it to the last stage that reads it). It shows which components and values must
be available, and for how long.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence, Sized
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from reslab.stages._check import EVERYTHING
from reslab.stages._html_table import LEFT, Cell, Markup, html_table
from reslab.stages._stage import REQUIRED, Binding, Stage

#: Okabe and Ito's colour-blind-safe blue and orange (jfly.uni-koeln.de/color).
BLUE, ORANGE = "#0072B2", "#E69F00"
#: A grey that is readable on white and on black, because an image does not know the theme.
INK = "#7a7a7a"
COLUMN, ROW, LABEL, HEAD = 30, 17, 250, 16
#: Names listed in a cell before the rest is counted.
SHOWN = 3


class AddedStage(NamedTuple):
    """A stage as it was added: with its binding, and its heading in displays."""

    stage: Stage
    binding: Binding
    group: str


class StageRow(NamedTuple):
    """One stage in the pipeline's names."""

    group: str
    registered_name: str
    profile_name: str
    stage_class: str
    components: list[str]
    reads: list[str]
    writes: list[str]


def rows(entries: Sequence[AddedStage], components: Mapping[str, Any]) -> list[StageRow]:
    """Return a row for every stage in order; of the values it could read, those required or written before."""
    described: list[StageRow] = []
    written: set[str] = set()
    for stage, bind, group in (entry._replace(stage=shown) for entry in entries for shown in entry.stage.sections()):
        signature = stage.signature(EVERYTHING)
        parameters = [name for name in signature.reads if bind.is_component(name)]
        used = [bind.components.get(name, name) for name in (*signature.components, *parameters)]
        reads = [
            bind.value(name)
            for name, default in signature.reads.items()
            if (default is REQUIRED or bind.value(name) in written)
            and name not in bind.given
            and name not in parameters
        ]
        writes = [bind.value(name) for name in signature.writes or ()]
        written.update(writes)
        described.append(
            StageRow(
                group=group,
                registered_name=stage.registered_name,
                profile_name=stage.profile_name,
                stage_class=stage.stage_class,
                components=[name for name in used if name in components],
                reads=reads,
                writes=writes,
            )
        )
    return described


def needed(entries: Sequence[AddedStage]) -> list[str]:
    """Return the values that a request must give."""
    written: set[str] = set()
    wanted: dict[str, None] = {}
    for stage, bind, _group in entries:
        signature = stage.signature()
        for name, default in signature.reads.items():
            own = name in bind.given or bind.is_component(name)
            if default is REQUIRED and not own and bind.value(name) not in written:
                wanted[bind.value(name)] = None
        written |= {bind.value(name) for name in signature.writes or ()}
    return list(wanted)


def html(name: str, entries: Sequence[AddedStage], *, components: Mapping[str, Any], result: str | None) -> str:
    """Return the table of a pipeline's stages, and the diagram below it."""
    described = rows(entries, components)
    asks = ", ".join(needed(entries)) or "nothing"
    head = (
        f"<p><b>{escape(name)}</b>: {_count(described, 'stage')}, {_count(components, 'component')}; "
        f"needs {escape(asks)}; returns {escape(result or 'all values')}</p>"
    )
    return f"<div>{head}{table(described)}{diagram(described)}</div>"


def table(described: list[StageRow]) -> str:
    """Return an HTML table with one row a stage, under the headings of groups."""
    renamed = any(row.profile_name != row.registered_name for row in described)
    titles = ["", "stage", *(["profile name"] if renamed else []), "of class", "components", "reads", "writes"]
    lines: list[str | list[Cell]] = []
    numbered = enumerate(described, start=1)
    for group, members in groupby(numbered, key=lambda item: item[1].group):
        lines += [group] if group else []
        for place, row in members:
            own_class = row.stage_class if row.stage_class != row.registered_name else ""
            names = [str(place), row.registered_name, *([row.profile_name] if renamed else []), own_class]
            listed = (row.components, row.reads, row.writes)
            cells = [*map(_breakable, names), *map(_short, listed)]
            lines.append([Cell(Markup(cell), style=f"{LEFT};vertical-align:top") for cell in cells])
    return html_table(titles, lines)


def _short(names: list[str]) -> str:
    """Return the first few names and the number of the others; the tooltip has them all."""
    shown = ", ".join(escape(name) for name in names[:SHOWN])
    more = f" <i>+{len(names) - SHOWN}</i>" if len(names) > SHOWN else ""
    return f'<span title="{escape(", ".join(names))}">{shown}{more}</span>' if names else ""


def _breakable(name: str) -> str:
    """Return a name that breaks only after an underscore and before a word's capital: LTX2|LoRA|Switch."""
    return re.sub(r"(?<=_)|(?<=[a-zA-Z0-9])(?=[A-Z][a-z])", "<wbr>", escape(name))


def diagram(described: list[StageRow]) -> str:
    """Return the diagram: dots where stages name a component and, folded below, bars for as long as a value is kept."""
    count, lives = len(described), _lives(described)
    components = dict.fromkeys(name for row in described for name in row.components)
    dots = {
        name: [_dot(i, y, row) for i, row in enumerate(described) if name in row.components]
        for name, y in _heights(components)
    }
    bars = {name: [_bar(name, *lives[name], y)] for name, y in _heights(lives)}
    used = "Stages from left to right: a dot where a stage names a component"
    kept = "Stages from left to right: a bar from the stage that writes a value to the last that reads it"
    folded = (
        f"<details><summary>{_count(bars, 'value')} handed from stage to stage</summary>"
        f"{_svg(bars, count, kept)}</details>"
    )
    return (_svg(dots, count, used) if dots else "") + (folded if bars else "")


def _count(things: Sized, what: str) -> str:
    return f"{len(things)} {what}{'s' if len(things) != 1 else ''}"


def _heights(names: Iterable[str]) -> list[tuple[str, float]]:
    return [(name, HEAD + ROW * (line + 0.5)) for line, name in enumerate(names)]


def _svg(lines: Mapping[str, list[str]], count: int, caption: str) -> str:
    width, height = LABEL + COLUMN * count + 10, HEAD + ROW * len(lines) + 6
    marks = [_text(LABEL + COLUMN * (i + 0.5), 11, str(i + 1), "middle") for i in range(count)]
    for name, y in _heights(lines):
        marks += [_text(LABEL - 8, y + 4, name, "end"), *lines[name]]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"{''.join(marks)}</svg>"
    )
    # As an image, because a notebook that is not trusted shows an inline SVG as text.
    data = b64encode(svg.encode()).decode()
    image = f'<img alt="{caption}" width="{width}" src="data:image/svg+xml;base64,{data}">'
    return f"{image}<p><small>{caption}.</small></p>"


def _lives(described: list[StageRow]) -> dict[str, tuple[int, int]]:
    """Return the places of the first writer and the last reader of each value that a later stage reads."""
    born: dict[str, int] = {}
    lives: dict[str, tuple[int, int]] = {}
    for place, row in enumerate(described):
        for name in row.reads:
            if name in born:
                lives[name] = (born[name], place)
        for name in row.writes:
            born.setdefault(name, place)
    return dict(sorted(lives.items(), key=lambda item: (item[1], item[0])))


def _dot(column: int, y: float, row: StageRow) -> str:
    title = f"<title>{escape(row.registered_name)}</title>"
    return f'<circle cx="{LABEL + COLUMN * (column + 0.5):g}" cy="{y:g}" r="5" fill="{BLUE}">{title}</circle>'


def _bar(name: str, first: int, last: int, y: float) -> str:
    left, length = LABEL + COLUMN * (first + 0.5), COLUMN * (last - first)
    title = f"<title>{escape(name)}: written by stage {first + 1}, last read by stage {last + 1}</title>"
    return f'<rect x="{left:g}" y="{y - 3:g}" width="{length:g}" height="6" rx="3" fill="{ORANGE}">{title}</rect>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    style = f'text-anchor="{anchor}" font-size="11" font-family="sans-serif" fill="{INK}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'
