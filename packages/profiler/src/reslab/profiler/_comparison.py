"""A comparison of two sets of runs: one row a stage, worst first, and what must be said beside it.

    comparison = compare(baseline, today, labels=("baseline", "today"))
    comparison                      # in a notebook: the table
    comparison.bars()               # the chart
    comparison.stages.filter(pl.col("change") == "slower")

It is frozen data; `_compare` makes it, `_compare_report` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from reslab.profiler._schema import Schema
from reslab.stages import Compared, Described

if TYPE_CHECKING:
    from reslab.profiler._vega import Figure


class Change(Described):
    """What is said of a stage; each member carries its sentence in `doc`.

    >>> Change.UNSURE.doc
    'Too few repeats to tell a difference from noise.'
    """

    SLOWER = "slower", "Slower than noise and the tolerance explain."
    FASTER = "faster", "Faster than noise and the tolerance explain."
    SAME = "same", "No difference beyond noise and the tolerance."
    UNSURE = "unsure", "Too few repeats to tell a difference from noise."
    NEW = "new", "Only the second side has it."
    GONE = "gone", "Only the first side has it."


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison(Compared):
    """How two sets of runs differ.

    Attributes:
        stages: A row a stage, the largest difference first; columns in `COMPARISON`.
        runs: The same of whole runs, a row a pipeline.
        labels: What the two sides are called.
        remarks: What a reader must know: unequal work, stages on one side only, times that do not add up.
        tolerance: Relative difference below which a stage is the same, whatever the noise.
        time: Which times were compared: "host_ns" or "device_ns".
    """

    stages: pl.DataFrame
    runs: pl.DataFrame
    labels: tuple[str, str] = ("a", "b")
    remarks: tuple[str, ...] = ()
    tolerance: float = 0.05
    time: str = "host_ns"

    @property
    def agrees(self) -> bool:
        """Whether nothing is slower, faster, new or gone: what a check against a baseline asks."""
        settled = [Change.SAME.value, Change.UNSURE.value]
        return self.stages["change"].is_in(settled).all() and self.runs["change"].is_in(settled).all()

    def bars(self) -> Figure:
        """Return the chart: a bar a stage as long as its difference, with its noise band, worst first."""
        from reslab.profiler._compare_report import difference_bars

        return difference_bars(self)

    def __repr__(self) -> str:
        found = [f"{change}={count}" for change in Change if (count := (self.stages["change"] == change).sum())]
        return f"Comparison({' → '.join(self.labels)}: {', '.join(found)})"

    def _repr_html_(self) -> str:
        from reslab.profiler._compare_report import comparison_html

        return comparison_html(self)
