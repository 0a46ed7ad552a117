"""A residency: it carries out a plan while a pipeline runs.

    with residency.apply(pipeline, plan) as managed:
        pipeline.run(…)                # the first run fetches on demand and learns the calls
        pipeline.run(…)                # from then on the schedule is followed: prefetch, slots, swaps
    managed                            # in a notebook: a table of what is where

Entering moves nothing; stages and calls of the run do, in the order of `schedule(plan, workload)`. Whatever ends a
stage, its weights are let go of; leaving puts all back. Every public touch heals first what was interrupted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from reslab.residency._engine import _accelerator, _oom
from reslab.residency._engine._choices import Tiling, check_choices
from reslab.residency._engine._component import Component
from reslab.residency._engine._director import Director
from reslab.residency._engine._errors import OutOfMemory, ResidencyError
from reslab.residency._engine._fit import check_executable, check_fits, check_modules
from reslab.residency._engine._merged import Merged
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._recovery import masked
from reslab.residency._engine._script import Script
from reslab.residency._engine._setting import Setting, Sources
from reslab.residency._engine._unit import Shared
from reslab.residency._plan._leaner import leaner
from reslab.residency._plan._numerics import MERGED, Lora
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.stages import Pipeline, Stage, Subscription

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger(__name__)


class Residency:
    """Carries out a plan while a pipeline runs; made by `apply`, and the pipeline's conductor in its `with` block.

    Args:
        pipeline: The pipeline.
        plan: Where its weights live.
        setting: Device, link, memory, and what else `apply` was told.
    """

    def __init__(self, pipeline: Pipeline, plan: Plan, setting: Setting) -> None:
        self.plan = plan
        self.execution_device = setting.device
        self.may_retry = setting.steps_down
        self._pipeline, self._setting, self._known = pipeline, setting, setting.calls
        self._sources = Sources(setting, plan)
        self._mover = Mover(
            device=setting.device,
            lane=setting.lane(reads_disk=self._sources.reads_disk),
            tell=lambda: pipeline.tell,
            make_source=self._sources.make,
            limit_bytes=setting.budget.device_bytes,
        )
        self._components: dict[str, Component] = {}
        self._aliases: dict[str, str] = {}
        self._director = Director(self._mover, self._components)
        self._buffers, self._tiling = _accelerator.Buffers(setting.device), Tiling(plan)
        self._subscription: Subscription | None = None
        self._copied_bytes, self._compute_s = 0, 0.0
        self._failed: tuple[Call, ...] = ()

    def __enter__(self) -> Self:
        with masked():
            try:
                self._see_components()
                self._plan_run()
                self._subscription = self._pipeline.conduct(self)
            except BaseException:
                self._remove()
                raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Put everything back as it was before; after an interrupt, closing again goes on where it stopped."""
        self._director.stage = None
        self._mover.clear()
        with masked():
            self._remove()

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Run a stage, with the moves at its borders around it; on out of memory once more, if that was asked for.

        Raises:
            OutOfMemory: If memory does not suffice, also not with the next leaner plan.
        """
        name, problem, lean = stage.registered_name, "", None
        try:
            self._run_stage(name, call)
        except _Exhausted as exhausted:
            problem, lean = str(exhausted), self._leaner(name)
            if lean is None:
                raise OutOfMemory(f"{problem}. {_oom.advice(self.may_retry)}") from exhausted.__cause__
        if lean is None:
            return
        # out here nothing keeps the frames of the failed call, and with them its tensors, alive
        self._step_down(lean, problem)
        try:
            self._run_stage(name, call, again=True)
        except _Exhausted as exhausted:
            told = f"{exhausted}, though the plan was made leaner. {_oom.advice(self.may_retry)}"
            raise OutOfMemory(told) from exhausted.__cause__

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Make a component's call, having seen to its weights."""
        self._mover.heal()
        own = self._components.get(self._aliases.get(component, component))
        merged = self._merged_in_place_of(own)
        if merged is None:
            return self._call(own, method, call)
        with merged.standing():
            return self._call(merged, method, call)

    def _call(self, own: Component | None, method: str, call: Callable[[], Any]) -> Any:
        own = own.face if own is not None else None
        if own is None or not self._director.begin_call(own, method):
            return call()
        begun, waited = time.perf_counter(), self._mover.waited_s
        try:
            return call()
        finally:
            self._director.end_call()
            self._copied_bytes += own.size.weight_bytes
            self._compute_s += time.perf_counter() - begun - (self._mover.waited_s - waited)

    def _merged_in_place_of(self, own: Component | None) -> Merged | None:
        """Return the copy that a call is to run on: the LoRA is on, and the call is not inside another one of it."""
        if own is None or own.face is not own or not own.lora.is_on:
            return None
        merged = self._components[own.name + MERGED]
        assert isinstance(merged, Merged)
        if merged.see():
            self._director.notes.append(f"the LoRA of {own.name!r} has changed, so it is merged anew")
        return merged

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not as foreseen, as sentences, in the order of happening."""
        return tuple(self._director.notes)

    @property
    def workload(self) -> Workload:
        """Sizes of the components, and the calls that the next run is foreseen to make; none before the first run."""
        stages = tuple(stage.registered_name for stage in self._pipeline.stages)
        sizes = {name: component.size for name, component in self._components.items()}
        calls = tuple(call for call in self._known if call.stage in stages and call.component in sizes)
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
        """Return bytes by pool and component, for `Profiler(pipeline, counters=…)`."""
        from reslab.residency._engine._state import counters

        return counters(self._mover)

    def table(self) -> pl.DataFrame:
        """Return a row a component: placement, where, host_bytes, pinned_bytes, device_bytes, slots."""
        from reslab.residency._engine._state import table

        self._mover.heal()
        return table(self)

    def _run_stage(self, name: str, call: Callable[[], None], *, again: bool = False) -> None:
        names = [stage.registered_name for stage in self._pipeline.stages]
        self._mover.heal()
        if name == names[0] and not again:
            self._begin_run()
        calls = len(self._director.calls)
        try:
            self._director.enter(name)
            call()
            self._director.leave(name)
            if name == names[-1]:
                self._end_run()
        except BaseException as error:
            told = _oom.explain(error, name, self._mover) if _oom.is_out_of_memory(error) else None
            self._director.stage = None
            self._failed = self._director.calls[calls:]
            self._director.let_go(calls)
            if told is None:
                raise
            raise _Exhausted(told) from error
        self._director.stage = None

    def _begin_run(self) -> None:
        self._copied_bytes, self._compute_s = 0, 0.0
        self._see_components()
        self._plan_run()
        for component in self._components.values():
            self._buffers.bring(component.module)
        self._mover.peak_bytes = self._mover.held_bytes()
        self._director.begin_run()

    def _end_run(self) -> None:
        self._director.end_run()
        self._known = self._director.calls
        self._setting.link.learn(copied_bytes=self._copied_bytes, compute_s=self._compute_s)

    def _see_components(self) -> None:
        """Manage the modules that the pipeline has now, as they are now."""
        modules: dict[str, torch.nn.Module] = {}
        self._aliases.clear()
        for name, each in self._pipeline.components.items():
            if isinstance(each, torch.nn.Module) and next(each.parameters(), None) is not None:
                first = next((other for other, module in modules.items() if module is each), name)
                self._aliases[name] = first
                modules.setdefault(first, each)
        self._check_aliases()
        for name in [name for name, own in self._components.items() if modules.get(own.base.name) is not own.module]:
            self._forget(self._components.pop(name))
        fresh = {name: module for name, module in modules.items() if name not in self._components}
        check_modules(modules)
        check_choices(self.plan, modules)
        for module in modules.values():
            self._tiling.switch_on(module)
        shared: dict[object, Shared] = {}
        for name, module in fresh.items():
            blocks = self._setting.blocks.get(name)
            self._components[name] = Component(
                name,
                module,
                device=self._setting.device,
                watcher=self._director.use,
                blocks=blocks,
                merges=self.plan.lora is Lora.MERGED,
            )
        for name, component in self._components.items():
            if component.refresh(self._mover.put_back, shared):
                self._sources.names[name] = component.names
        self._see_merged()
        self._mover.units = [unit for component in self._components.values() for unit in component.units.values()]

    def _see_merged(self) -> None:
        """Have a merged copy of each component that carries a LoRA, where the plan says so."""
        for base in [component for component in self._components.values() if component.base is component]:
            name = base.name + MERGED
            if not base.lora.layers:
                if name in self._components:
                    self._forget(self._components.pop(name))
                continue
            if name not in self._components:
                self._components[name] = Merged(
                    base,
                    device=self._setting.device,
                    put_back=self._mover.put_back,
                    tell=lambda: self._pipeline.tell,
                )
            self._components[name].refresh(self._mover.put_back, {})

    def _check_aliases(self) -> None:
        for name, first in self._aliases.items():
            if (
                name != first
                and self.plan.placement(name) != self.plan.placement(first)
                and any(component == name for component, _stage in self.plan.placements)
            ):
                raise ResidencyError(
                    f"{name!r} and {first!r} are one module, so they cannot be placed apart; place {first!r}"
                )

    def _forget(self, component: Component) -> None:
        self._mover.put_back(component.units.values())
        component.close()

    def _plan_run(self) -> None:
        """Write the script of the next run, and refuse a plan that cannot be carried out, before anything moves."""
        workload, script = self.workload, self._director.script
        if script is not None and script.workload == workload and script.plan is self.plan:
            return
        check_executable(self.plan, workload)
        check_fits(self.plan, workload, self._setting.budget, pins=self._setting.pins)
        self._director.script = Script(self.plan, workload)

    def _leaner(self, stage: str) -> Plan | None:
        if not self.may_retry:
            return None
        return leaner(self.plan, self._so_far(stage), stage=stage)

    def _so_far(self, stage: str) -> Workload:
        """Return what is foreseen, and what the failed stage called; of a first run, that all is used again."""
        known = self.workload
        calls = {name: list(own) for name, own in zip(known.stages, known.by_stage, strict=True)}
        calls[stage] += [call for call in self._failed if call not in calls[stage]]
        if not known.calls:
            for end in (known.stages[0], known.stages[-1]):
                calls[end] += [
                    Call(stage=end, component=name, blocks=_all(size)) for name, size in known.components.items()
                ]
        return replace(known, calls=tuple(call for own in calls.values() for call in own))

    def _step_down(self, plan: Plan, problem: str) -> None:
        self._director.notes.append(f"{problem}; so the stage is run again with the leaner {plan!r}")
        logger.warning(self._director.notes[-1])
        self._mover.clear()
        self.plan = plan
        self._director.script = Script(plan, self.workload)

    def _remove(self) -> None:
        for component in self._components.values():
            self._forget(component)
        self._buffers.put_back()
        self._tiling.put_back()
        self._mover.lane.close()
        for unit in self._mover.units:
            if unit.shared.source is not None:
                unit.shared.source.close()
        self._sources.disk.close()
        if self._subscription is not None:
            self._subscription.close()
        self._components.clear()
        self._mover.units, self._subscription = [], None

    def __repr__(self) -> str:
        from reslab.residency._engine._state import line

        return line(self)

    def _repr_html_(self) -> str:
        from reslab.residency._engine._state import html

        self._mover.heal()
        return html(self)


def _all(size: ComponentSize) -> tuple[int, ...]:
    return tuple(range(len(size.block_bytes)))


class _Exhausted(Exception):
    """Memory did not suffice; the message says all about it, the cause is the error itself."""
