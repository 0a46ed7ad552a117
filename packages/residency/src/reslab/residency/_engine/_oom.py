"""Out of memory: the stage, the bytes asked for and free, their holders, and the calls for a leaner plan to serve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._engine._mover import Mover
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._units import size_text

#: Part of the message of a RuntimeError that torch raises where an allocation on a CPU fails.
CPU_ALLOCATOR = "DefaultCPUAllocator"
_REQUESTED = re.compile(r"[Tt]ried to allocate ([0-9.]+ ?[KMGT]?i?B)")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


def describe(error: BaseException, stage: str, mover: Mover) -> str:
    """Return a sentence about who held the memory; call it at the moment of the error."""
    names = dict.fromkeys(unit.component for unit in mover.units)
    held = {name: mover.held_bytes(name) for name in names}
    holders = [f"{name} {size_text(size)}" for name, size in sorted(held.items(), key=lambda each: -each[1]) if size]
    free = _free(mover)
    return (
        f"the stage {stage!r} ran out of memory on {mover.device}: {requested_size(error)} was asked for, "
        f"{size_text(free) if free is not None else 'an unknown amount'} was free, and weights held "
        f"{size_text(sum(held.values()))} ({', '.join(holders) or 'none'})"
    )


class Exhausted(Exception):
    """A stage ran out of memory; the message describes it, and the cause is the error itself."""

    def __init__(self, problem: str, stage: str) -> None:
        super().__init__(problem)
        self.stage = stage


def known_so_far(known: Workload, failed: Sequence[Call], stage: str) -> Workload:
    """Return the calls that a leaner plan must serve: the scheduled ones, and those of the failed stage."""
    calls = {name: list(own) for name, own in zip(known.stages, known.by_stage, strict=True)}
    calls[stage] += [call for call in failed if call not in calls[stage]]
    if not known.calls:  # a first run has no schedule, so each component counts as called in the first and last stage
        for end in (known.stages[0], known.stages[-1]):
            calls[end] += [
                Call(stage=end, component=name, blocks=tuple(range(len(size.block_bytes))))
                for name, size in known.components.items()
            ]
    return replace(known, calls=tuple(call for own in calls.values() for call in own))


def requested_size(error: BaseException) -> str:
    """Return the size that an error of torch says was asked for.

    >>> requested_size(RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has …"))
    '1.50 GiB'
    """
    found = _REQUESTED.search(str(error))
    return found[1] if found else "an amount that torch does not name"


def _free(mover: Mover) -> int | None:
    if mover.limit_bytes is not None:
        return mover.limit_bytes - mover.held_bytes()
    return None if mover.device.type == "cpu" else _accelerator.free_bytes(mover.device)


def advice(steps_down: bool, lean: Plan | None = None) -> str:
    """Return the user's remedy, where `lean` is the next leaner plan."""
    if lean is not None:
        return f"A stage is repeated once; begin with less, such as {lean!r}, or run again to take the next step."
    if steps_down:
        return "No leaner plan keeps the user's settings; use a smaller size, or free memory."
    return f"Place less as {Place.RESIDENT!s}, or let on_oom='step-down' take the next leaner plan."
