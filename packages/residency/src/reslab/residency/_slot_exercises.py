"""The checks of the exercises in notebook 03; each finds its truth in the order of moves on two lanes.

They are public as `reslab.residency.exercises`.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Any

from reslab.profiler.teaching import Asked, Hints, Verdict, check_number
from reslab.residency._plan._placement import Layout, layerwise
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._schedule import schedule
from reslab.residency._plan._workload import equal_blocks
from reslab.residency._report._slots import pass_time


def blocks_that_stay(answer: Any, *, blocks: int, copy: float) -> Verdict:
    """Check how many strided blocks have to stay, with prefetch 1, so that no pass but the first waits for a copy.

    Args:
        answer: A number of blocks, or `...`.
        blocks: Blocks of the model.
        copy: How many times longer copying a block takes than computing it.
    """
    by_bytes = math.ceil(blocks * (1 - 1 / copy)) if copy > 1 else 0
    enough = (
        kept for kept in count(by_bytes) if _is_free(Plan.of({"transformer": layerwise(resident=kept)}), blocks, copy)
    )
    truth = next(enough)
    traps = {
        by_bytes: "by the bytes that is enough; is it for each gap between two blocks that stream?",
        blocks - truth: "that many may stream; how many stay?",
        blocks: "then nothing streams; fewer are enough.",
    }
    return check_number(
        answer,
        truth=truth,
        what="the number of blocks",
        why=f"copying the other {blocks - truth} takes {(blocks - truth) * copy:g}, computing all takes {blocks}, "
        "and between two that stream enough others compute",
        asked=Asked(unit="blocks"),
        hints=Hints(traps=traps, section="sections 4 and 5", beside={"by the bytes alone": by_bytes, "all": blocks}),
    )


def copies_made(answer: Any, *, blocks: int, slots: int, passes: int) -> Verdict:
    """Check how many copies a run makes where all blocks stream through some slots.

    Args:
        answer: A number of copies, or `...`.
        blocks: Blocks of the model.
        slots: Slots, the one that computes included.
        passes: Times that the model is called.
    """
    plan = Plan.of({"transformer": layerwise(prefetch=slots - 1)})
    work = equal_blocks(blocks, passes=passes)
    traps = {
        blocks: "that is one pass; what is still there when the next one begins?",
        blocks
        + (passes - 1) * max(blocks - slots, 0): "the blocks that stay in their slots are not those needed next.",
        slots * passes: "each pass needs every block.",
        blocks * (passes - 1): "the first pass needs its copies, too.",
    }
    return check_number(
        answer,
        truth=schedule(plan, work).moved_bytes(),  # a byte a block
        what="the number of copies",
        why="in a circle, the block that was used longest ago is the next to be needed"
        if slots < blocks
        else "all blocks fit, so each is copied once",
        asked=Asked(unit="copies"),
        hints=Hints(traps=traps, section="section 4", beside={"blocks": blocks, "slots": slots}),
    )


def prefetch_of_leading(answer: Any, *, blocks: int, resident: int, copy: float) -> Verdict:
    """Check how deep the prefetch has to be so that leading resident blocks never wait, the first pass apart.

    Args:
        answer: Blocks that are fetched ahead, or `...`.
        blocks: Blocks of the model.
        resident: How many of them, the first ones, stay.
        copy: How many times longer copying a block takes than computing it.
    """
    plans = (Plan.of({"transformer": layerwise(resident=resident, layout=Layout.LEADING, prefetch=n)}) for n in count())
    truth = next(depth for depth, plan in enumerate(plans) if _is_free(plan, blocks, copy))
    traps = {
        truth + 1: "that may be the number of slots: one of them computes, the others are fetched ahead.",
        1: "that is the prefetch in the picture, and the blocks that stream wait there.",
        blocks - resident: "then each has a slot of its own; is that needed?",
        truth - 1: "with that some block still comes too late.",
    }
    return check_number(
        answer,
        truth=truth,
        what="the prefetch",
        why=f"{resident} blocks and {truth + 1} slots: memory for {resident + truth + 1} blocks",
        asked=Asked(unit="blocks"),
        hints=Hints(traps=traps, section="section 5", beside={"blocks that stay": resident}),
    )


def _is_free(plan: Plan, blocks: int, copy: float) -> bool:
    return pass_time(plan, blocks=blocks, copy=copy) < 1 + 1e-9
