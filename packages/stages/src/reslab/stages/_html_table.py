"""A table in HTML, whose texts are escaped unless they are `Markup`.

    html_table(("stage", "time"), [("denoise", "3 s"), ("decode", Markup("<b>9 s</b>"))])

A viewer of notebooks may drop style sheets, so each cell carries its style. Colours are the page's own, so a table
reads in a dark and in a light theme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

LEFT = "text-align:left"


class Markup(str):
    """HTML as it is; every other text in a table is escaped.

    >>> for text in ("<b>", Markup("<b>")):
    ...     print(html_table((), [(text,)]))
    <table><tbody><tr><td style="text-align:left">&lt;b&gt;</td></tr></tbody></table>
    <table><tbody><tr><td style="text-align:left"><b></td></tr></tbody></table>
    """

    __slots__ = ()


class Cell(NamedTuple):
    """A cell of a table with a tooltip or a style.

    Attributes:
        text: The text, or `Markup`.
        title: The tooltip; empty for none.
        style: The style; None for the style of the column.
    """

    text: str
    title: str = ""
    style: str | None = None


def html_table(
    head: Iterable[str],
    rows: Iterable[str | Iterable[str | Cell]],
    *,
    caption: str = "",
    styles: Sequence[str] = (),
) -> str:
    """Return a table, with a row of titles unless `head` is empty.

    >>> html_table(("stage",), [("denoise",)], caption="one < two")[:66]
    '<table><caption>one &lt; two</caption><thead><tr><th style="text-a'

    Args:
        head: The titles of the columns.
        rows: The cells of each row in order; a row that is one text is a heading over all columns.
        caption: A sentence above the table; empty for none.
        styles: The styles of the first columns; the others are aligned left.
    """
    titles = [*head]
    columns = [*styles, *[LEFT] * (len(titles) - len(styles))]
    above = f"<caption>{_html(caption)}</caption>" if caption else ""
    body = "".join(_heading(row, len(titles)) if isinstance(row, str) else _row("td", row, columns) for row in rows)
    top = f"<thead>{_row('th', titles, columns)}</thead>" if titles else ""
    return f"<table>{above}{top}<tbody>{body}</tbody></table>"


def _heading(text: str, columns: int) -> str:
    return f'<tr><th colspan="{columns}" style="{LEFT}">{_html(text)}</th></tr>'


def _row(tag: str, cells: Iterable[str | Cell], columns: Sequence[str]) -> str:
    return f"<tr>{''.join(_cell(tag, cell, place, columns) for place, cell in enumerate(cells))}</tr>"


def _cell(tag: str, cell: str | Cell, place: int, columns: Sequence[str]) -> str:
    text, title, style = cell if isinstance(cell, Cell) else Cell(cell)
    if style is None:
        style = columns[place] if place < len(columns) else LEFT
    hint = f' title="{escape(title)}"' if title else ""
    return f'<{tag} style="{style}"{hint}>{_html(text)}</{tag}>'


def _html(text: str) -> str:
    return str(text) if isinstance(text, Markup) else escape(text)
