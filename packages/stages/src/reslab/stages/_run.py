"""Running a pipeline: unobserved, as fast as calling the methods; observed, as nested events around every call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from reslab.stages import _check
from reslab.stages._calls import Watch
from reslab.stages._events import Conductor, Kind, Tell
from reslab.stages._retry import Attempt
from reslab.stages._sections import Sections
from reslab.stages._stage import Binding, Stage
from reslab.stages._stock import StockStage
from reslab.stages._values import Values

if TYPE_CHECKING:
    from reslab.stages._pipeline import Pipeline


@dataclass(slots=True, kw_only=True)
class Program:
    """A pipeline made ready: names settled, calls bound, requests checked once; remade when `key` changes."""

    key: tuple[Any, ...]
    bound: tuple[tuple[Stage, Binding], ...]
    names: dict[int, str]
    calls: tuple[tuple[Stage, str, Callable[[Values], None]], ...] = ()
    component_names: dict[int, list[str]] = field(default_factory=dict)
    checked: set[tuple[Any, ...]] = field(default_factory=set)
    rules: tuple[tuple[Stage, Binding, set[str]], ...] | None = None

    def check(
        self, inputs: Mapping[str, Any], components: Mapping[str, Any], result: str | None, defaults: Mapping[str, Any]
    ) -> None:
        """Raise `PipelineError` where the request cannot run; names are checked once for each set of them."""
        names = (result, frozenset(inputs), frozenset(name for name, value in inputs.items() if value is None))
        if self.rules is None:
            ruled = [(stage, bind) for stage, bind in self.bound if type(stage).check is not Stage.check]
            self.rules = tuple((stage, bind, _check.reads(stage)) for stage, bind in ruled)
        if names in self.checked:
            found = [*_check.rules_broken(self.rules, components, inputs)]
        else:
            found = [*_check.problems(self.bound, components, inputs, result, defaults)]
        if found:
            raise _check.cannot_run(found)
        self.checked.add(names)

    def prepare(self) -> None:
        """Bind every stage's call and settle its registered name; done once, after a request has been checked."""
        if self.calls:
            return
        self.component_names = {id(stage): _check.component_names(stage, bind) for stage, bind in self.bound}
        self.calls = tuple(
            (stage, sys.intern(stage.registered_name), stage.prepare(bind)) for stage, bind in self.bound
        )


def run_unobserved(pipeline: Pipeline, program: Program, values: Values) -> None:
    """Call every stage in order."""
    try:
        for stage, _name, call in program.calls:
            pipeline.current_stage = stage
            call(values)
    except BaseException as error:
        note_stage(error, pipeline)
        raise


def run_observed(pipeline: Pipeline, program: Program, values: Values, tell: Tell, conductor: Conductor | None) -> None:
    """Call every stage in order, telling of each run, stage, step, pass and component call."""
    bound = [stage for stage, _bind in program.bound]
    stock = any(isinstance(stage, StockStage) for stage in bound)
    sections = Sections(pipeline, tell, conductor) if stock else None
    names = program.component_names
    watch = Watch(tell, conductor, pipeline.components, lambda: names.get(id(pipeline.current_stage), []), sections)
    try:
        with told(tell, Kind.RUN, sys.intern(pipeline.name)), watch.run(bound):
            for (stage, name, call), (_stage, bind) in zip(program.calls, program.bound, strict=True):
                if sections is not None and isinstance(stage, StockStage):
                    conducted_whole(conductor, stage, sections, call, values, bind)
                    continue
                pipeline.current_stage = stage
                place = pipeline.stages.index(stage) if stock else bound.index(stage)
                with told(tell, Kind.STAGE, name, place):
                    conducted(conductor, stage, call, values, bind)
    except BaseException as error:
        note_stage(error, pipeline)
        raise


@contextmanager
def told(tell: Tell, kind: Kind, name: str, index: int = -1) -> Iterator[None]:
    """Tell that something begins, and that it ends however it ends."""
    tell.begin(kind, name, index)
    try:
        yield
    except BaseException as error:
        tell.end(error)
        raise
    tell.end()


def conducted(
    conductor: Conductor | None, stage: Stage, call: Callable[[Values], None], values: Values, bind: Binding
) -> None:
    """Run a stage, by the conductor if there is one."""
    if conductor is None:
        call(values)
    elif conductor.may_retry:
        conductor.stage(stage, Attempt(call, values, bind))
    else:
        conductor.stage(stage, partial(call, values))


def conducted_whole(
    conductor: Conductor | None,
    stock: StockStage,
    sections: Sections,
    call: Callable[[Values], None],
    values: Values,
    bind: Binding,
) -> None:
    """Make the call of a stock pipeline, by the conductor if there is one; each of its sections is a stage."""

    def sectioned(values: Values) -> None:
        with sections.of(stock):
            call(values)

    if conductor is None:
        sectioned(values)
    elif conductor.may_retry:
        conductor.sections(stock, Attempt(sectioned, values, bind))
    else:
        conductor.sections(stock, partial(sectioned, values))


def note_stage(error: BaseException, pipeline: Pipeline) -> None:
    """Note on the error in which stage it was raised; its type and traceback stay its own."""
    if isinstance(error, NameError) and error.name and _raised_in(error).startswith("diffusers."):
        # diffusers imports some packages only where they are installed, such as ftfy, and fails by their name
        error.add_note(f"diffusers uses {error.name!r} here, a package that is not installed")
    current, shown = pipeline.current_stage, pipeline.stages
    for place, stage in enumerate(shown, start=1):
        if stage is current:
            error.add_note(f"in the stage {stage.registered_name!r} ({place} of {len(shown)}) of {pipeline.name!r}")
    if isinstance(current, StockStage):  # unobserved, its sections are not known
        error.add_note(f"in the call of {current.registered_name!r}, of {pipeline.name!r}")


def _raised_in(error: BaseException) -> str:
    """The module whose code raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
