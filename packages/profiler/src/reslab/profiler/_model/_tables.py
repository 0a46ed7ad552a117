"""Tables of time: from one row a span to one row a stage, a step, a pass or a component's method.

Each function takes a frame of spans and returns a frame whose columns and order are declared here. Names become Enums
in the order in which they first began, so a sorted table has the order of the pipeline. Sums are made in integer
nanoseconds and divided last; milliseconds are for reading. The time that no stage accounts for is a row called
`unattributed`, one a pipeline. Time on a device is a separate column, null where no device was timed.

    stages(profile.spans).filter(pl.col("stage") == "denoise")

Read on in `_resource_tables` (transfers, memory, unattributed time).
"""

from __future__ import annotations

import polars as pl

from reslab.profiler._model._schema import SPAN, Schema
from reslab.stages import Kind

UNATTRIBUTED_STAGE = "unattributed"

_HOST_TIMES: Schema = {"calls": pl.Int64, "host_ms": pl.Float64, "mean_ms": pl.Float64}
_TIMES: Schema = {**_HOST_TIMES, "device_ms": pl.Float64}
STAGES: Schema = {
    "pipeline": pl.Enum,
    "stage": pl.Enum,
    **_TIMES,
    "share": pl.Float64,
    "errors": pl.Int64,
    "registered_names": pl.List,
    "allocated_peak_bytes": pl.Int64,
}
STEPS: Schema = {"pipeline": pl.Enum, "stage": pl.Enum, "step": pl.Int64, **_TIMES}
PASSES: Schema = {"pipeline": pl.Enum, "stage": pl.Enum, "guidance_pass": pl.Enum, **_TIMES}
COMPONENTS: Schema = {"pipeline": pl.Enum, "stage": pl.Enum, "call": pl.Enum, **_TIMES}
NAMED: Schema = {"name": pl.Enum, **_HOST_TIMES, "errors": pl.Int64}

_CALLS = pl.len().cast(pl.Int64).alias("calls")
_ERRORS = pl.col("error").count().cast(pl.Int64).alias("errors")
_HOST_NS = pl.col("host_ns").sum()
# null where no device was timed: polars sums no values to 0
_DEVICE_NS = pl.when(pl.col("device_ns").count() > 0).then(pl.col("device_ns").sum())
_HOST_MS = pl.col("host_ns").truediv(1e6).alias("host_ms")
_DEVICE_MS = pl.col("device_ns").truediv(1e6).alias("device_ms")
_MEAN_MS = pl.col("host_ns").truediv(pl.col("calls") * 1e6).alias("mean_ms")


def stages(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row a profile name, in the order of running, and one for the time that no stage accounts for."""
    rows = pipeline_rows(spans, Kind.STAGE)
    filed = rows.group_by("pipeline", "stage").agg(
        pl.col("registered_name").unique(maintain_order=True).alias("registered_names"),
        _CALLS,
        _ERRORS,
        _HOST_NS,
        _DEVICE_NS,
        pl.col("allocated_peak_bytes").max(),
    )
    filed = filed.with_columns(pl.col("registered_names").list.drop_nulls().cast(pl.List(pl.String)))
    each_run = pipeline_rows(spans, Kind.RUN)
    runs = each_run.group_by("pipeline").agg(_CALLS, _HOST_NS)
    table = pl.concat([filed, _unattributed(runs, filed)], how="diagonal")
    return (
        table.join(runs.select("pipeline", run_ns="host_ns"), on="pipeline")
        .with_columns(_HOST_MS, _MEAN_MS, _DEVICE_MS, share=(pl.col("host_ns") / pl.col("run_ns")).fill_nan(0.0))
        .with_columns(in_order(each_run["pipeline"], "pipeline"), in_order(rows["stage"], "stage", UNATTRIBUTED_STAGE))
        .select(*STAGES)
        .sort("pipeline", "stage")
    )


def steps(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each denoising step of a stage."""
    return _grouped(pipeline_rows(spans, Kind.STEP), STEPS)


def mean_step_s(spans: pl.DataFrame) -> float:
    """Return the mean seconds of a denoising step, on the device where it was timed."""
    rows = steps(spans)
    if rows.is_empty():
        raise ValueError("no denoising step was recorded; profile a pipeline whose stages report their steps")
    total_ms, calls = rows.select(pl.coalesce("device_ms", "host_ms").sum(), pl.col("calls").sum()).row(0)
    return float(total_ms / calls / 1e3)


def passes(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each kind of guidance pass of a stage."""
    return _grouped(pipeline_rows(spans, Kind.PASS), PASSES)


def components(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each method called on a component in a stage."""
    return _grouped(pipeline_rows(spans, Kind.COMPONENT).rename({"name": "call"}), COMPONENTS)


def named(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each name that the user gave to a span."""
    rows = spans.filter(pl.col("kind") == SPAN).sort("start_ns")
    table = rows.group_by("name").agg(_CALLS, _ERRORS, _HOST_NS).with_columns(_HOST_MS, _MEAN_MS)
    return table.with_columns(in_order(rows["name"], "name")).select(*NAMED).sort("name")


def pipeline_rows(spans: pl.DataFrame, *kinds: str) -> pl.DataFrame:
    """Return the spans of some kinds in the order of beginning, with the name of the pipeline they ran in.

    Args:
        spans: A frame of `SPAN_SCHEMA`.
        kinds: Values of `reslab.stages.Kind`, or "span".
    """
    pipelines = spans.filter(pl.col("kind") == Kind.RUN.value).select("run", pipeline="name")
    rows = spans.filter(pl.col("kind").is_in([str(kind) for kind in kinds]))
    return rows.join(pipelines, on="run", how="left").sort("start_ns", "span")


def _unattributed(runs: pl.DataFrame, filed: pl.DataFrame) -> pl.DataFrame:
    inside = filed.group_by("pipeline").agg(inside_ns=_HOST_NS)
    return runs.join(inside, on="pipeline", how="left").select(
        "pipeline",
        pl.lit(UNATTRIBUTED_STAGE, pl.Categorical).alias("stage"),
        pl.lit([], pl.List(pl.String)).alias("registered_names"),
        "calls",
        pl.lit(0, pl.Int64).alias("errors"),
        pl.col("host_ns") - pl.col("inside_ns").fill_null(0),
    )


def _grouped(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    keys = [name for name in schema if name not in _TIMES]
    names = [name for name in keys if schema[name] == pl.Enum]
    return (
        rows.group_by(keys)
        .agg(_CALLS, _HOST_NS, _DEVICE_NS)
        .with_columns(_HOST_MS, _MEAN_MS, _DEVICE_MS, *(in_order(rows[name], name) for name in names))
        .select(*schema)
        .sort(keys)
    )


def in_order(values: pl.Series, name: str, *more: str) -> pl.Expr:
    """Return the column `name` as an Enum in the order in which its values first occur.

    Args:
        values: The column's values, in the order wanted.
        name: The name of the column.
        more: Values that come last.
    """
    order = [*values.unique(maintain_order=True).drop_nulls().cast(pl.String), *more]
    return pl.col(name).cast(pl.String).cast(pl.Enum(list(dict.fromkeys(order))))
