"""A profile as a table in the notebook, with a bar behind each share, and as one line for a log.

    profile_html(profile.stages(), profile.named())
    logger.info(summary(profile.stages(), profile.named(), profile.memory))
    # lab: 100 ms; denoise 60 %, encode 30 %, unattributed 10 % | host memory peaked at 11.2 GiB

Every name that a user gave is escaped. Colours are inherited except for the bars, so the table reads in a dark and in a
light theme, and it stays a table where a viewer drops styles. Shares are of the time of the runs. Where a device was
timed, shares are of its busy time, because the host's clock only shows when work was handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import polars as pl

from reslab.profiler._model._tables import UNATTRIBUTED_STAGE
from reslab.profiler._report._bar_charts import bar_color, with_device_share
from reslab.profiler._units import format_bytes, format_ns, format_share
from reslab.stages.support import Markup, html_table

Row = dict[str, Any]

_BAR_PX = 120


def profile_html(stages: pl.DataFrame, named: pl.DataFrame) -> str:
    """Return the table of stages and the table of named spans, each where it has rows.

    Args:
        stages: The frame that `Profile.stages` returns.
        named: The frame that `Profile.named` returns.
    """
    tables = [_stages(with_device_share(stages).rows(named=True))] if stages.height else []
    if named.height:
        tables.append(html_table(("span", "calls", "host"), (_named(row) for row in named.rows(named=True))))
    return "".join(tables) or "<p>Nothing was recorded.</p>"


def _stages(rows: Sequence[Row]) -> str:
    """Return the table of stages; it has a column of registered names only where one differs from its stage."""
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


_LONGEST = 3


def summary(stages: pl.DataFrame, named: pl.DataFrame, memory: pl.DataFrame) -> str:
    """Return one line without a newline: each pipeline's time, its longest stages, the rest, errors, peak memory.

    Args:
        stages: The frame that `Profile.stages` returns.
        named: The frame that `Profile.named` returns.
        memory: A frame of `MEMORY_SCHEMA`.
    """
    stages = with_device_share(stages)
    phrases = [_pipeline(name, rows) for (name,), rows in stages.group_by("pipeline", maintain_order=True)]
    phrases += [f"{row['name']} {format_ns(row['host_ms'] * 1e6)}" for row in named.iter_rows(named=True)]
    return " | ".join([*phrases, *_peaks(memory)]) or "nothing was recorded"


def _pipeline(name: Any, stages: pl.DataFrame) -> str:
    rest = stages.filter(pl.col("stage") == UNATTRIBUTED_STAGE).row(0, named=True)
    on_device = stages["device_share"].count() > 0
    taken = pl.col("device_share").fill_null(0) if on_device else pl.col("share")
    inside = stages.filter(pl.col("stage") != UNATTRIBUTED_STAGE).with_columns(taken=taken)
    inside = inside.sort("taken", descending=True, maintain_order=True)
    parts = [f"{row['stage']} {format_share(row['taken'])}" for row in inside.head(_LONGEST).rows(named=True)]
    if inside.height > _LONGEST:
        parts.append(f"{inside.height - _LONGEST} more {format_share(sum(inside['taken'][_LONGEST:]))}")
    where = " on the device" if on_device else ""
    parts.append(f"{UNATTRIBUTED_STAGE} {format_share(rest['share'])}")
    total = format_ns(sum(stages["host_ms"]) * 1e6)
    runs = f" in {rest['calls']} runs" if rest["calls"] > 1 else ""
    failed = f"; {errors} failed" if (errors := stages["errors"].sum()) else ""
    return f"{name}: {total}{runs};{where} {', '.join(parts)}{failed}"


def _peaks(memory: pl.DataFrame) -> list[str]:
    """Return a phrase for each pool that was read as a whole."""
    whole = memory.filter(pl.col("component").is_null())
    highest = pl.max_horizontal("allocated_bytes", "peak_bytes").max().alias("highest")
    pools = whole.group_by(pl.col("pool").cast(pl.String), maintain_order=True).agg(highest).rows(named=True)
    return [f"{row['pool']} memory peaked at {format_bytes(row['highest'])}" for row in pools]
