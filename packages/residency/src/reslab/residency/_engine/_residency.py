"""A residency: it carries out a plan while a pipeline runs, and shows which weights are where.

    with residency.apply(pipeline, plan) as managed:
        pipeline.run(…)                # the first run fetches on demand and records the calls
        pipeline.run(…)                # later runs follow the schedule: prefetch, slots, swaps
    managed                            # in a notebook: a table of components, their places and bytes

Entering moves nothing; stages and calls of the run do, in the order of `schedule(plan, workload)`. Leaving restores
every weight. The pipeline calls the residency's conductor, in `_residency_conductor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from reslab.residency._engine._config import EngineConfig
from reslab.residency._engine._interrupts import masked
from reslab.residency._engine._residency_conductor import ResidencyConductor
from reslab.residency._errors import ResidencyError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.stages import Pipeline, Subscription

if TYPE_CHECKING:
    import polars as pl


class Residency:
    """Carries out a plan while a pipeline runs; `apply` makes it, and its `with` block puts it in force.

    Args:
        pipeline: The pipeline.
        plan: Where its weights live.
        config: Device, link, memory, and the other arguments of `apply`.
    """

    def __init__(self, pipeline: Pipeline, plan: Plan, config: EngineConfig) -> None:
        self._pipeline, self._config = pipeline, config
        # The pipeline's callbacks are methods of another object, so that Tab on a residency shows what a user calls.
        self._conductor = ResidencyConductor(pipeline, plan, config)
        self._subscription: Subscription | None = None

    def __enter__(self) -> Self:
        if self._subscription is not None:
            raise ResidencyError("this residency is in force already; go on inside its `with` block, or leave it first")
        try:
            with masked():
                self._conductor.begin()
                self._subscription = self._pipeline.conduct(self._conductor)
        except BaseException:  # an interrupt, too, that was held back until here
            with masked():
                self._remove()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Restore every weight to where it was before; after an interrupt, closing again continues where it stopped."""
        self._conductor.stop()
        with masked():
            self._remove()
        self._conductor.note_losses()

    def _remove(self) -> None:
        self._conductor.remove()
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    @property
    def plan(self) -> Plan:
        """Where weights live: the plan given to `apply`, or a leaner one after out of memory."""
        return self._conductor.plan

    @property
    def execution_device(self) -> torch.device:
        """Where components compute."""
        return self._conductor.execution_device

    @property
    def notes(self) -> tuple[str, ...]:
        """Deviations from plan and schedule, as sentences, in the order of happening."""
        return tuple(self._conductor.director.notes)

    @property
    def workload(self) -> Workload:
        """Sizes of the components, and the calls scheduled for the next run; no calls before the first run."""
        return self._conductor.workload

    @property
    def fetched_bytes(self) -> Mapping[str, int]:
        """Bytes copied to the device in the last run, by stage; copies made before the first stage do not count."""
        fetched = self._conductor.mover.fetched_bytes
        return {stage: size for stage, size in fetched.items() if stage is not None}

    @property
    def device_bytes(self) -> int:
        """Bytes of weights on the device now, slots included."""
        self._conductor.mover.heal()
        return self._conductor.mover.held_bytes()

    @property
    def peak_bytes(self) -> int:
        """Most bytes of weights on the device at once in the last run, slots included."""
        return self._conductor.mover.peak_bytes

    @property
    def link_bytes_per_s(self) -> float | None:
        """Bandwidth that copies are held to; None without a limit, and with `like` until the first run has ended."""
        return self._config.link.bytes_per_s

    def counters(self) -> Mapping[str, int]:
        """Return bytes by pool and component, so that a profiler takes them: `Profiler(pipeline, counters=managed)`."""
        from reslab.residency._engine._state_table import counters

        return counters(self._conductor.mover)

    def table(self) -> pl.DataFrame:
        """Return a row a component: placement, where, host_bytes, pinned_bytes, device_bytes, slots."""
        from reslab.residency._engine._state_table import table

        self._conductor.mover.heal()
        return table(self._conductor.components, self.plan, self._conductor.mover)

    def __repr__(self) -> str:
        from reslab.residency._engine._state_table import line

        return line(
            self.plan,
            self.execution_device,
            is_in_force=self._subscription is not None,
            components=len(self._conductor.components),
            held_bytes=self._conductor.mover.held_bytes(),
        )

    def _repr_html_(self) -> str:
        from reslab.residency._engine._state_table import html

        return html(repr(self), self.table(), self.notes)
