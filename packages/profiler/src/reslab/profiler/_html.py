"""A profile as a table in the notebook: what `stages()` says, with a bar behind each share.

Everything that a user named is escaped. Colours are inherited but for the bars, so the table reads in a dark and in a
light theme, and it stays a table where a viewer drops styles.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from reslab.profiler._charts import bar_color
from reslab.profiler._units import format_bytes, format_ns, format_share

if TYPE_CHECKING:
    from reslab.profiler._profile import Profile

Row = dict[str, Any]

_BAR_PX = 120


def profile_html(profile: Profile) -> str:
    """Return the table of stages, or of named spans where there was no run."""
    stages, named = profile.stages(), profile.named()
    tables = []
    if not stages.is_empty():
        head = ("stage", "registered as", "calls", "host", "share", "peak memory")
        tables.append(_table(head, (_stage(row) for row in stages.rows(named=True))))
    if not named.is_empty():
        tables.append(_table(("span", "calls", "host"), (_named(row) for row in named.rows(named=True))))
    return "".join(tables) or "<p>Nothing was recorded.</p>"


def _stage(row: Row) -> Iterable[str]:
    names = row["registered_names"]
    failed = f" ({row['errors']} failed)" if row["errors"] else ""
    peak = row["allocated_peak_bytes"]
    yield escape(row["stage"])
    yield escape(", ".join(names)) if names != [row["stage"]] else ""
    yield f"{row['calls']}{failed}"
    yield format_ns(row["host_ms"] * 1e6)
    yield f"{_bar(row)} {format_share(row['share'])}"
    yield format_bytes(peak) if peak is not None else ""


def _named(row: Row) -> Iterable[str]:
    yield escape(row["name"])
    yield str(row["calls"])
    yield format_ns(row["host_ms"] * 1e6)


def _bar(row: Row) -> str:
    style = f"display:inline-block;height:0.7em;width:{row['share'] * _BAR_PX:.0f}px;background-color:{bar_color(row)}"
    return f'<span style="{style}"></span>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return f"<table><thead>{_row(head, 'th')}</thead><tbody>{''.join(_row(row, 'td') for row in rows)}</tbody></table>"


def _row(cells: Iterable[str], tag: str) -> str:
    start, end = f'<{tag} style="text-align:left">', f"</{tag}>"
    return f"<tr>{''.join(start + cell + end for cell in cells)}</tr>"
