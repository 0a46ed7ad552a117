"""A profile in one line, for a log.

    logger.info(summary(profile.stages(), profile.named(), profile.memory))
    # lab: 100 ms; denoise 60 %, encode 30 %, unattributed 10 % | host memory peaked at 11.2 GiB

Shares are of the time of the runs. Where a device was timed they say what it was busy with, because the host's clock
says only when work was handed over.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from reslab.profiler._charts import with_device_share
from reslab.profiler._tables import UNATTRIBUTED
from reslab.profiler._units import format_bytes, format_ns, format_share

_LONGEST = 3


def summary(stages: pl.DataFrame, named: pl.DataFrame, memory: pl.DataFrame) -> str:
    """Return one line without a newline: each pipeline's time, its longest stages, the rest, errors, peak memory.

    Args:
        stages: What `Profile.stages` returns.
        named: What `Profile.named` returns.
        memory: A frame of `MEMORY_SCHEMA`.
    """
    stages = with_device_share(stages)
    told = [_pipeline(name, rows) for (name,), rows in stages.group_by("pipeline", maintain_order=True)]
    told += [f"{row['name']} {format_ns(row['host_ms'] * 1e6)}" for row in named.iter_rows(named=True)]
    return " | ".join([*told, *_peaks(memory)]) or "nothing was recorded"


def _pipeline(name: Any, stages: pl.DataFrame) -> str:
    rest = stages.filter(pl.col("stage") == UNATTRIBUTED).row(0, named=True)
    on_device = stages["device_share"].count() > 0
    taken = pl.col("device_share").fill_null(0) if on_device else pl.col("share")
    inside = stages.filter(pl.col("stage") != UNATTRIBUTED).with_columns(taken=taken)
    inside = inside.sort("taken", descending=True, maintain_order=True)
    parts = [f"{row['stage']} {format_share(row['taken'])}" for row in inside.head(_LONGEST).rows(named=True)]
    if inside.height > _LONGEST:
        parts.append(f"{inside.height - _LONGEST} more {format_share(sum(inside['taken'][_LONGEST:]))}")
    where = " on the device" if on_device else ""
    parts.append(f"{UNATTRIBUTED} {format_share(rest['share'])}")
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
