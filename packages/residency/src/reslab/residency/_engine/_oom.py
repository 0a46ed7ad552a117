"""Out of memory: which stage, how much was asked, what was free, who held it, and what a leaner plan has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._engine._interrupts import asked
from reslab.residency._engine._mover import Mover
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, Workload
from reslab.residency._units import size_text

#: What runs out: torch on an accelerator, Python itself; a CPU allocation of torch that fails is a RuntimeError.
CPU_ALLOCATOR = "DefaultCPUAllocator"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


def explain(error: BaseException, stage: str, mover: Mover) -> str:
    """Return in sentences what ran out, asked at the moment when it did."""
    names = dict.fromkeys(unit.component for unit in mover.units)
    held = {name: mover.held_bytes(name) for name in names}
    holders = [f"{name} {size_text(size)}" for name, size in sorted(held.items(), key=lambda each: -each[1]) if size]
    free = _free(mover)
    return (
        f"the stage {stage!r} ran out of memory on {mover.device}: {asked(error)} was asked for, "
        f"{size_text(free) if free is not None else 'an unknown amount'} was free, and weights held "
        f"{size_text(sum(held.values()))} ({', '.join(holders) or 'none'})"
    )


class Exhausted(Exception):
    """Memory did not suffice in a stage; the message says all about it, the cause is the error itself."""

    def __init__(self, problem: str, stage: str) -> None:
        super().__init__(problem)
        self.stage = stage


def so_far(known: Workload, failed: Sequence[Call], stage: str) -> Workload:
    """Return what a leaner plan has to carry out: what is foreseen, and what the failed stage called.

    Of a first run nothing is foreseen, so all may be used again: each component counts as called at both ends.
    """
    calls = {name: list(own) for name, own in zip(known.stages, known.by_stage, strict=True)}
    calls[stage] += [call for call in failed if call not in calls[stage]]
    if not known.calls:
        for end in (known.stages[0], known.stages[-1]):
            calls[end] += [
                Call(stage=end, component=name, blocks=tuple(range(len(size.block_bytes))))
                for name, size in known.components.items()
            ]
    return replace(known, calls=tuple(call for own in calls.values() for call in own))


def _free(mover: Mover) -> int | None:
    if mover.limit_bytes is not None:
        return mover.limit_bytes - mover.held_bytes()
    return None if mover.device.type == "cpu" else _accelerator.free_bytes(mover.device)


def advice(steps_down: bool, lean: Plan | None = None) -> str:
    """Return what to do about it, where the next leaner plan is `lean`."""
    if lean is not None:
        return f"A stage is repeated once; begin with less, such as {lean!r}, or run again to take the next step."
    if steps_down:
        return "No leaner plan is left that does what this one was told; use a smaller size, or free memory."
    return f"Place less as {Place.RESIDENT!s}, or let on_oom='step-down' take the next leaner plan."
