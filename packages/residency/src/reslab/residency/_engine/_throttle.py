"""A slower link, so that a trade-off can be felt on any machine: each copy takes as long as that link would.

    apply(pipeline, plan, link="1 GB/s")                  # a bandwidth
    apply(pipeline, plan, link=like(card, rehearsal))     # a card's ratio of copying to computing

A laptop that computes 500 times slower than a card should copy 500 times slower too: then it waits where the card
would wait. `like` takes the ratio from a rehearsal of what the card would run, and the time that computing takes here
from the first run, which copies unthrottled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from reslab.residency._device._spec import DeviceSpec
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._units import parse_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How long it takes to copy the weights of every call of a run, for each second that the calls compute."""

    copy_s_per_compute_s: float

    def rate(self, *, copied_bytes: int, compute_s: float) -> float:
        """Return the bytes a second with which copying takes that much longer than computing.

        >>> Ratio(copy_s_per_compute_s=2.0).rate(copied_bytes=1000, compute_s=5.0)
        100.0
        """
        return copied_bytes / (self.copy_s_per_compute_s * compute_s)


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


class Link:
    """Holds a lane to a bandwidth: copies that follow each other take exactly their bytes' time together.

    Args:
        link: A bandwidth, or a ratio whose bandwidth `learn` will find; None for no limit.
        clock: Returns seconds.
        sleep: Sleeps that many seconds.
    """

    def __init__(
        self,
        link: str | int | Ratio | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ratio = link if isinstance(link, Ratio) else None
        self.bytes_per_s: float | None = None if link is None or isinstance(link, Ratio) else parse_rate(link)
        self._clock, self._sleep, self._free_s = clock, sleep, 0.0

    @property
    def is_limited(self) -> bool:
        """Tell whether copies are held to anything, now or later."""
        return self.ratio is not None or self.bytes_per_s is not None

    def learn(self, *, copied_bytes: int, compute_s: float) -> None:
        """Take the bandwidth from how long computing took here, if the link is a ratio and this is the first time."""
        if self.ratio is not None and self.bytes_per_s is None and compute_s > 0:
            self.bytes_per_s = self.ratio.rate(copied_bytes=copied_bytes, compute_s=compute_s)

    def hold(self, nbytes: int, issued_s: float) -> None:
        """Sleep until a copy of that size, issued at that time, would have come over the link."""
        if self.bytes_per_s is None:
            return
        self._free_s = max(self._free_s, issued_s) + nbytes / self.bytes_per_s
        if (left := self._free_s - self._clock()) > 0:
            self._sleep(left)
