"""The least time of a rehearsed run's operations on a device, by roofline: by trace, by stage and by call.

    trace_times(rehearsal, device)         # a row a trace: device_ns, fused_ns, memory_ns, host_ns
    compute_by_stage(rehearsal, device, Lora.MERGED)["LTX2RefinementStage"].compute_ns
    forward_times(rehearsal, device, Lora.DYNAMIC, "transformer")      # one call of a component
    unknown(rehearsal, device)             # "", or a sentence: which figures to give for times
    uncosted(rehearsal, device)            # op, kind, dtype, flops, share

An operation takes the longer of its arithmetic (FLOP ÷ throughput of its kind and type) and its traffic (bytes read and
written ÷ memory bandwidth). Operations run one after the other, and each reads from and writes to device memory.
`fused_ns` counts only matrix products, convolutions and attention, as if all other operations were fused into them for
free. Arithmetic without a known throughput is listed with its share; its traffic counts.

A call takes the longer of the device's time and the host's time for issuing its operations. The time between calls is
bound by traffic, or by the host. No copy of weights is counted here; `_bounds` adds them.

Source: Williams, Waterman, Patterson, "Roofline" (CACM 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import polars as pl

from reslab.residency._device._spec import DeviceError, DeviceSpec, not_known
from reslab.residency._plan._numerics import Lora
from reslab.residency._predict._rehearsed import traced
from reslab.residency._rehearse._rehearsal import Rehearsal

#: Kinds of operations whose arithmetic counts; all other kinds are bound by their traffic.
ARITHMETIC = ("matmul", "conv", "attention")

#: The largest share of all FLOPs that may lack a throughput: above it, the times would bound nothing.
_NEGLIGIBLE = 0.01
_HALF = ("bfloat16", "float16")
_REMEMBERED = 16
_known: dict[tuple[Any, ...], tuple[Rehearsal, Any]] = {}


def remembered(what: str, rehearsal: Rehearsal, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return the value made before for the same rehearsal (by identity) and key, or make it."""
    place = (what, id(rehearsal), *key)
    # the entry holds the rehearsal, so its id cannot be given to another one while the entry exists
    if place not in _known or _known[place][0] is not rehearsal:
        while len(_known) >= _REMEMBERED:
            del _known[next(iter(_known))]
        _known[place] = (rehearsal, make())
    return _known[place][1]


def speed(device: DeviceSpec) -> tuple[Any, ...]:
    """Return the figures of a device that decide the time of operations."""
    rates = (device.matrix_flops_per_s, device.attention_flops_per_s)
    known = (tuple(sorted(rate.items())) for rate in rates)
    return (device.memory_bytes_per_s, device.host_ns_per_operation, *known)


def trace_times(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    """Return a row a trace: trace, device_ns, fused_ns, memory_ns (bound by traffic), host_ns.

    Args:
        rehearsal: A rehearsed run.
        device: The device that computes.

    Raises:
        DeviceError: Throughputs of the device are not known; the message names them.
    """
    _check_known(rehearsal, device)
    return remembered("traces", rehearsal, speed(device), lambda: _trace_times(rehearsal, device))


def block_times(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    """Return a row a trace and block: trace, block (-1 outside), device_ns, fused_ns; errors as `trace_times`."""
    _check_known(rehearsal, device)
    bodies = _bodies(rehearsal, device)
    joined = rehearsal.segments.join(bodies, on="body", how="left")
    return joined.group_by("trace", "block").agg(pl.col("device_ns", "fused_ns").sum()).sort("trace", "block")


def uncosted(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    """Return the operations for whose arithmetic no throughput of the device is known, the largest first.

    Columns: op, kind, dtype, operations and flops of the whole run, share of all FLOPs (0 to 1).
    """
    return remembered("uncosted", rehearsal, speed(device), lambda: _uncosted(rehearsal, device))


def unknown(rehearsal: Rehearsal, device: DeviceSpec) -> str:
    """Return a sentence that says which figures of a device to give before it has times, or ""."""
    shares = (
        uncosted(rehearsal, device).group_by("dtype").agg(pl.col("share").sum()).filter(pl.col("share") > _NEGLIGIBLE)
    )
    lacking = {}
    if dtypes := shares["dtype"].cast(pl.String).sort().to_list():
        plain = all(dtype in _HALF for dtype in dtypes)
        given = "'44 TFLOP/s'" if plain else f"{dict.fromkeys(dtypes, '44 TFLOP/s')}"
        lacking[f"{', '.join(dtypes)} throughput of {device.name}"] = f"compute={given}"
    if device.memory_bytes_per_s is None:
        lacking[f"memory bandwidth of {device.name}"] = "bandwidth='288 GB/s'"
    return not_known(lacking)


def _check_known(rehearsal: Rehearsal, device: DeviceSpec) -> None:
    if sentence := unknown(rehearsal, device):
        raise DeviceError(sentence)


def bandwidth(device: DeviceSpec) -> int:
    """Return the memory bandwidth of a device for which `unknown` returned ""."""
    assert device.memory_bytes_per_s is not None
    return device.memory_bytes_per_s


def _trace_times(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    joined = rehearsal.segments.join(_bodies(rehearsal, device), on="body", how="left")
    sums = joined.group_by("trace").agg(pl.col("device_ns", "fused_ns", "memory_ns").sum())
    host = pl.col("host_operations") * device.host_ns_per_operation
    rows = rehearsal.traces.select("trace", host_ns=host).join(sums, on="trace", how="left")
    return rows.select("trace", "device_ns", "fused_ns", "memory_ns", "host_ns").fill_null(0).sort("trace")


def _bodies(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    """Return a row a body: the summed times of its operations."""
    arithmetic = pl.col("flops") / pl.col("flops_per_s") * 1e9
    traffic = (pl.col("read_bytes") + pl.col("written_bytes")) / bandwidth(device) * 1e9
    costed = _with_throughput(rehearsal, device).with_columns(
        arithmetic_ns=arithmetic.fill_null(0.0), traffic_ns=traffic
    )
    each = pl.max_horizontal("arithmetic_ns", "traffic_ns") * pl.col("repeats")
    counts = pl.col("kind").cast(pl.String).is_in(ARITHMETIC)
    bound = pl.col("traffic_ns") > pl.col("arithmetic_ns")
    sums = {"device_ns": each, "fused_ns": pl.when(counts).then(each), "memory_ns": pl.when(bound).then(each)}
    return costed.group_by("body").agg(**{name: ns.sum().round().cast(pl.Int64) for name, ns in sums.items()})


def _with_throughput(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    pairs = rehearsal.operations.select("kind", "dtype").unique()
    rates = [
        device.flops_per_s(kind, dtype) if kind in ARITHMETIC else None
        for kind, dtype in pairs.cast(pl.String).iter_rows()
    ]
    throughput = pairs.with_columns(pl.Series("flops_per_s", rates, dtype=pl.Float64))
    return rehearsal.operations.join(throughput, on=["kind", "dtype"], how="left")


def _uncosted(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    times = rehearsal.calls.group_by("trace").agg(calls=pl.len().cast(pl.Int64))
    bodies = rehearsal.segments.join(times, on="trace").group_by("body").agg(pl.col("calls").sum())
    every = _with_throughput(rehearsal, device).join(bodies, on="body")
    every = every.with_columns(operations=pl.col("repeats") * pl.col("calls"))
    every = every.with_columns(flops=pl.col("flops").cast(pl.Float64) * pl.col("operations"))
    total = max(every["flops"].sum(), 1)  # a run may have no arithmetic
    unknown = every.filter((pl.col("flops") > 0) & pl.col("flops_per_s").is_null())
    sums = unknown.group_by("op", "kind", "dtype").agg(pl.col("operations", "flops").sum())
    return sums.with_columns(share=pl.col("flops") / total).sort("flops", "op", descending=[True, False])


_READINGS = ("compute_ns", "fused_ns")


class StageCompute(NamedTuple):
    """The compute of a stage, without copies; without known rates, times are None and `unknown` is a sentence."""

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
    """Return the compute of each stage by registered name; with `tiled`, calls that can compute in tiles do."""
    # some types without a throughput would make the ceiling too low, so there are no times at all
    if sentence := unknown(rehearsal, device):
        return _uncounted(rehearsal, sentence)
    key = (lora, tiled, *speed(device))
    found: Mapping[str, StageCompute] = remembered(
        "compute", rehearsal, key, lambda: _compute(rehearsal, device, traced(merged=lora is Lora.MERGED, tiled=tiled))
    )
    return found


def forward_times(rehearsal: Rehearsal, device: DeviceSpec, lora: Lora, component: str) -> pl.DataFrame:
    """Return the mean time of a component's call in each stage: stage, shapes, compute_ns, fused_ns.

    Each call includes its share of the time between calls. `fused_ns` counts only matrix products, convolutions and
    attention on the device. In both, the host issues every operation, as in `compute_by_stage`.

    Args:
        rehearsal: A rehearsed run.
        device: The device that computes.
        lora: Merged or dynamic, which selects the trace of calls that have both.
        component: The component that is called.
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
    """Return the compute of each stage by registered name, with the time between its calls."""
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
    """Return the stages with their calls, without times."""
    calls = rehearsal.calls.group_by("registered_name").agg(calls=pl.len().cast(pl.Int64))
    stages = rehearsal.glue.select("stage", "registered_name")
    rows = stages.join(calls, on="registered_name", how="left", maintain_order="left").fill_null(0)
    named = rows.with_columns(pl.col("stage", "registered_name").cast(pl.String)).iter_rows()
    return {name: StageCompute(stage, name, calls, None, None, None, sentence) for stage, name, calls in named}


def _between(rehearsal: Rehearsal, device: DeviceSpec) -> pl.DataFrame:
    """Return the time between the calls of each stage: stage, registered_name, glue_ns, glue_host_ns."""
    traffic = (pl.col("read_bytes") + pl.col("written_bytes")) / bandwidth(device) * 1e9
    return rehearsal.glue.select(
        pl.col("stage", "registered_name"),
        glue_ns=traffic.round().cast(pl.Int64),
        glue_host_ns=pl.col("operations") * device.host_ns_per_operation,
    )
