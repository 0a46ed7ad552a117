"""A pipeline: an ordered, checked composition of named stages that runs them and tells observers.

    pipeline = Pipeline({"vae": vae}, result="frames")
    pipeline.add(Halve()).add(Decode(), name="decode", values={"height": "half_height"})
    pipeline.run(height=64, width=128)

Unobserved, a stage costs one call more than its method. Observed, or conducted, component calls and steps are wrapped
for the duration of the run (`_run`, `_calls`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from reslab.stages import _blocks, _check, _names, _stock
from reslab.stages._events import Conductor, Observer, Subscription, Tell
from reslab.stages._names import PipelineError, ProfileNames
from reslab.stages._run import Program, run_observed, run_unobserved
from reslab.stages._sequence import Stages
from reslab.stages._stage import Binding, Stage
from reslab.stages._values import Values


class Pipeline:
    """An ordered composition of named stages over shared components and values.

    Args:
        components: Objects that stages use, by name: modules, tokenizers, schedulers.
        name: The pipeline's name, told with each run.
        profile_names: The naming rule, "registered" or "first-keeps-class"; see `ProfileNames`.
        result: The value that `run` returns; None returns all values.
        progress: Whether denoising loops show a progress bar, named by their stage; by default they do, unless the
            environment says `RESLAB_PROGRESS=0`, as it does where a notebook is rendered or compared.
    """

    def __init__(
        self,
        components: Mapping[str, Any] | None = None,
        *,
        name: str = "pipeline",
        profile_names: str = ProfileNames.REGISTERED,
        result: str | None = None,
        progress: bool | None = None,
    ) -> None:
        self.components: dict[str, Any] = dict(components or {})
        self.name = name
        self.profile_names = _names.rule(profile_names)
        self.result = result
        self.progress = os.environ.get("RESLAB_PROGRESS") != "0" if progress is None else progress
        #: How the pipeline was composed, for the record; plain data.
        self.settings: Mapping[str, Any] = {}
        #: Inputs that are set elsewhere than in `run`, each with the sentence that says where; they are refused.
        self.set_elsewhere: Mapping[str, str] = {}
        #: The inputs of the run under way, else empty.
        self.request: Mapping[str, Any] = {}
        #: The stage that is running, or None.
        self.current_stage: Stage | None = None
        self._bound: list[tuple[Stage, Binding]] = []
        self._groups: dict[int, str] = {}
        self._observers: dict[Subscription, Observer] = {}
        self._conductor: Conductor | None = None
        self._version = 0
        self._program: Program | None = None
        self._running: Program | None = None
        self._telling: Tell | None = None

    @classmethod
    def from_blocks(
        cls, blocks: Any, *, components: Mapping[str, Any] | None = None, result: str | None = None, **request: Any
    ) -> Pipeline:
        """Compose the leaf blocks of Modular Diffusers that would run for a request; each leaf, or loop, is one stage.

        Args:
            blocks: Any blocks of Modular Diffusers, such as `LTX2AutoBlocks()`.
            components: Components by name; diffusers' own, made from configuration (guiders, processors), are added.
            result: The value that `run` returns.
            **request: The inputs that decide which blocks run: what matters of a value is whether it is None.
        """
        pipeline = cls(
            _blocks.made_from_config(blocks) | dict(components or {}), name=type(blocks).__name__, result=result
        )
        for name, leaf in _blocks.leaves(blocks, request).items():
            pipeline.add(_blocks.BlockStage(leaf), name=name)
        return pipeline

    @classmethod
    def from_diffusers(cls, pipe: Any) -> Pipeline:
        """Run a stock `DiffusionPipeline` as one stage, observed by its components; `run` returns its output."""
        name = type(pipe).__name__
        return cls(_stock.stock_components(pipe), name=name, result="output").add(_stock.StockStage(pipe))

    def add(
        self,
        stage: Stage | type[Stage],
        name: str | None = None,
        *,
        components: Mapping[str, str] | None = None,
        values: Mapping[str, str] | None = None,
        given: Mapping[str, Any] | None = None,
        group: str = "",
        before: str | None = None,
    ) -> Pipeline:
        """Add a stage and return the pipeline.

        Args:
            stage: A stage, or a stage class that needs no arguments.
            name: Its registered name; by default its class name.
            components: Component names that the stage asks for → names that the pipeline has.
            values: Value names that the stage reads and writes → names that the pipeline has.
            given: Values fixed for this stage alone.
            group: A heading for displays.
            before: The registered name of the stage to insert it before; by default it comes last.

        Raises:
            PipelineError: The name is taken or reserved, the stage is in a pipeline already, or something is renamed
                or given that the stage does not have.
        """
        if self._running is not None:
            raise PipelineError(f"the pipeline {self.name!r} is running; add stages before or after a run")
        stage = stage() if isinstance(stage, type) else stage
        if not isinstance(stage, Stage):
            raise PipelineError(
                f"wanted a stage, got {type(stage).__name__}; wrap blocks in BlockStage, functions in @stage"
            )
        if stage._pipeline is not None:
            raise PipelineError(f"{stage!r} is in a pipeline already; add another instance")
        bind = Binding(
            pipeline=self, components=dict(components or {}), values=dict(values or {}), given=dict(given or {})
        )
        others = [other._names() for other in self.stages]
        registered_name = name or stage.registered_name
        _names.check_registered(registered_name, others)
        _names.check_class(stage.stage_class, others)
        if stage._explicit_profile_name is not None:
            _names.check_explicit(stage._explicit_profile_name, others)
        _check.check_names(stage, registered_name, bind)
        place = len(self._bound) if before is None else self._place(before)
        stage._registered_name, stage._pipeline = name or stage._registered_name, self
        self._bound.insert(place, (stage, bind))
        self._groups[id(stage)] = group
        self._version += 1
        return self

    @property
    def stages(self) -> Stages:
        """The stages in order; also by registered name, with Tab completion."""
        return Stages([stage for stage, _bind in self._bound])

    @property
    def execution_device(self) -> Any:
        """Where blocks create their tensors, as the conductor says; None leaves it to diffusers."""
        return self._conductor.execution_device if self._conductor is not None else None

    def check(self, **inputs: Any) -> None:
        """Check a request before running it.

        Raises:
            PipelineError: One error that says all that is missing, unknown or against the rules of the model.
        """
        self._ready().check(inputs, self.components, self.result, self.set_elsewhere)

    def run(self, **inputs: Any) -> Any:
        """Check the request, run every stage in order, and return the result's value, or all values.

        Raises:
            PipelineError: The request cannot run; nothing has been run.
            Exception: A stage's own error, with the stage's name as a note.
        """
        if self._running is not None:
            raise PipelineError(f"the pipeline {self.name!r} is running already; make another for a run inside a run")
        program = self._ready()
        program.check(inputs, self.components, self.result, self.set_elsewhere)
        program.prepare()
        values = Values(inputs)
        self._running, self.request = program, inputs
        try:
            if self._observers or self._conductor is not None:
                self._telling = self.tell
                run_observed(self, program, values, self._telling, self._conductor)
            else:
                run_unobserved(self, program, values)
        finally:
            self._running, self._telling, self.request, self.current_stage = None, None, {}, None
        return values[self.result] if self.result is not None else values

    def observe(self, observer: Observer) -> Subscription:
        """Tell `observer` of every run from now on, until the subscription is closed."""
        subscription = Subscription(lambda: self._observers.pop(subscription, None))
        self._observers[subscription] = observer
        return subscription

    def conduct(self, conductor: Conductor) -> Subscription:
        """Let `conductor` act around stages and component calls, until the subscription is closed.

        Raises:
            PipelineError: The pipeline has a conductor.
        """
        if self._conductor is not None:
            raise PipelineError(
                f"the pipeline is conducted by {type(self._conductor).__name__} already; close that first"
            )
        self._conductor = conductor

        def close() -> None:
            if self._conductor is conductor:
                self._conductor = None

        return Subscription(close)

    @property
    def tell(self) -> Tell:
        """Where a conductor tells of its transfers and waits: all observers, in a run those that the run began with.

        >>> Pipeline().tell.begin("transfer", "vae", nbytes=1024)
        """
        return self._telling or Tell(tuple(self._observers.values()))

    def filed_under(self, component: Any, stage: Stage | None = None) -> str:
        """Say which name a component's measurements are filed under.

        An explicit stage, else the running stage, else the component's name in the pipeline, else its class name.
        """
        if (stage := stage or self.current_stage) is not None:
            return stage.profile_name
        names = [name for name, own in self.components.items() if own is component]
        return names[0] if names else type(component).__name__

    def _ready(self) -> Program:
        key = (self._version, self.profile_names, self.progress, *self.components, *map(id, self.components.values()))
        if self._program is None or self._program.key != key:
            names = [stage._names() for stage, _bind in self._bound]
            filed = _names.profile_names(names, self.profile_names)
            settled = {id(stage): name for (stage, _bind), name in zip(self._bound, filed, strict=True)}
            self._program = Program(key=key, bound=tuple(self._bound), names=settled)
        return self._program

    def _place(self, name: str) -> int:
        names = [stage.registered_name for stage in self.stages]
        if name not in names:
            raise PipelineError(f"no stage is registered as {name!r}; {_names.nearest(name, names)}")
        return names.index(name)

    def _profile_name(self, stage: Stage) -> str:
        return (self._running or self._ready()).names[id(stage)]

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {len(self._bound)} stages, {len(self.components)} components>"

    def _repr_html_(self) -> str:
        from reslab.stages import _report

        return _report.html(self)
