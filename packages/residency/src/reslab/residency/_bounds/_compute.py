"""What each stage of a rehearsed run computes on a device, without a single copy.

    compute_by_stage(rehearsal, device, Lora.MERGED)["LTX2RefinementStage"].compute_ns

For every call the longer of the device's time (`_roofline`) and the host's for issuing its operations; what runs
between calls is bound by its traffic, or by the host.

    forward_times(rehearsal, device, Lora.DYNAMIC, "transformer")      # the same account, for one call of a component
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from reslab.residency._bounds._roofline import bandwidth, remembered, speed, trace_times, unknown
from reslab.residency._bounds._workload import traced
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import Lora
from reslab.residency._rehearse._rehearsal import Rehearsal

_READINGS = ("compute_ns", "fused_ns")


class StageCompute(NamedTuple):
    """A stage without its copies; where the device's rates are not known there are no times, and a sentence says so."""

    stage: str
    registered_name: str
    calls: int
    compute_ns: int | None
    host_ns: int | None
    memory_ns: int | None
    unknown: str = ""


def compute_by_stage(
    rehearsal: Rehearsal, device: DeviceSpec, lora: Lora, *, tiled: bool = False
) -> Mapping[str, StageCompute]:
    """Return by registered name what each stage computes, with what can decode in tiles doing so where `tiled`."""
    if sentence := unknown(rehearsal, device):
        return _uncounted(rehearsal, sentence)
    key = (lora, tiled, *speed(device))
    found: Mapping[str, StageCompute] = remembered(
        "compute", rehearsal, key, lambda: _compute(rehearsal, device, traced(merged=lora is Lora.MERGED, tiled=tiled))
    )
    return found


def forward_times(rehearsal: Rehearsal, device: DeviceSpec, lora: Lora, component: str) -> pl.DataFrame:
    """Return what one call of a component takes in each stage, on average: stage, shapes, compute_ns, fused_ns.

    What runs between the calls is part of it. `fused_ns` takes all but matrix products, convolutions and attention as
    fused away on the device; the host issues every operation in both, as `compute_by_stage` has it.

    Args:
        rehearsal: A rehearsed run.
        device: Whose throughputs count.
        lora: Merged or dynamic: which trace a call has that knows both.
        component: Whose calls.
    """
    calls = rehearsal.calls.filter(pl.col("component").cast(pl.String) == component)
    own = calls.select("registered_name", "stage", "shapes", trace=traced(merged=lora is Lora.MERGED, tiled=False))
    timed = own.join(trace_times(rehearsal, device), on="trace", how="left", maintain_order="left")
    means = timed.group_by("registered_name", maintain_order=True).agg(
        pl.col("stage", "shapes").first().cast(pl.String),
        calls=pl.len(),
        compute_ns=pl.max_horizontal("device_ns", "host_ns").mean(),
        fused_ns=pl.max_horizontal("fused_ns", "host_ns").mean(),
    )
    joined = means.join(_between(rehearsal, device), on="registered_name", how="left", maintain_order="left")
    glue = pl.max_horizontal("glue_ns", "glue_host_ns").fill_null(0) / pl.col("calls")
    return joined.select("stage", "shapes", *((pl.col(ns) + glue).round().cast(pl.Int64) for ns in _READINGS))


def _compute(rehearsal: Rehearsal, device: DeviceSpec, trace: pl.Expr) -> dict[str, StageCompute]:
    """Return by registered name what each stage computes, what runs between its calls included."""
    times = trace_times(rehearsal, device).with_columns(compute_ns=pl.max_horizontal("device_ns", "host_ns"))
    calls = rehearsal.calls.select("registered_name", trace=trace).join(times, on="trace", how="left")
    sums = calls.group_by("registered_name").agg(
        calls=pl.len().cast(pl.Int64), **{name: pl.col(name).sum() for name in ("compute_ns", "host_ns", "memory_ns")}
    )
    between = _between(rehearsal, device)
    joined = between.join(sums, on="registered_name", how="left", maintain_order="left").fill_null(0)
    rows = joined.select(
        pl.col("stage", "registered_name").cast(pl.String),
        "calls",
        pl.col("compute_ns") + pl.max_horizontal("glue_ns", "glue_host_ns"),
        pl.col("host_ns") + pl.col("glue_host_ns"),
        pl.col("memory_ns") + pl.col("glue_ns"),
    )
    return {row[1]: StageCompute(*row) for row in rows.iter_rows()}


def _uncounted(rehearsal: Rehearsal, sentence: str) -> dict[str, StageCompute]:
    """Return the stages with their calls and without times."""
    calls = rehearsal.calls.group_by("registered_name").agg(calls=pl.len().cast(pl.Int64))
    stages = rehearsal.glue.select("stage", "registered_name")
    rows = stages.join(calls, on="registered_name", how="left", maintain_order="left").fill_null(0)
    named = rows.with_columns(pl.col("stage", "registered_name").cast(pl.String)).iter_rows()
    return {name: StageCompute(stage, name, calls, None, None, None, sentence) for stage, name, calls in named}


def _between(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    """Return what runs between the calls of each stage: stage, registered_name, glue_ns, glue_host_ns."""
    traffic = (pl.col("read_bytes") + pl.col("written_bytes")) / bandwidth(device) * 1e9
    return rehearsal.glue.select(
        pl.col("stage", "registered_name"),
        glue_ns=traffic.round().cast(pl.Int64),
        glue_host_ns=pl.col("operations") * device.host_ns_per_operation,
    )
