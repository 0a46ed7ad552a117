"""Plans and moves as tables: frames for asking, HTML for reading. Everything that a person named is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.residency._plan._moves import Move

if TYPE_CHECKING:
    from reslab.residency._plan._plan import Plan

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


def decisions(plan: Plan) -> pl.DataFrame:
    """Return a row a decision of a plan, in the order in which they were made."""
    rows = [(str(key), each.text, str(each.by), each.why) for key, each in plan.decisions.items()]
    return pl.DataFrame(rows, schema=dict(DECISIONS), orient="row")


def moves(made: Sequence[Move]) -> pl.DataFrame:
    """Return a row a move, in order; `block` is null for a whole component and -1 for what lies outside its blocks."""
    return pl.DataFrame([(str(move.act), *move[1:]) for move in made], schema=dict(MOVES), orient="row")


def plan_html(plan: Plan) -> str:
    """Return the plan as a table: what was decided, by whom, and why."""
    if not plan.decisions:
        return f"<p><b>{escape(plan.name)}</b>: nothing is decided, so everything is resident.</p>"
    rows = ((escape(cell) for cell in row) for row in decisions(plan).rows())
    return f"<p><b>{escape(plan.name)}</b></p>{table(('setting', 'value', 'decided by', 'why'), rows)}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return an HTML table; cells are HTML already."""
    return f"<table><thead>{_row(head, 'th')}</thead><tbody>{''.join(_row(row, 'td') for row in rows)}</tbody></table>"


def _row(cells: Iterable[str], tag: str) -> str:
    start, end = f'<{tag} style="text-align:left">', f"</{tag}>"
    return f"<tr>{''.join(start + cell + end for cell in cells)}</tr>"
