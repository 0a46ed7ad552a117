"""Tables of what moved, what was allocated and what no span accounts for, and a check that spans add up.

    transfers(profile.spans)          # bytes, GB/s, how much of the copying was hidden behind compute
    peaks(profile.spans)              # memory before, after and at most, a row a stage
    unattributed(profile.spans)       # the time of a run, stage, step or pass that lies in no span inside it
    inconsistencies(profile.spans)    # ["the steps of 'denoise' sum to 30 ms, more than its 20 ms"]

The form and the units of the tables are those of `_tables`. In a measured profile the spans inside a span never take
longer than it. A file that was edited, merged or written by another program may break that rule, and a baseline whose
steps take longer than their stage proves nothing. So `compare` asks for `inconsistencies` and reports them.
"""

from __future__ import annotations

import polars as pl

from reslab.profiler._model._schema import BORDERS, HOST, Schema
from reslab.profiler._model._tables import in_order, pipeline_rows
from reslab.profiler._units import format_ns
from reslab.stages import Kind

TRANSFERS: Schema = {
    "pipeline": pl.Enum,
    "stage": pl.Enum,
    "component": pl.Enum,
    "calls": pl.Int64,
    "moved_bytes": pl.Int64,
    "copy_ms": pl.Float64,
    "gb_per_s": pl.Float64,
    "stalled_ms": pl.Float64,
    "hidden_ms": pl.Float64,
}
PEAKS: Schema = {
    "pipeline": pl.Enum,
    "stage": pl.Enum,
    "calls": pl.Int64,
    "allocated_before_bytes": pl.Int64,
    "allocated_after_bytes": pl.Int64,
    "allocated_peak_bytes": pl.Int64,
    "kept_bytes": pl.Int64,
}
UNATTRIBUTED: Schema = {
    "pipeline": pl.Enum,
    "stage": pl.Enum,
    "kind": pl.Enum,
    "calls": pl.Int64,
    "host_ms": pl.Float64,
    "unattributed_ms": pl.Float64,
    "share": pl.Float64,
}

_OUTER = [Kind.RUN.value, Kind.STAGE.value, Kind.STEP.value, Kind.PASS.value]
_IS_COPY = pl.col("kind") == Kind.TRANSFER.value
_COPY_NS = pl.when(_IS_COPY).then(pl.coalesce("device_ns", "host_ns"))
# the host does nothing else while it copies itself, so all of that copy stalls
_STALLED_NS = pl.when(_IS_COPY & (pl.col("lane") == HOST)).then(_COPY_NS).otherwise(pl.col("stall_ns"))


def transfers(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each component moved for a stage, with the waits for it."""
    rows = pipeline_rows(spans, Kind.TRANSFER, Kind.WAIT)
    return (
        rows.group_by("pipeline", "stage", "component")
        .agg(
            _IS_COPY.sum().cast(pl.Int64).alias("calls"),
            pl.col("moved_bytes").sum(),
            copy_ns=_COPY_NS.sum(),
            stalled_ns=_STALLED_NS.sum(),
        )
        .with_columns(
            copy_ms=pl.col("copy_ns") / 1e6,
            gb_per_s=pl.when(pl.col("copy_ns") > 0).then(pl.col("moved_bytes") / pl.col("copy_ns")),
            stalled_ms=pl.col("stalled_ns") / 1e6,
            hidden_ms=(pl.col("copy_ns") - pl.col("stalled_ns")).clip(0) / 1e6,
        )
        .with_columns(in_order(rows[name], name) for name in ("pipeline", "stage", "component"))
        .select(*TRANSFERS)
        .sort("pipeline", "stage", "component")
    )


def peaks(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row for the runs as a whole, whose stage is null, then one row a stage."""
    rows = pipeline_rows(spans, *BORDERS)
    before, after = pl.col("allocated_before_bytes"), pl.col("allocated_after_bytes")
    return (
        rows.group_by("pipeline", "stage")
        .agg(
            pl.len().cast(pl.Int64).alias("calls"),
            before.first(),
            after.last(),
            pl.col("allocated_peak_bytes").max(),
            kept_bytes=pl.when(after.count() > 0).then((after - before).sum()),
        )
        .with_columns(in_order(rows[name], name) for name in ("pipeline", "stage"))
        .select(*PEAKS)
        .sort("pipeline", "stage")
    )


def unattributed(spans: pl.DataFrame) -> pl.DataFrame:
    """Return one row a pipeline, and one for each kind of span of a stage that has spans inside it."""
    inside = spans.filter(pl.col("lane") == HOST).group_by(span="parent").agg(inside_ns=pl.col("host_ns").sum())
    rows = pipeline_rows(spans, *_OUTER).filter(pl.col("lane") == HOST).join(inside, on="span", how="left")
    rows = rows.filter((pl.col("kind") == Kind.RUN.value) | pl.col("inside_ns").is_not_null()).sort("start_ns", "span")
    left_ns = pl.col("host_ns") - pl.col("inside_ns").fill_null(0)
    return (
        rows.group_by("pipeline", "stage", "kind")
        .agg(pl.len().cast(pl.Int64).alias("calls"), pl.col("host_ns").sum(), left_ns=left_ns.sum())
        .with_columns(
            host_ms=pl.col("host_ns") / 1e6,
            unattributed_ms=pl.col("left_ns") / 1e6,
            share=(pl.col("left_ns") / pl.col("host_ns")).fill_nan(0.0),
            kind=pl.col("kind").cast(pl.String).cast(pl.Enum(_OUTER)),
        )
        .with_columns(in_order(rows[name], name) for name in ("pipeline", "stage"))
        .select(*UNATTRIBUTED)
        .sort("pipeline", "stage", "kind")
    )


def inconsistencies(spans: pl.DataFrame) -> list[str]:
    """Return a sentence for each name whose inner spans sum to more than itself; none for a sound profile.

    >>> from reslab.profiler import spans_frame
    >>> columns = dict(span=[0, 1], parent=[None, 0], lane=["host"] * 2, kind=["stage", "step"])
    >>> inconsistencies(spans_frame(**columns, name=["denoise", "step"], start_ns=[0, 0], host_ns=[20, 30]))
    ["the steps of 'denoise' sum to 30 ns, more than its 20 ns"]

    Args:
        spans: A frame of `SPAN_SCHEMA`. Only spans on the lane of their parent count: copies run beside the host.
    """
    text = spans.with_columns(pl.col("name", "kind", "lane").cast(pl.String))
    around = text.select("span", "lane", of="name", own_ns="host_ns")
    inside = text.join(around, left_on=["parent", "lane"], right_on=["span", "lane"])
    sums = inside.group_by("parent", "of", "own_ns", maintain_order=True).agg(
        pl.col("kind").unique(maintain_order=True), inner_ns=pl.col("host_ns").sum()
    )
    broken = sums.filter(pl.col("inner_ns") > pl.col("own_ns")).unique("of", keep="first", maintain_order=True)
    return [_sentence(**row) for row in broken.drop("parent").iter_rows(named=True)]


def _sentence(*, of: str, own_ns: int, kind: list[str], inner_ns: int) -> str:
    inner = " and ".join(f"{one}es" if one.endswith("s") else f"{one}s" for one in kind)
    return f"the {inner} of {of!r} sum to {format_ns(inner_ns)}, more than its {format_ns(own_ns)}"
