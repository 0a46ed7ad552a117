"""Who holds how much of a memory, and when: the samples as steps that a chart can stack.

A memory is read at the borders of stages; between two samples the value of the first holds. Samples with a component
come from a manager's books. What the pool holds beyond them (activations, caches, whatever nobody owns up to) is a
component of its own, `other`.

    resident_bytes(profile.memory, pool="device")       # at_ns, component, resident_bytes; every component at each time
    pool_bytes(profile.memory, pool="device")           # at_ns, allocated_bytes, peak_bytes
"""

from __future__ import annotations

import polars as pl

OTHER = "other"


def first_pool(memory: pl.DataFrame) -> str | None:
    """Return the pool to look at first: the device's, else the first that was read, else None."""
    pools = memory["pool"].cast(pl.String).unique(maintain_order=True).to_list()
    return "device" if "device" in pools else next(iter(pools), None)


def pool_bytes(memory: pl.DataFrame, *, pool: str) -> pl.DataFrame:
    """Return the samples of a pool as a whole, by time.

    Args:
        memory: A frame of `MEMORY_SCHEMA`.
        pool: Which.
    """
    whole = memory.filter(pl.col("pool").cast(pl.String) == pool, pl.col("component").is_null())
    # two readings at one time: a stage has ended and the next begins, and the peak is that of the first
    return whole.group_by("at_ns").agg(pl.col("allocated_bytes").last(), pl.col("peak_bytes").max()).sort("at_ns")


def resident_bytes(memory: pl.DataFrame, *, pool: str) -> pl.DataFrame:
    """Return what each component holds of a pool at each sample, and the rest as `other`.

    Args:
        memory: A frame of `MEMORY_SCHEMA`.
        pool: Which.

    Returns:
        Columns at_ns, component, resident_bytes, by component (in the order of first being met, `other` last) and time.
    """
    ours = memory.filter(pl.col("pool").cast(pl.String) == pool).with_columns(pl.col("component").cast(pl.String))
    named = ours.drop_nulls("component").unique(["at_ns", "component"], keep="last", maintain_order=True)
    components = named["component"].unique(maintain_order=True)
    grid = ours.select("at_ns").unique().join(components.to_frame(), how="cross")
    held = grid.join(named, on=["at_ns", "component"], how="left").sort("at_ns")
    held = held.select("at_ns", "component", pl.col("allocated_bytes").forward_fill().over("component").fill_null(0))
    rows = pl.concat([held, _rest(held, pool_bytes(memory, pool=pool))]).rename({"allocated_bytes": "resident_bytes"})
    return rows.sort(pl.col("component").cast(pl.Enum([*components, OTHER])), "at_ns")


def _rest(held: pl.DataFrame, whole: pl.DataFrame) -> pl.DataFrame:
    """Return what a pool holds that no component does; nothing where the pool as a whole was not read."""
    sums = held.group_by("at_ns").agg(named_bytes=pl.col("allocated_bytes").sum())
    rest = pl.col("allocated_bytes") - pl.col("named_bytes").fill_null(0)
    rows = whole.join(sums, on="at_ns", how="left")
    return rows.select("at_ns", pl.lit(OTHER).alias("component"), rest.clip(lower_bound=0).alias("allocated_bytes"))
