"""What can be asked of a residency: what is where, what was moved, and what comes next.

A residency: it carries out a plan while a pipeline runs.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from reslab.residency._engine import _oom
from reslab.residency._engine._checks import check_executable, check_fits, check_names
from reslab.residency._engine._component import Component
from reslab.residency._engine._config import Setting, Sources
from reslab.residency._engine._director import METHODS, Director, refuse_lora
from reslab.residency._engine._guards import explain
from reslab.residency._engine._interrupts import masked
from reslab.residency._engine._managed import Managed
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._script import Script
from reslab.residency._engine._unit import without_values
from reslab.residency._errors import OutOfMemory, ResidencyError
from reslab.residency._plan._placement import Kind
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._settings import DecidedBy
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.residency._schedule._leaner import leaner
from reslab.stages import Pipeline, Section, Stage, StockStage, Subscription

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
        from reslab.residency._engine._state_table import counters

        return counters(self._mover)

    def table(self) -> pl.DataFrame:
        """Return a row a component: placement, where, host_bytes, pinned_bytes, device_bytes, slots."""
        from reslab.residency._engine._state_table import table

        self._mover.heal()
        return table(self._components, self.plan, self._mover)

    def __repr__(self) -> str:
        from reslab.residency._engine._state_table import line

        return line(
            self.plan,
            self.execution_device,
            is_in_force=self._subscription is not None,
            components=len(self._components),
            held_bytes=self._mover.held_bytes(),
        )

    def _repr_html_(self) -> str:
        from reslab.residency._engine._state_table import html

        return html(repr(self), self.table(), self.notes)


def _is_possible(call: Call, sizes: Mapping[str, ComponentSize]) -> bool:
    """Tell whether what a call uses is there; a component may have been replaced since."""
    return call.component in sizes and max(call.blocks, default=-1) < len(sizes[call.component].block_bytes)


logger = logging.getLogger(__name__)


class Residency(View):
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
        self._sources = Sources(setting, plan, note=self._note)
        self._mover = Mover(
            device=setting.device,
            lane=setting.lane(reads_disk=self._sources.reads_disk),
            tell=lambda: pipeline.tell,
            sources=self._sources,
            limit_bytes=setting.budget.device_bytes,
        )
        self._components: dict[str, Component] = {}
        self._director = Director(self._mover, self._components)
        self._managed = Managed(pipeline, setting, self._mover, self._sources, self._director.use, self._components)
        self._subscription: Subscription | None = None
        self._copied_bytes, self._compute_s = 0, 0.0
        self._failed: tuple[Call, ...] = ()

    def __enter__(self) -> Self:
        if self._subscription is not None:
            raise ResidencyError("this residency is in force already; go on inside its `with` block, or leave it first")
        try:
            with masked():
                check_names(self._pipeline.components, self._setting.blocks, self._setting.files)
                self._see_run()
                self._subscription = self._pipeline.conduct(self)
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
        """Put everything back as it was before; after an interrupt, closing again goes on where it stopped."""
        self._director.stage = None
        self._mover.stop()
        units = list(self._mover.units)
        with masked():
            self._remove()
        for lost in filter(None, (self._mover.told_lost(), without_values(units))):
            self._note(lost)

    def _note(self, sentence: str) -> None:
        self._director.notes.append(sentence)
        logger.warning(sentence)

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Run a stage, with the moves at its borders around it; on out of memory once more, if that was asked for.

        Raises:
            OutOfMemory: If memory does not suffice, also not with the next leaner plan.
        """
        names = [each.registered_name for each in self._pipeline.stages]
        name = stage.registered_name

        def run(*, again: bool) -> None:
            self._run_stage(name, call, begins=name == names[0] and not again, ends=name == names[-1])

        self._until_it_fits(run)

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        """Make the call of a stock pipeline; on out of memory all of it once more, if that was asked for.

        Raises:
            OutOfMemory: If memory does not suffice, also not with the next leaner plan.
        """
        stages, own = self._pipeline.stages, stock.sections()
        begins, calls = stages[0] in own, 0 if stages[0] in own else len(self._director.calls)

        def run(*, again: bool) -> None:
            self._mover.heal()
            if again:
                self._director.let_go(calls)
            elif begins:
                self._see_run()
                with self._guarded(own[0].registered_name, calls):
                    self._begin_run()  # its sections are entered as they come
            self._director.touch = stock.touch
            try:
                call()
            finally:
                self._director.touch = None
            if stages[-1] in own:
                with self._guarded(own[-1].registered_name, calls):
                    self._end_run()

        self._until_it_fits(run)

    @contextmanager
    def section(self, stage: Section) -> Iterator[None]:
        """Make the moves at the borders of a section, of which the next run knows even where this one did not."""
        self._mover.heal()
        name, workload = stage.registered_name, self.workload
        if self._director.script is not None and self._director.script.workload.stages != workload.stages:
            self._director.script = Script(self.plan, workload)
        with self._guarded(name, len(self._director.calls)):
            self._director.enter(name)
            yield
            self._director.leave(name)

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Make a component's call, having seen to its weights."""
        own = self._managed.of(component)
        if own is not None and own.is_kept:  # first of all: what is compiled in place is traced through here
            return call()
        self._mover.heal()
        merged = self._managed.in_place_of(own)
        if merged is None:
            return self._call(own, method, call)
        if method not in METHODS:
            refuse_lora(merged.base)
        if merged.see():
            self._director.notes.append(f"the LoRA of {merged.base.name!r} has changed, so it is merged anew")
        with merged.standing():
            return self._call(merged, method, call)

    def _call(self, own: Component | None, method: str, call: Callable[[], Any]) -> Any:
        own = own.face if own is not None else None
        if own is None or not self._director.begin_call(own, method):
            return call()
        begun, waited = time.perf_counter(), self._mover.waited_s
        try:
            if (block := own.block_of(method)) is not None:
                self._director.use(own, block)
            return call()
        finally:
            self._director.end_call()
            self._copied_bytes += own.size.weight_bytes
            self._compute_s += time.perf_counter() - begun - (self._mover.waited_s - waited)

    def _until_it_fits(self, run: Callable[..., None]) -> None:
        """Run something, and where memory does not suffice for it once more with a leaner plan, if that was asked for.

        Raises:
            OutOfMemory: If it does not suffice then either.
        """
        problem, lean = "", None
        try:
            run(again=False)
        except _oom.Exhausted as exhausted:
            problem, lean = str(exhausted), self._leaner(exhausted.stage)
            if lean is None:
                raise OutOfMemory(f"{problem}. {_oom.advice(self.may_retry)}") from exhausted.__cause__
        if lean is None:
            return
        # out here nothing keeps the frames of the failed call, and with them its tensors, alive
        self._step_down(lean, problem)
        try:
            run(again=True)
        except _oom.Exhausted as exhausted:
            advice = _oom.advice(self.may_retry, self._leaner(exhausted.stage))
            told = f"{exhausted}, though the plan was made leaner. {advice}"
            raise OutOfMemory(told) from exhausted.__cause__

    def _run_stage(self, name: str, call: Callable[[], None], *, begins: bool, ends: bool) -> None:
        self._mover.heal()
        if begins:
            self._see_run()
        with self._guarded(name, 0 if begins else len(self._director.calls)):
            if begins:
                self._begin_run()
            self._director.enter(name)
            call()
            self._director.leave(name)
            if ends:
                self._end_run()

    @contextmanager
    def _guarded(self, name: str, calls: int) -> Iterator[None]:
        """Evict what does not stay, whatever happens in a stage, and say it where memory did not suffice."""
        try:
            yield
        except BaseException as error:
            told = _oom.explain(error, name, self._mover) if _oom.is_out_of_memory(error) else None
            self._director.stage = None
            self._failed = self._director.calls[calls:]
            self._director.let_go(calls)
            if told is None:
                explain(error)
                raise
            raise _oom.Exhausted(told, name) from error
        self._director.stage = None

    def _see_run(self) -> None:
        self._managed.see(self.plan)
        self._plan_run()

    def _begin_run(self) -> None:
        self._copied_bytes, self._compute_s = 0, 0.0
        self._managed.bring_buffers()
        self._mover.peak_bytes = self._mover.held_bytes()
        self._director.begin_run()

    def _end_run(self) -> None:
        self._director.end_run()
        self._known = self._director.calls
        self._setting.link.learn(copied_bytes=self._copied_bytes, compute_s=self._compute_s)

    def _plan_run(self) -> None:
        """Write the script of the next run, and refuse a plan that cannot be carried out, before anything moves."""
        workload, script = self.workload, self._director.script
        if script is not None and script.workload == workload and script.plan is self.plan:
            return
        check_executable(self.plan, workload)
        check_fits(self.plan, workload, self._setting.budget, kind=self.execution_device.type)
        self._follow(workload)

    def _follow(self, workload: Workload) -> None:
        """Follow the plan from now on, as it is laid over what the run is known to do."""
        self._sources.lay(self.plan, workload, self._mover.units)
        self._mover.renew()
        self._director.script = Script(self.plan, workload)

    def _leaner(self, stage: str) -> Plan | None:
        if not self.may_retry:
            return None
        kept = {name: Kind.RESIDENT for name, component in self._components.items() if component.is_kept}
        plan = self.plan.decide(kept, by=DecidedBy.USER, why="it cannot be moved") if kept else self.plan
        return leaner(plan, _oom.so_far(self.workload, self._failed, stage), stage=stage)

    def _step_down(self, plan: Plan, problem: str) -> None:
        self._note(f"{problem}; so the stage is run again with the leaner {plan!r}")
        self._mover.stop()
        self.plan = plan
        self._follow(self.workload)
        self._director.keep_only(None)

    def _remove(self) -> None:
        self._managed.give_back()
        self._mover.lane.close()
        for unit in self._mover.units:
            if unit.shared.source is not None:
                unit.shared.source.close()
        self._sources.disk.close()
        if self._subscription is not None:
            self._subscription.close()
        self._mover.units, self._subscription = [], None
