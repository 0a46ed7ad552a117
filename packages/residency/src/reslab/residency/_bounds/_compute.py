"""What each stage of a rehearsed run computes on a device, without a single copy.

    compute_by_stage(rehearsal, device, Lora.MERGED)["LTX2RefinementStage"].compute_ns

For every call the longer of the device's time (`_roofline`) and the host's for issuing its operations; what runs
between calls is bound by its traffic, or by the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from reslab.residency._bounds._roofline import remembered, speed, trace_times
from reslab.residency._bounds._workload import traced
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import Lora
from reslab.residency._rehearse._rehearsal import Rehearsal


class StageCompute(NamedTuple):
    """A stage without its copies."""

    stage: str
    registered_name: str
    calls: int
    compute_ns: int
    host_ns: int
    memory_ns: int


def compute_by_stage(
    rehearsal: Rehearsal, device: DeviceSpec, lora: Lora, *, tiled: bool = False
) -> Mapping[str, StageCompute]:
    """Return by registered name what each stage computes, with what can decode in tiles doing so where `tiled`."""
    key = (lora, tiled, *speed(device))
    found: Mapping[str, StageCompute] = remembered(
        "compute", rehearsal, key, lambda: _compute(rehearsal, device, traced(merged=lora is Lora.MERGED, tiled=tiled))
    )
    return found


def _compute(rehearsal: Rehearsal, device: DeviceSpec, trace: pl.Expr) -> dict[str, StageCompute]:
    """Return by registered name what each stage computes, what runs between its calls included."""
    times = trace_times(rehearsal, device).with_columns(compute_ns=pl.max_horizontal("device_ns", "host_ns"))
    calls = rehearsal.calls.select("registered_name", trace=trace).join(times, on="trace", how="left")
    sums = calls.group_by("registered_name").agg(
        calls=pl.len().cast(pl.Int64), **{name: pl.col(name).sum() for name in ("compute_ns", "host_ns", "memory_ns")}
    )
    traffic = (pl.col("read_bytes") + pl.col("written_bytes")) / device.memory_bytes_per_s * 1e9
    between = rehearsal.glue.select(
        pl.col("stage", "registered_name"),
        glue_ns=traffic.round().cast(pl.Int64),
        glue_host_ns=pl.col("operations") * device.host_ns_per_operation,
    )
    joined = between.join(sums, on="registered_name", how="left", maintain_order="left").fill_null(0)
    rows = joined.select(
        pl.col("stage", "registered_name").cast(pl.String),
        "calls",
        pl.col("compute_ns") + pl.max_horizontal("glue_ns", "glue_host_ns"),
        pl.col("host_ns") + pl.col("glue_host_ns"),
        pl.col("memory_ns") + pl.col("glue_ns"),
    )
    return {row[1]: StageCompute(*row) for row in rows.iter_rows()}
