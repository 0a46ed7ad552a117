"""Run a pipeline: unobserved, as fast as calling the methods; observed, with nested events around every call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reslab.stages import _check
from reslab.stages._events import Conductor, Kind, Observers
from reslab.stages._registry import Registry
from reslab.stages._retry import Attempt
from reslab.stages._section_finder import SectionFinder
from reslab.stages._stage import Binding, Stage
from reslab.stages._stock import StockStage
from reslab.stages._values import Values
from reslab.stages._watch import Watch


@dataclass(slots=True, kw_only=True)
class Program:
    """A pipeline prepared for runs: its calls are bound and its checks remembered; made again when `key` changes."""

    key: tuple[Any, ...]
    bound: tuple[tuple[Stage, Binding], ...]
    calls: tuple[tuple[Stage, str, Callable[[Values], None]], ...] = ()
    component_names: dict[int, list[str]] = field(default_factory=dict)
    checked: set[tuple[Any, ...]] = field(default_factory=set)
    rules: tuple[tuple[Stage, Binding, set[str]], ...] | None = None

    def check(
        self,
        inputs: Mapping[str, Any],
        components: Mapping[str, Any],
        result: str | None,
        set_elsewhere: Mapping[str, str],
        defaults: Mapping[str, Any],
    ) -> None:
        """Raise `PipelineError` where the request cannot run; names are checked once for each set of them."""
        names = (result, frozenset(inputs), frozenset(name for name, value in inputs.items() if value is None))
        if self.rules is None:
            ruled = [(stage, bind) for stage, bind in self.bound if type(stage).check is not Stage.check]
            self.rules = tuple((stage, bind, _check.reads(stage)) for stage, bind in ruled)
        if names in self.checked:
            found = [*_check.broken_rules(self.rules, components, inputs)]
        else:
            found = [*_check.problems(self.bound, components, inputs, result, set_elsewhere, defaults)]
        if found:
            raise _check.cannot_run(found)
        self.checked.add(names)

    def prepare(self) -> None:
        """Bind every stage's call and settle its registered name, once, after the first request has been checked."""
        if self.calls:
            return
        self.component_names = {id(stage): _check.component_names(stage, bind) for stage, bind in self.bound}
        self.calls = tuple(
            (stage, sys.intern(stage.registered_name), stage.prepare(bind)) for stage, bind in self.bound
        )


def run_unobserved(name: str, registry: Registry, program: Program, values: Values) -> None:
    """Call every stage of the pipeline `name` in order."""
    try:
        for stage, _name, call in program.calls:
            registry.current = stage
            call(values)
    except BaseException as error:
        note_stage(error, name, registry)
        raise


def run_observed(
    name: str,
    registry: Registry,
    program: Program,
    values: Values,
    *,
    components: Mapping[str, Any],
    observers: Observers,
    conductor: Conductor | None,
) -> None:
    """Call every stage of the pipeline `name` in order, with events for runs, stages, steps, passes and calls."""
    bound = [stage for stage, _bind in program.bound]
    stock = any(isinstance(stage, StockStage) for stage in bound)
    sections = SectionFinder(registry, components, observers, conductor) if stock else None
    used = program.component_names
    watch = Watch(observers, conductor, components, lambda: used.get(id(registry.current), []), sections)
    try:
        with event(observers, Kind.RUN, sys.intern(name)), watch.run(bound):
            for (stage, stage_name, call), (_stage, bind) in zip(program.calls, program.bound, strict=True):
                if sections is not None and isinstance(stage, StockStage):
                    conducted_whole(conductor, stage, sections, call, values, bind)
                    continue
                registry.current = stage
                place = registry.stages.index(stage) if stock else bound.index(stage)
                with event(observers, Kind.STAGE, stage_name, place):
                    conducted(conductor, stage, call, values, bind)
    except BaseException as error:
        note_stage(error, name, registry)
        raise


@contextmanager
def event(observers: Observers, kind: Kind, name: str, index: int = -1) -> Iterator[None]:
    """Send observers the beginning of an event, and its end on every way out of the block."""
    observers.begin(kind, name, index)
    try:
        yield
    except BaseException as error:
        observers.end(error)
        raise
    observers.end()


def conducted(
    conductor: Conductor | None, stage: Stage, call: Callable[[Values], None], values: Values, bind: Binding
) -> None:
    """Run a stage, through the conductor if there is one."""
    if conductor is None:
        call(values)
    elif conductor.may_retry:
        conductor.stage(stage, Attempt(call, values, bind))
    else:
        conductor.stage(stage, partial(call, values))


def conducted_whole(
    conductor: Conductor | None,
    stock: StockStage,
    sections: SectionFinder,
    call: Callable[[Values], None],
    values: Values,
    bind: Binding,
) -> None:
    """Make the call of a stock pipeline, through the conductor if there is one; its sections are stages."""

    def sectioned(values: Values) -> None:
        with sections.of(stock):
            call(values)

    if conductor is None:
        sectioned(values)
    elif conductor.may_retry:
        conductor.sections(stock, Attempt(sectioned, values, bind))
    else:
        conductor.sections(stock, partial(sectioned, values))


def note_stage(error: BaseException, pipeline: str, registry: Registry) -> None:
    """Add a note to the error with the stage of `pipeline` that raised it; type and traceback stay as they are."""
    if isinstance(error, NameError) and error.name and _raised_in(error).startswith("diffusers."):
        # diffusers imports some packages only if installed (ftfy, for Wan's prompts), else fails on their names
        error.add_note(f"diffusers uses {error.name!r} here, a package that is not installed")
    current, shown = registry.current, registry.stages
    for place, stage in enumerate(shown, start=1):
        if stage is current:
            error.add_note(f"in the stage {stage.registered_name!r} ({place} of {len(shown)}) of {pipeline!r}")
    if isinstance(current, StockStage):  # an unobserved run does not find its sections
        error.add_note(f"in the call of {current.registered_name!r}, of {pipeline!r}")


def _raised_in(error: BaseException) -> str:
    """Return the name of the module whose code raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
