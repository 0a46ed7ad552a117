"""A comparison of two sets of runs: one row a stage, worst first, and what must be said beside it.

    comparison = compare(baseline, today, labels=("baseline", "today"))
    comparison                      # in a notebook: the table
    comparison.bars()               # the chart
    comparison.stages.filter(pl.col("change") == "slower")

It is frozen data; `_compare` makes it, `_comparison_report` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from reslab.profiler._model._schema import Change, ComparedTime
from reslab.stages.support import Compared

if TYPE_CHECKING:
    from reslab.profiler._report._figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison(Compared):
    """How two sets of runs differ.

    Attributes:
        stages: A row a stage, the largest difference first; columns in `COMPARISON`.
        runs: The same of whole runs, a row a pipeline.
        labels: What the two sides are called.
        remarks: Sentences that a reader must know: unequal work, runs that are left out, times that do not add up.
        tolerance: Relative difference below which a stage is the same, whatever the noise.
        time: The times that were compared, a `ComparedTime`: "host_ns" or "device_ns".
    """

    stages: pl.DataFrame
    runs: pl.DataFrame
    labels: tuple[str, str] = ("a", "b")
    remarks: tuple[str, ...] = ()
    tolerance: float = 0.05
    time: str = ComparedTime.HOST

    @property
    def agrees(self) -> bool:
        """Whether no stage and no whole run is slower, faster, new or gone; a check against a baseline asserts it."""
        settled = [Change.SAME.value, Change.UNSURE.value]
        return self.stages["change"].is_in(settled).all() and self.runs["change"].is_in(settled).all()

    def bars(self) -> Figure:
        """Return the chart: a bar a stage as long as its difference, with its noise band, worst first."""
        from reslab.profiler._compare._comparison_report import difference_bars

        return difference_bars(self.stages, self.runs, labels=self.labels, time=self.time)

    def __repr__(self) -> str:
        found = [f"{change}={count}" for change in Change if (count := (self.stages["change"] == change).sum())]
        return f"Comparison({' → '.join(self.labels)}: {', '.join(found)})"

    def _repr_html_(self) -> str:
        from reslab.profiler._compare._comparison_report import comparison_html

        return comparison_html(self.stages, self.runs, labels=self.labels, remarks=self.remarks)
