"""The order of moves: one pure function, which the engine executes and the simulation times.

    schedule(plan, workload).moves          # fetch, evict, wait and compute, in order, with bytes
    schedule(plan, workload).frame()        # the same as a table

At the border before a stage, what is no longer kept is evicted (by re-pointing, which costs nothing) and what the stage
keeps is fetched, in the order of first use. Inside a stage, the blocks that stream go through slots: while a block
computes, the next `prefetch` ones are fetched, also across calls; a block that is still in its slot is not fetched
again. A swap with `prefetch_stages` is fetched in a stage before its own, behind the last fetch which that stage needs.
A fetch is issued and not waited for; the wait stands before the compute that needs it, for all that was fetched in one
piece or for a part of it. So the list is valid for one copy lane beside one compute lane, each working through its
moves in order.

What is resident from the first stage on is fetched before the run, under no stage.
"""

from __future__ import annotations

from collections.abc import Iterator

from reslab.residency._plan._keep import check_plan
from reslab.residency._plan._mover import Mover
from reslab.residency._plan._moves import Act, Move, Schedule
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload


def schedule(plan: Plan, workload: Workload) -> Schedule:
    """Return the order of moves in which a plan carries out a workload.

    >>> from reslab.residency import Call, ComponentSize
    >>> size = ComponentSize(outside_bytes=5, block_bytes=(10, 10, 10))
    >>> calls = (Call(stage="denoise", component="transformer", blocks=(0, 1, 2)),)
    >>> work = Workload(components={"transformer": size}, stages=("denoise",), calls=calls)
    >>> moves = schedule(Plan.of({"transformer": "layerwise"}), work).moves
    >>> print(*(f"{move.act} {move.block}" for move in moves), sep=", ")
    fetch -1, wait -1, fetch 0, fetch 1, wait 0, compute 0, evict 0, fetch 2, wait 1, compute 1, wait 2, compute 2, \
evict 1, evict 2, evict -1

    Raises:
        PlanError: If the plan places what the workload does not have.
    """
    check_plan(plan, workload)
    return Schedule(moves=tuple(_moves(plan, workload)))


def _moves(plan: Plan, workload: Workload) -> Iterator[Move]:
    movers = {name: Mover(plan, workload, name) for name in workload.components}
    for mover in movers.values():
        yield from mover.set_up()
    number = 0
    for place, (stage, calls) in enumerate(zip(workload.stages, workload.by_stage, strict=True)):
        ordered = [movers[name] for name in dict.fromkeys((*(call.component for call in calls), *movers))]
        for mover in ordered:
            yield from mover.leave(place, stage)
        for mover in ordered:
            yield from mover.enter(place, stage, calls)
        own = [move for at, call in enumerate(calls, number) for move in movers[call.component].run(call, at)]
        number += len(calls)
        last = max((at for at, move in enumerate(own) if move.act is Act.FETCH), default=-1)
        yield from own[: last + 1]
        for mover in ordered:
            yield from mover.look_ahead(place, stage, own[last].call if last >= 0 else None)
        yield from own[last + 1 :]
        for mover in ordered:
            yield from mover.empty_slots(stage)
    for mover in movers.values():
        yield from mover.finish(workload.stages[-1])
