"""What can be asked of a residency: what is where, what was moved, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from reslab.residency._engine._component import Component
from reslab.residency._engine._director import Director
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._setting import Setting
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.stages import Pipeline, Subscription

if TYPE_CHECKING:
    import polars as pl


class View:
    """The part of a residency that moves nothing; each answer heals first what was interrupted.

    Attributes:
        plan: Where weights live; a leaner one, if memory did not suffice.
        execution_device: Where things compute.
    """

    plan: Plan
    execution_device: torch.device
    _pipeline: Pipeline
    _setting: Setting
    _mover: Mover
    _director: Director
    _components: Mapping[str, Component]
    _known: tuple[Call, ...]
    _subscription: Subscription | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not as foreseen, as sentences, in the order of happening."""
        return tuple(self._director.notes)

    @property
    def workload(self) -> Workload:
        """Sizes of the components, and the calls that the next run is foreseen to make; none before the first run."""
        stages = tuple(stage.registered_name for stage in self._pipeline.stages)
        sizes = {name: component.size for name, component in self._components.items()}
        kept = {name for name, component in self._components.items() if component.is_kept}
        places = {stage: place for place, stage in enumerate(stages)}
        known = [
            call
            for call in self._known
            if call.stage in places and call.component not in kept and _is_possible(call, sizes)
        ]
        calls = tuple(sorted(known, key=lambda call: places[call.stage]))  # sections of a stock call may swap places
        return Workload(components=sizes, stages=stages, calls=calls, activations=self._setting.activations)

    @property
    def fetched_bytes(self) -> Mapping[str, int]:
        """Bytes copied to the device in the last run, by stage; what is resident is copied before and not counted."""
        return {stage: size for stage, size in self._mover.fetched_bytes.items() if stage is not None}

    @property
    def device_bytes(self) -> int:
        """Bytes of weights on the device now, slots included."""
        self._mover.heal()
        return self._mover.held_bytes()

    @property
    def peak_bytes(self) -> int:
        """The most bytes of weights that were on the device at once in the last run, slots included."""
        return self._mover.peak_bytes

    @property
    def link_bytes_per_s(self) -> float | None:
        """What copies are held to; None without a limit, and with `like` until the first run has ended."""
        return self._setting.link.bytes_per_s

    def counters(self) -> Mapping[str, int]:
        """Return bytes by pool and component, so that a profiler takes them: `Profiler(pipeline, counters=managed)`."""
        from reslab.residency._engine._state import counters

        return counters(self._mover)

    def table(self) -> pl.DataFrame:
        """Return a row a component: placement, where, host_bytes, pinned_bytes, device_bytes, slots."""
        from reslab.residency._engine._state import table

        self._mover.heal()
        return table(self._components, self.plan, self._mover)

    def __repr__(self) -> str:
        from reslab.residency._engine._state import line

        return line(
            self.plan,
            self.execution_device,
            is_in_force=self._subscription is not None,
            components=len(self._components),
            held_bytes=self._mover.held_bytes(),
        )

    def _repr_html_(self) -> str:
        from reslab.residency._engine._state import html

        return html(repr(self), self.table(), self.notes)


def _is_possible(call: Call, sizes: Mapping[str, ComponentSize]) -> bool:
    """Tell whether what a call uses is there; a component may have been replaced since."""
    return call.component in sizes and max(call.blocks, default=-1) < len(sizes[call.component].block_bytes)
