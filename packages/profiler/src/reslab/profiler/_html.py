"""A profile as a table in the notebook: what `stages()` says, with a bar behind each share.

Everything that a user named is escaped. Colours are inherited but for the bars, so the table reads in a dark and in a
light theme, and it stays a table where a viewer drops styles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import polars as pl

from reslab.profiler._charts import bar_color, with_device_share
from reslab.profiler._units import format_bytes, format_ns, format_share
from reslab.stages import Markup, html_table

Row = dict[str, Any]

_BAR_PX = 120


def profile_html(stages: pl.DataFrame, named: pl.DataFrame) -> str:
    """Return the table of stages, and of named spans, as far as there are any.

    Args:
        stages: What `Profile.stages` returns.
        named: What `Profile.named` returns.
    """
    tables = [_stages(with_device_share(stages).rows(named=True))] if stages.height else []
    if named.height:
        tables.append(html_table(("span", "calls", "host"), (_named(row) for row in named.rows(named=True))))
    return "".join(tables) or "<p>Nothing was recorded.</p>"


def _stages(rows: Sequence[Row]) -> str:
    """Return the table of stages; registered names are a column of it only where one differs from the stage's."""
    renamed = any(name != row["stage"] for row in rows for name in row["registered_names"])
    aside = {"registered as": _registered} if renamed else {}
    timed = any(row["device_ms"] is not None for row in rows)
    shares = {"device": _device, "share of the device": _share} if timed else {"share": _share}
    columns = {"stage": _name, **aside, "calls": _calls, "host": _host, **shares, "peak memory": _peak}
    return html_table(columns, ((cell(row) for cell in columns.values()) for row in rows))


def _name(row: Row) -> str:
    return str(row["stage"])


def _registered(row: Row) -> str:
    return ", ".join(row["registered_names"])


def _calls(row: Row) -> str:
    return f"{row['calls']} ({row['errors']} failed)" if row["errors"] else f"{row['calls']}"


def _host(row: Row) -> str:
    return format_ns(row["host_ms"] * 1e6)


def _device(row: Row) -> str:
    return "" if row["device_ms"] is None else format_ns(row["device_ms"] * 1e6)


def _share(row: Row) -> str:
    share = row["share"] if row["device_share"] is None else row["device_share"]
    style = f"display:inline-block;height:0.7em;width:{share * _BAR_PX:.0f}px;background-color:{bar_color(row)}"
    return Markup(f'<span style="{style}"></span> {escape(format_share(share))}')


def _peak(row: Row) -> str:
    peak = row["allocated_peak_bytes"]
    return format_bytes(peak) if peak is not None else ""


def _named(row: Row) -> Iterable[str]:
    yield row["name"]
    yield str(row["calls"])
    yield _host(row)
