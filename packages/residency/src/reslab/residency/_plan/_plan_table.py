"""Plans and moves as tables: frames to query, HTML to read. HTML escapes every name that the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import polars as pl

from reslab.residency._plan._settings import Decision
from reslab.stages.support import html_table

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
    return f"<p><b>{escape(name)}</b></p>{html_table(('setting', 'value', 'decided by', 'why'), decided.rows())}"
