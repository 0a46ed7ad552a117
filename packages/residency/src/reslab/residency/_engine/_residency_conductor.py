"""The conductor of a residency: it moves weights around the stages, sections and component calls of a pipeline.

    conductor = ResidencyConductor(pipeline, plan, config)
    conductor.begin()                     # checks the plan; moves nothing
    pipeline.conduct(conductor)           # from now on stages and calls of the pipeline go through it
    conductor.stop(); conductor.remove()  # every weight is where it was before

A user meets it as `Residency`, which shows what it holds and hides these callbacks. Each callback first heals what an
interrupt has left half-done. Whatever ends a stage, the weights that the plan does not keep are evicted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reslab.residency._engine import _oom
from reslab.residency._engine._checks import check_executable, check_fits, check_names
from reslab.residency._engine._component import Component
from reslab.residency._engine._config import EngineConfig, Sources
from reslab.residency._engine._director import METHODS, Director, refuse_lora
from reslab.residency._engine._guards import explain_outdated
from reslab.residency._engine._managed_components import ManagedComponents
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._schedule_cursor import ScheduleCursor
from reslab.residency._engine._unit import Unit, without_values
from reslab.residency._errors import OutOfMemory
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._settings import DecidedBy
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.residency._schedule._step_down import step_down
from reslab.stages import Pipeline, Section, Stage, StockStage

logger = logging.getLogger(__name__)


class ResidencyConductor:
    """Carries out a plan around the stages and calls of a pipeline.

    Args:
        pipeline: The pipeline.
        plan: Where its weights live; `plan` becomes a leaner one after out of memory, if the user asked for that.
        config: Device, link, memory, and the other arguments of `apply`.
    """

    def __init__(self, pipeline: Pipeline, plan: Plan, config: EngineConfig) -> None:
        self.plan = plan
        self.execution_device = config.device
        self.may_retry = config.steps_down
        self.config = config
        self._pipeline, self._known = pipeline, config.calls
        self.sources = Sources(config, plan, note=self._note)
        self.mover = Mover(
            device=config.device,
            lane=config.lane(reads_disk=self.sources.reads_disk),
            tell=lambda: pipeline.tell,
            sources=self.sources,
            limit_bytes=config.budget.device_bytes,
        )
        self.components: dict[str, Component] = {}
        self.director = Director(self.mover, self.components)
        self._managed = ManagedComponents(
            pipeline, config, self.mover, self.sources, self.director.use, self.components
        )
        self.copied_bytes, self.compute_s = 0, 0.0
        self._failed: tuple[Call, ...] = ()
        self._stopped: list[Unit] = []

    @property
    def workload(self) -> Workload:
        """Return the sizes of the components, and the calls scheduled for the next run; none before the first run."""
        stages = tuple(stage.registered_name for stage in self._pipeline.stages)
        sizes = {name: component.size for name, component in self.components.items()}
        kept = {name for name, component in self.components.items() if component.is_unmoved}
        places = {stage: place for place, stage in enumerate(stages)}
        known = [
            call
            for call in self._known
            if call.stage in places and call.component not in kept and _is_possible(call, sizes)
        ]
        calls = tuple(sorted(known, key=lambda call: places[call.stage]))  # sections of a stock call may swap places
        return Workload(components=sizes, stages=stages, calls=calls, activations=self.config.activations)

    def begin(self) -> None:
        """Check the arguments and the plan against the pipeline as it is now; nothing moves.

        Raises:
            ResidencyError: For a name, file or module with which the plan cannot be carried out.
            PlanError: For a plan that cannot be carried out.
        """
        check_names(self._pipeline.components, self.config.blocks, self.config.files)
        self._update()

    def stop(self) -> None:
        """End the stage under way, with its copies and slots."""
        self.director.stage = None
        self.mover.stop()
        self._stopped = list(self.mover.units)

    def remove(self) -> None:
        """Restore every module, and release lane, files and host memory."""
        self._managed.restore_all()
        self.mover.lane.close()
        for unit in self.mover.units:
            if unit.shared.source is not None:
                unit.shared.source.close()
        self.sources.disk.close()
        self.mover.units = []

    def note_losses(self) -> None:
        """Note which writes into weights were lost, once the weights are restored."""
        for lost in filter(None, (self.mover.lost_writes_text(), without_values(self._stopped))):
            self._note(lost)
        self._stopped = []

    def _note(self, sentence: str) -> None:
        self.director.notes.append(sentence)
        logger.warning(sentence)

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Run a stage between the moves at its borders; if it runs out of memory, maybe again with a leaner plan.

        Raises:
            OutOfMemory: If the stage runs out of memory, with the leaner plan too.
        """
        names = [each.registered_name for each in self._pipeline.stages]
        name = stage.registered_name

        def run(*, again: bool) -> None:
            self._run_stage(name, call, begins=name == names[0] and not again, ends=name == names[-1])

        self._until_it_fits(run)

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        """Make the call of a stock pipeline; if it runs out of memory, maybe again as a whole with a leaner plan.

        Raises:
            OutOfMemory: If the call runs out of memory, with the leaner plan too.
        """
        stages, own = self._pipeline.stages, stock.sections()
        begins, calls = stages[0] in own, 0 if stages[0] in own else len(self.director.calls)

        def run(*, again: bool) -> None:
            self.mover.heal()
            if again:
                self.director.release(calls)
            elif begins:
                self._update()
                with self._guarded(own[0].registered_name, calls):
                    self._begin_run()  # its sections are entered as they come
            self.director.touch = stock.touch
            try:
                call()
            finally:
                self.director.touch = None
            if stages[-1] in own:
                with self._guarded(own[-1].registered_name, calls):
                    self._end_run()

        self._until_it_fits(run)

    @contextmanager
    def section(self, stage: Section) -> Iterator[None]:
        """Make the moves at the borders of a section of a stock pipeline's call."""
        self.mover.heal()
        name, workload = stage.registered_name, self.workload
        # a section that appears for the first time is a new stage of the workload
        if self.director.cursor is not None and self.director.cursor.workload.stages != workload.stages:
            self.director.cursor = ScheduleCursor(self.plan, workload)
        with self._guarded(name, len(self.director.calls)):
            self.director.enter(name)
            yield
            self.director.leave(name)

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Fetch a component's weights, and make its call."""
        own = self._managed.of(component)
        if own is not None and own.is_unmoved:  # before all else, since torch.compile traces calls through here
            return call()
        self.mover.heal()
        merged = self._managed.in_place_of(own)
        if merged is None:
            return self._call(own, method, call)
        if method not in METHODS:
            refuse_lora(merged.base)
        if merged.update():
            self.director.notes.append(f"the LoRA of {merged.base.name!r} has changed, so it is merged anew")
        with merged.active():
            return self._call(merged, method, call)

    def _call(self, own: Component | None, method: str, call: Callable[[], Any]) -> Any:
        own = own.face if own is not None else None
        if own is None or not self.director.begin_call(own, method):
            return call()
        begun, waited = time.perf_counter(), self.mover.waited_s
        try:
            if (block := own.block_of(method)) is not None:
                self.director.use(own, block)
            return call()
        finally:
            self.director.end_call()
            self.copied_bytes += own.size.weight_bytes
            self.compute_s += time.perf_counter() - begun - (self.mover.waited_s - waited)

    def _until_it_fits(self, run: Callable[..., None]) -> None:
        """Call `run`; if memory runs out and the user asked for "step-down", call it again with a leaner plan.

        Raises:
            OutOfMemory: If memory runs out and no leaner plan is tried, or with that one too.
        """
        problem, lean = "", None
        try:
            run(again=False)
        except _oom.Exhausted as exhausted:
            problem, lean = str(exhausted), self._next_plan(exhausted.stage)
            if lean is None:
                raise OutOfMemory(f"{problem}. {_oom.advice(self.may_retry)}") from exhausted.__cause__
        if lean is None:
            return
        # outside the except block, since the exception keeps the failed call's frames alive, and with them its tensors
        self._step_down(lean, problem)
        try:
            run(again=True)
        except _oom.Exhausted as exhausted:
            advice = _oom.advice(self.may_retry, self._next_plan(exhausted.stage))
            text = f"{exhausted}, though the plan was made leaner. {advice}"
            raise OutOfMemory(text) from exhausted.__cause__

    def _run_stage(self, name: str, call: Callable[[], None], *, begins: bool, ends: bool) -> None:
        self.mover.heal()
        if begins:
            self._update()
        with self._guarded(name, 0 if begins else len(self.director.calls)):
            if begins:
                self._begin_run()
            self.director.enter(name)
            call()
            self.director.leave(name)
            if ends:
                self._end_run()

    @contextmanager
    def _guarded(self, name: str, calls: int) -> Iterator[None]:
        """Evict the units that do not stay if the block raises; raise `Exhausted` if it ran out of memory."""
        try:
            yield
        except BaseException as error:
            problem = _oom.describe(error, name, self.mover) if _oom.is_out_of_memory(error) else None
            self.director.stage = None
            self._failed = self.director.calls[calls:]
            self.director.release(calls)
            if problem is None:
                explain_outdated(error)
                raise
            raise _oom.Exhausted(problem, name) from error
        self.director.stage = None

    def _update(self) -> None:
        self._managed.update(self.plan)
        self._plan_run()

    def _begin_run(self) -> None:
        self.copied_bytes, self.compute_s = 0, 0.0
        self._managed.bring_buffers()
        self.mover.peak_bytes = self.mover.held_bytes()
        self.director.begin_run()

    def _end_run(self) -> None:
        self.director.end_run()
        self._known = self.director.calls
        self.config.link.learn(copied_bytes=self.copied_bytes, compute_s=self.compute_s)

    def _plan_run(self) -> None:
        """Schedule the next run, after refusing a plan that cannot be carried out; nothing moves."""
        workload, cursor = self.workload, self.director.cursor
        if cursor is not None and cursor.workload == workload and cursor.plan is self.plan:
            return
        check_executable(self.plan, workload)
        check_fits(self.plan, workload, self.config.budget, kind=self.execution_device.type)
        self._follow(workload)

    def _follow(self, workload: Workload) -> None:
        """Put the plan in force for the known calls of the run."""
        self.sources.use_plan(self.plan, workload, self.mover.units)
        self.mover.renew()
        self.director.cursor = ScheduleCursor(self.plan, workload)

    def _next_plan(self, stage: str) -> Plan | None:
        if not self.may_retry:
            return None
        kept = {name: Place.RESIDENT for name, component in self.components.items() if component.is_unmoved}
        plan = self.plan.decide(kept, by=DecidedBy.USER, why="it cannot be moved") if kept else self.plan
        return step_down(plan, _oom.known_so_far(self.workload, self._failed, stage), stage=stage)

    def _step_down(self, plan: Plan, problem: str) -> None:
        self._note(f"{problem}; so the stage is run again with the leaner {plan!r}")
        self.mover.stop()
        self.plan = plan
        self._follow(self.workload)
        self.director.keep_only(None)


def _is_possible(call: Call, sizes: Mapping[str, ComponentSize]) -> bool:
    """Tell whether a call's component and blocks exist; the component may have been replaced since the call."""
    return call.component in sizes and max(call.blocks, default=-1) < len(sizes[call.component].block_bytes)
