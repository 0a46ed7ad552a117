"""A profile: a frame of spans, a frame of memory samples, and their meta.

    profile.stages()            # the time of each stage, and the time that no stage accounts for
    profile.spans.filter(...)   # the frame itself; its columns are in `_schema`
    profile.save("run.parquet"); Profile.load("run.parquet") == profile

It is frozen data: the tables (`_tables`, `_resource_tables`), the charts (`_report/_bar_charts`, `_report/_timeline`)
and the display (`_report/_display`) are functions of its frames. They do not know this class, and they treat measured
and predicted spans alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.profiler._model._schema import MEMORY_SCHEMA, SPAN_SCHEMA, check_frame, memory_frame
from reslab.stages import Kind
from reslab.stages.support import Compared

if TYPE_CHECKING:
    from reslab.profiler._report._figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile(Compared):
    """The measured or predicted spans and memory of one or more runs.

    >>> from reslab.profiler import spans_frame
    >>> Profile(spans=spans_frame(span=[0], kind=["run"], name=["lab"], run=[0], start_ns=[0], host_ns=[9]))
    Profile(runs=1, stages=0, spans=1)

    Args:
        spans: The spans, one row each, as `spans_frame` builds them.
        memory: The memory samples, as `memory_frame` builds them.
        meta: Schema version, device, versions, request without prompt and paths, plan, fingerprint of the work.

    Raises:
        ValueError: A frame does not have exactly the columns of its schema.
    """

    spans: pl.DataFrame
    memory: pl.DataFrame = field(default_factory=memory_frame)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_frame(self.spans, SPAN_SCHEMA, "spans")
        check_frame(self.memory, MEMORY_SCHEMA, "memory")

    def stages(self) -> pl.DataFrame:
        """Return the time of the runs: one row a stage in the order of running, then one row `unattributed`.

        Stages filed under one profile name are one row, whose `registered_names` lists them. Columns: pipeline, stage,
        calls, host_ms (of all calls), mean_ms, device_ms (null without a device), share (of the pipeline's runs, 0 to
        1), errors (calls that raised), registered_names, allocated_peak_bytes.
        """
        from reslab.profiler._model._tables import stages

        return stages(self.spans)

    def steps(self) -> pl.DataFrame:
        """Return one row a denoising step of a stage: pipeline, stage, step, calls, host_ms, mean_ms, device_ms."""
        from reslab.profiler._model._tables import steps

        return steps(self.spans)

    def mean_step_s(self) -> float:
        """Return the mean seconds of a denoising step: the device's time where it was timed, else the host's.

        Raises:
            ValueError: No denoising step was recorded.
        """
        from reslab.profiler._model._tables import mean_step_s

        return mean_step_s(self.spans)

    def passes(self) -> pl.DataFrame:
        """Return one row for each kind of guidance pass of a stage.

        Columns: pipeline, stage, guidance_pass, calls, host_ms, mean_ms, device_ms.
        """
        from reslab.profiler._model._tables import passes

        return passes(self.spans)

    def components(self) -> pl.DataFrame:
        """Return one row for each method called on a component in a stage.

        Columns: pipeline, stage, call, calls, host_ms, mean_ms, device_ms.
        """
        from reslab.profiler._model._tables import components

        return components(self.spans)

    def transfers(self) -> pl.DataFrame:
        """Return the transfers: one row for each component moved for a stage, with the waits for it.

        Columns: pipeline, stage (which the copies serve), component, calls, moved_bytes, copy_ms, gb_per_s (10⁹ bytes),
        stalled_ms (while compute stood still for it), hidden_ms (of copy_ms, behind compute).
        """
        from reslab.profiler._model._resource_tables import transfers

        return transfers(self.spans)

    def peaks(self) -> pl.DataFrame:
        """Return the memory of the first pool: one row for whole runs, whose stage is null, then one row a stage.

        Columns: pipeline, stage, calls, allocated_before_bytes (of the first call), allocated_after_bytes (of the
        last), allocated_peak_bytes, kept_bytes (added by the calls and not freed by them). All pools are in `memory`.
        """
        from reslab.profiler._model._resource_tables import peaks

        return peaks(self.spans)

    def unattributed(self) -> pl.DataFrame:
        """Return unattributed time: one row a pipeline, and one for each kind of span of a stage with spans inside.

        Columns: pipeline, stage, kind, calls, host_ms, unattributed_ms (of host_ms, in no span inside), share.
        """
        from reslab.profiler._model._resource_tables import unattributed

        return unattributed(self.spans)

    def overhead(self) -> pl.DataFrame:
        """Return the cost of recording: one row a kind of span, from the cost of one, measured when recording began.

        Columns: kind, spans, each_ns, overhead_ms, share (of the recorded time). Costs are null where they were not
        measured: with a clock other than the default, and in predicted profiles.
        """
        from reslab.profiler._record._overhead import overhead

        return overhead(self.spans, self.meta.get("overhead", {}))

    def named(self) -> pl.DataFrame:
        """Return one row for each name given to `Profiler.span`: name, calls, host_ms, mean_ms, errors."""
        from reslab.profiler._model._tables import named

        return named(self.spans)

    def bars(self) -> Figure:
        """Return the chart of `stages()`: a bar a stage, in the order of running."""
        from reslab.profiler._report._bar_charts import stage_bars

        return stage_bars(self.stages())

    def step_bars(self) -> Figure:
        """Return the chart of `steps()`: a bar a step beside the others' median, so a slow first step is seen."""
        from reslab.profiler._report._bar_charts import step_bars

        return step_bars(self.steps())

    def timeline(self, *, pool: str | None = None) -> Figure:
        """Return the timeline: host, compute, copies and stalls, over the memory that each component holds.

        Drag to move along, Ctrl and the wheel to zoom, double click to see all of it again.

        Args:
            pool: The memory to draw; by default the device's if it was read, else the first that was read.
        """
        from reslab.profiler._report._timeline import timeline

        device_bytes = self.meta.get("device", {}).get("memory_bytes")
        return timeline(self.spans, self.memory, pool=pool, device_bytes=device_bytes)

    def summary(self) -> str:
        """Return one line for a log: time, longest stages, unattributed time, errors, peak memory."""
        from reslab.profiler._report._display import summary

        return summary(self.stages(), self.named(), self.memory)

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a Chrome trace, which Perfetto (ui.perfetto.dev) opens: a track a lane, memory as counters.

        Args:
            path: The file to write; .json.gz is compressed, .json is not. Folders on the way are made.
        """
        from reslab.profiler._report._chrome_trace import export_chrome_trace

        export_chrome_trace(self.spans, self.memory, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one Parquet file, which any reader of Parquet opens as the frame of spans.

        Args:
            path: The file to write, ending in .parquet; an existing file is replaced, and folders on the way are made.

        Raises:
            ValueError: The path has the ending of another format.
        """
        from reslab.profiler._model._files import save

        save(self.spans, self.memory, self.meta, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Profile:
        """Read what `save` wrote.

        Args:
            path: A file that `save` wrote.

        Raises:
            ProfileFileError: The file is something else, damaged, or of a newer version.
        """
        from reslab.profiler._model._files import load

        spans, memory, meta = load(path)
        return Profile(spans=spans, memory=memory, meta=meta)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the spans for readers of Arrow: `polars.DataFrame(profile)`, `pyarrow.table(profile)`, DuckDB."""
        return self.spans.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        kinds = self.spans["kind"].cast(pl.String)
        runs, stages = ((kinds == kind).sum() for kind in (Kind.RUN, Kind.STAGE))
        return f"Profile(runs={runs}, stages={stages}, spans={self.spans.height})"

    def _repr_html_(self) -> str:
        from reslab.profiler._report._display import profile_html

        return profile_html(self.stages(), self.named())
