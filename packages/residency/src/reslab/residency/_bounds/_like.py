"""A card's ratio of copying to computing, from a rehearsal of what it would run.

    apply(pipeline, plan, link=like(card, rehearsal))

A laptop that computes 500 times slower than a card should copy 500 times slower too: then it waits where the card
would wait.
"""

from __future__ import annotations

import polars as pl

from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._ratio import Ratio
from reslab.residency._rehearse._rehearsal import Rehearsal


def like(card: DeviceSpec, rehearsal: Rehearsal) -> Ratio:
    """Return the ratio of copying to computing that a card has in a rehearsed run, if every call copied its weights.

    Args:
        card: From `device`; its link for pinned memory and its throughput count.
        rehearsal: Of what that card would run, at its size.

    Raises:
        ValueError: If nobody knows how fast the card computes in the type of a component.
    """
    calls = rehearsal.calls.select(pl.col("component").cast(pl.String), "trace")
    traces = rehearsal.traces.select("trace", "matmul_flops", "conv_flops", "attention_flops")
    sizes = rehearsal.components.select(pl.col("component", "dtype").cast(pl.String), "weight_bytes", "lora_bytes")
    rows = calls.join(traces, on="trace").join(sizes, on="component").rows(named=True)
    copied = sum(row["weight_bytes"] + row["lora_bytes"] for row in rows)
    compute_s = sum(
        (row["matmul_flops"] + row["conv_flops"]) / _rate(card, "matrix", row["dtype"])
        + row["attention_flops"] / _rate(card, "attention", row["dtype"])
        for row in rows
    )
    return Ratio(copy_s_per_compute_s=copied / card.link_bytes_per_s / compute_s)


def _rate(card: DeviceSpec, kind: str, dtype: str) -> int:
    rate = card.flops_per_s(kind, dtype)
    if rate is None:
        raise ValueError(
            f"nobody knows how fast {card.name} computes in {dtype}; rehearse in a type that it is made for"
        )
    return rate
