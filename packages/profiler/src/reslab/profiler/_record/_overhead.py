"""The cost of recording, measured before each recording and reported with every profile.

Before recording begins, each kind of span is recorded some hundred times into a separate log: a user's span, an event
of the pipeline (with a device, two points are marked for it), and a run or stage (its memory is read twice). The median
of a few repeats is the cost of one span; the cost times the number of spans is the profile's overhead.
`benchmarks/profiler_overhead.py` checks by amplification that a run really loses this much.

    costs = measure_costs(memory=[], counters=None, device=None)
    overhead(profile.spans, costs)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median

import polars as pl

from reslab.profiler._model._schema import BORDERS, HOST, SPAN, Schema
from reslab.profiler._record._instruments import Counters, DeviceTimer, MemoryReader
from reslab.profiler._record._record import Recorder, SpanBlock
from reslab.stages import Kind

OVERHEAD: Schema = {
    "kind": pl.Enum,
    "spans": pl.Int64,
    "each_ns": pl.Float64,
    "overhead_ms": pl.Float64,
    "share": pl.Float64,
}

_ORDER = [*(kind.value for kind in Kind), SPAN]
_REPEATS = 5


def measure_costs(
    *, memory: Sequence[MemoryReader], counters: Counters | None, device: DeviceTimer | None
) -> dict[str, float]:
    """Return what a span, an event and a border cost, in nanoseconds from beginning to end.

    Args:
        memory: The readers that are read at each border.
        counters: The counters that are read at each border.
        device: The timer whose queue is marked for events and borders.
    """
    recorder = Recorder(time.perf_counter_ns, memory, counters, device)
    return {
        "span_ns": _each_ns(SpanBlock(recorder, "calibration"), 100),
        "event_ns": _each_ns(_Event(recorder, Kind.STEP), 100),
        "border_ns": _each_ns(_Event(recorder, Kind.STAGE), 20),
    }


class _Event:
    """A `with` block that sends an event to a recorder, as a pipeline does."""

    def __init__(self, recorder: Recorder, kind: str) -> None:
        self._begin, self._end, self._kind = recorder.begin, recorder.end, kind

    def __enter__(self) -> None:
        self._begin(self._kind, "calibration")

    def __exit__(self, *_: object) -> None:
        self._end()


def _each_ns(block: AbstractContextManager[None], count: int) -> float:
    """Return the nanoseconds of one block: the median of a few series."""
    series = []
    for _ in range(_REPEATS):
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            with block:
                pass
        series.append((time.perf_counter_ns() - start_ns) / count)
    return median(series)


def overhead(spans: pl.DataFrame, costs: Mapping[str, float]) -> pl.DataFrame:
    """Return what recording `spans` cost, a row a kind.

    Args:
        spans: A frame of `SPAN_SCHEMA`.
        costs: Costs as `measure_costs` returns them; empty where they are unknown.
    """
    recorded_ns = spans.filter(pl.col("lane") == HOST, pl.col("parent").is_null())["host_ns"].sum()
    kinds = spans.select(pl.col("kind").cast(pl.String)).group_by("kind").agg(pl.len().cast(pl.Int64).alias("spans"))
    each = {kind: costs.get(_cost_of(kind)) for kind in _ORDER}
    return (
        kinds.with_columns(each_ns=pl.col("kind").replace_strict(each, return_dtype=pl.Float64))
        .with_columns(overhead_ms=pl.col("spans") * pl.col("each_ns") / 1e6)
        .with_columns(share=pl.col("overhead_ms") * 1e6 / recorded_ns)
        .with_columns(pl.col("kind").cast(pl.Enum(_ORDER)))
        .select(*OVERHEAD)
        .sort("kind")
    )


def _cost_of(kind: str) -> str:
    return "border_ns" if kind in BORDERS else "span_ns" if kind == SPAN else "event_ns"
