"""The columns of a profile: their names, contents and types, in one place.

One row is one span: something that began, ended and lies inside its parent. A measured and a predicted run have the
same columns, so comparing them is one join. Times are inclusive integer nanoseconds from the start of the record and
are never rounded on their own; bytes are integers; text is Categorical (an Enum in pipeline order belongs to the
views, because the Enums of two pipelines do not join). A column that nothing has filled is null.

    frame = spans_frame(kind=["run"], name=["lab"], start_ns=[0], host_ns=[1_000])

A span inherits its coordinates (`run`, `stage`, `component`, `block`, `step`, `guidance_pass`) from the span around it,
so a filter on one of them finds everything below it. The path of a span is computed from `parent`, not stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
from polars.datatypes import DataTypeClass

from reslab.stages import Kind
from reslab.stages.support import Described

#: Raised when a column changes its name, type or meaning; files of a newer version are refused.
SCHEMA_VERSION = 1

#: The kind of a span that the user named with `Profiler.span`; all others are `reslab.stages.Kind`.
SPAN = "span"

#: Kinds at whose borders memory is read.
BORDERS = frozenset({Kind.RUN.value, Kind.STAGE.value})

#: Lanes: the thread that calls, the device's compute stream, the copies beside it.
HOST, COMPUTE, COPY = "host", "compute", "copy"

Schema = Mapping[str, DataTypeClass]

SPAN_SCHEMA: Schema = {
    "run": pl.Int64,  # number of the innermost run, in the order of beginning
    "span": pl.Int64,  # number of this span
    "parent": pl.Int64,  # number of the span around it, null at the top
    "kind": pl.Categorical,
    "lane": pl.Categorical,
    "name": pl.Categorical,  # as observers get it: pipeline, registered name, "component.method" …
    "stage": pl.Categorical,  # the profile name, under which a stage is filed
    "registered_name": pl.Categorical,  # unique in its pipeline
    "stage_class": pl.Categorical,
    "component": pl.Categorical,
    "block": pl.Categorical,
    "step": pl.Int64,  # denoising step from 0
    "guidance_pass": pl.Categorical,
    "start_ns": pl.Int64,
    "host_ns": pl.Int64,
    "device_start_ns": pl.Int64,
    "device_ns": pl.Int64,
    "moved_bytes": pl.Int64,  # transfers only
    "stall_ns": pl.Int64,  # waits only
    "allocated_before_bytes": pl.Int64,  # this and the next two: runs and stages only
    "allocated_after_bytes": pl.Int64,
    "allocated_peak_bytes": pl.Int64,
    "error": pl.Categorical,  # class of what was raised, or "unfinished"; no message: it may hold a path or a prompt
}

MEMORY_SCHEMA: Schema = {
    "at_ns": pl.Int64,
    "pool": pl.Categorical,  # whose memory: host, device, pinned, pageable
    "component": pl.Categorical,  # null: all of the pool
    "allocated_bytes": pl.Int64,
    "peak_bytes": pl.Int64,  # highest since the sample before
}


class Change(Described):
    """How a stage changed between two sides; each member carries its sentence in `doc`.

    >>> Change.UNSURE.doc
    'Too few repeats to tell a difference from noise.'
    """

    SLOWER = "slower", "Slower than noise and the tolerance explain."
    FASTER = "faster", "Faster than noise and the tolerance explain."
    SAME = "same", "No difference beyond noise and the tolerance."
    UNSURE = "unsure", "Too few repeats to tell a difference from noise."
    NEW = "new", "Only the second side has it."
    GONE = "gone", "Only the first side has it."


class ComparedTime(Described):
    """Which time of a stage `compare` takes; each value is a column of `SPAN_SCHEMA`.

    >>> ComparedTime("host_ns").doc
    "The host's clock: from the beginning of a call to its end, waiting included."
    """

    HOST = "host_ns", "The host's clock: from the beginning of a call to its end, waiting included."
    DEVICE = "device_ns", "The device's clock, read by events: how long the device worked on a call."


COMPARISON: Schema = {
    "pipeline": pl.String,
    "stage": pl.String,  # a profile name, or "unattributed"; in `runs` it is null
    "change": pl.Enum,
    "a_ms": pl.Float64,  # median over the runs of a; calls of one run are added up
    "b_ms": pl.Float64,
    "difference_ms": pl.Float64,  # b − a; a side that lacks the stage counts as 0
    "relative": pl.Float64,  # difference over a
    "low_ms": pl.Float64,  # the noise band: the shift from a to b lies between these two
    "high_ms": pl.Float64,
    "coverage": pl.Float64,  # with this probability
    "a_runs": pl.Int64,
    "b_runs": pl.Int64,
    "a_peak_bytes": pl.Int64,
    "b_peak_bytes": pl.Int64,
}


def spans_frame(**columns: Iterable[Any]) -> pl.DataFrame:
    """Build a frame of spans from some of its columns; the others are null.

    >>> frame = spans_frame(kind=["run"], name=["lab"], start_ns=[0], host_ns=[1_000])
    >>> frame.select("name", "host_ns", "device_ns").rows()
    [('lab', 1000, None)]

    Args:
        columns: Values by column of `SPAN_SCHEMA`, all equally many. Times in nanoseconds, sizes in bytes.

    Raises:
        ValueError: For a column that the schema does not have.
    """
    return _frame(columns, SPAN_SCHEMA)


def memory_frame(**columns: Iterable[Any]) -> pl.DataFrame:
    """Build a frame of memory samples from some of its columns; the others are null.

    >>> memory_frame(at_ns=[0], pool=["device"], allocated_bytes=[4096]).shape
    (1, 5)

    Args:
        columns: Values by column of `MEMORY_SCHEMA`, all equally many.

    Raises:
        ValueError: For a column that the schema does not have.
    """
    return _frame(columns, MEMORY_SCHEMA)


def check_frame(frame: pl.DataFrame, schema: Schema, what: str) -> None:
    """Raise ValueError unless `frame` has exactly the columns and types of `schema`, in its order."""
    wrong = [
        f"{name} is {frame.schema.get(name, 'missing')}, not {dtype}"
        for name, dtype in schema.items()
        if frame.schema.get(name) != dtype
    ]
    wrong += [f"{name} is not in the schema" for name in frame.columns if name not in schema]
    if wrong or frame.columns != list(schema):
        reason = "; ".join(wrong) or "the order of the columns differs"
        raise ValueError(f"not a frame of {what}: {reason}. Build it with reslab.profiler.{what}_frame(...).")


def _frame(columns: Mapping[str, Iterable[Any]], schema: Schema) -> pl.DataFrame:
    if unknown := sorted(set(columns) - set(schema)):
        raise ValueError(f"unknown columns {unknown}; the schema has {list(schema)}")
    given = {name: pl.Series(name, values, dtype=schema[name]) for name, values in columns.items()}
    height = len(next(iter(given.values()), ()))
    nulls = {name: pl.Series(name, [None], dtype=dtype) for name, dtype in schema.items() if name not in given}
    return pl.DataFrame([given[n] if n in given else nulls[n].new_from_index(0, height) for n in schema])
