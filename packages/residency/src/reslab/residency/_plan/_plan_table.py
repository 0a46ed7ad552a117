"""Plans and moves as tables: frames to query, HTML to read. HTML escapes every name that the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import polars as pl

from reslab.residency._plan._settings import Decision

DECISIONS: Mapping[str, Any] = {"setting": pl.String, "value": pl.String, "by": pl.Categorical, "why": pl.String}
MOVES: Mapping[str, Any] = {
    "act": pl.Categorical,
    "component": pl.Categorical,
    "block": pl.Int64,
    "nbytes": pl.Int64,
    "slot": pl.Int64,
    "stage": pl.Categorical,
    "call": pl.Int64,
}


def decisions(made: Iterable[Decision]) -> pl.DataFrame:
    """Return one row per decision, in the given order."""
    rows = [(str(each.key), each.text, str(each.by), each.why) for each in made]
    return pl.DataFrame(rows, schema=dict(DECISIONS), orient="row")


def moves(made: Iterable[tuple[Any, ...]]) -> pl.DataFrame:
    """Return one row per move, in order; `block` is null for a whole component, -1 outside its blocks."""
    return pl.DataFrame([(str(act), *others) for act, *others in made], schema=dict(MOVES), orient="row")


def plan_html(name: str, decided: pl.DataFrame) -> str:
    """Return a plan as a table of settings, with who decided each and why.

    Args:
        name: The plan's name.
        decided: The frame that `decisions` returns.
    """
    if decided.is_empty():
        return f"<p><b>{escape(name)}</b>: nothing is decided, so everything is resident.</p>"
    rows = ((escape(cell) for cell in row) for row in decided.rows())
    return f"<p><b>{escape(name)}</b></p>{table(('setting', 'value', 'decided by', 'why'), rows)}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return an HTML table of cells that are HTML already."""
    return f"<table><thead>{_row(head, 'th')}</thead><tbody>{''.join(_row(row, 'td') for row in rows)}</tbody></table>"


def _row(cells: Iterable[str], tag: str) -> str:
    start, end = f'<{tag} style="text-align:left">', f"</{tag}>"
    return f"<tr>{''.join(start + cell + end for cell in cells)}</tr>"
