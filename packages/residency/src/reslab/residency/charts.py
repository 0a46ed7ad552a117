"""The pictures of residency: each draws the frame of one question.

    residency.charts.survey(residency.survey(rehearsals, cards))
    residency.charts.bounds(residency.bounds(rehearsal, plan, card).stages()).save("bounds.svg")

| chart | draws | from |
|---|---|---|
| `bounds` | per stage, the time at least and if nothing overlaps | `Bounds.stages()` |
| `compared_bounds` | those times beside the measured ones | `compare_bounds` |
| `memory_time` | the time of a pass against the memory spent, for several ways | columns of its docstring |
| `moved` | bytes that recipes copy for one video | `moved_bytes` |
| `offloading` | the cost of streaming all blocks against video size, a line a card | `break_even` |
| `resident_blocks` | blocks to keep so that streaming the others is free, a bar a card | `break_even` |
| `slots` | which block is in which slot, copied or computing, and when | `slot_times` |
| `survey` | card × size: the plan that fits, and its times | `survey` |
| `work` | the arithmetic of each stage and component | `Rehearsal.table()` |

Each returns a `reslab.profiler.Figure`, which a notebook shows and `save` writes. Altair is imported when a chart is
drawn.
"""

from reslab.residency._report._break_even_charts import offloading, resident_blocks
from reslab.residency._report._compare_bounds import compared_bounds
from reslab.residency._report._run_charts import bounds, survey, work
from reslab.residency._report._slot_charts import memory_time, slots
from reslab.residency._report._traffic import moved

__all__ = [
    "bounds",
    "compared_bounds",
    "memory_time",
    "moved",
    "offloading",
    "resident_blocks",
    "slots",
    "survey",
    "work",
]


def __dir__() -> list[str]:
    return __all__
