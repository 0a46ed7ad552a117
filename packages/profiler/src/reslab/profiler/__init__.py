"""Spans of a pipeline run as one tidy table, with charts that work offline.

The problem: timers around a pipeline overwrite a stage that runs twice, merge two stages of one name, and omit the time
between them. The idea: every span is a row of its own, in one frame with declared columns. Tables and charts are views
of that frame, and the time that no stage accounts for is a row too.

    with Profiler(pipeline) as prof:
        pipeline.run(prompt="a heron over a weir", seed=7)
    prof.profile.stages()
    prof.profile.timeline()
    prof.profile.save("run.parquet")

Read on in `_model/_schema` (the columns of a row), `_record/_record` (how rows are recorded) and `_model/_tables`
(the views).
"""

from reslab.profiler._compare._compare import compare
from reslab.profiler._compare._comparison import Comparison
from reslab.profiler._compare._unequal_work import UnequalWorkError
from reslab.profiler._model._files import ProfileFileError
from reslab.profiler._model._meta import request_facts
from reslab.profiler._model._schema import MEMORY_SCHEMA, SPAN_SCHEMA, Change, ComparedTime, memory_frame, spans_frame
from reslab.profiler._profile import Profile
from reslab.profiler._record._instruments import Clock, Counters, DeviceTimer, MemoryReader, Reading
from reslab.profiler._record._memory import process_memory
from reslab.profiler._record._profiler import Profiler
from reslab.profiler._record._ranges import torch_ranges
from reslab.profiler._report._figure import BARE_AXIS, PALETTE, Figure, Look
from reslab.profiler._units import GIB, gib

__version__ = "0.2.0"

__all__ = [
    "BARE_AXIS",
    "GIB",
    "MEMORY_SCHEMA",
    "PALETTE",
    "SPAN_SCHEMA",
    "Change",
    "Clock",
    "ComparedTime",
    "Comparison",
    "Counters",
    "DeviceTimer",
    "Figure",
    "Look",
    "MemoryReader",
    "Profile",
    "ProfileFileError",
    "Profiler",
    "Reading",
    "UnequalWorkError",
    "compare",
    "gib",
    "memory_frame",
    "process_memory",
    "request_facts",
    "spans_frame",
    "torch_ranges",
]


def __dir__() -> list[str]:
    return __all__
