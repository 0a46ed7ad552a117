"""A pipeline: an ordered, checked composition of named stages that runs them and tells observers.

    pipeline = Pipeline({"vae": vae}, result="frames")
    pipeline.add(Halve()).add(Decode(), name="decode", values={"height": "half_height"})
    pipeline.run(height=64, width=128)

Without observers and a conductor, a stage costs one call more than its method. With them, component calls and steps are
wrapped for the duration of the run (`_run`, `_watch`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from reslab.stages import _blocks, _check, _names, _stock
from reslab.stages._events import Conductor, Observer, Observers, Subscription
from reslab.stages._names import PipelineError, ProfileNames
from reslab.stages._registry import Registry
from reslab.stages._run import Program, run_observed, run_unobserved
from reslab.stages._stage import Binding, Stage, is_in_pipeline, names_of
from reslab.stages._stages import Stages
from reslab.stages._values import Values


class Pipeline:
    """An ordered composition of named stages over shared components and values.

    Args:
        components: Objects that stages use, by name: modules, tokenizers, schedulers.
        name: The pipeline's name, which observers get with each run.
        profile_names: The naming rule, a `ProfileNames`: "registered" or "first-keeps-class".
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
        self._registry = Registry(profile_names)
        self.result = result
        self.progress = os.environ.get("RESLAB_PROGRESS") != "0" if progress is None else progress
        #: How the pipeline was composed, for records; plain data.
        self.settings: Mapping[str, Any] = {}
        #: The settings that blocks of Modular Diffusers read as `components.config`.
        self.config: Mapping[str, Any] = {}
        self._inputs: Mapping[str, _blocks.DeclaredInput] = {}
        self._chosen: Mapping[str, Any] = {}  # inputs that decided which blocks run, and that no stage reads
        #: Inputs that `run` refuses because they are set elsewhere, each with the sentence that says where.
        self.set_elsewhere: Mapping[str, str] = {}
        #: The inputs of the current run; empty between runs.
        self.request: Mapping[str, Any] = {}
        self._bindings: dict[int, Binding] = {}
        self._groups: dict[int, str] = {}
        self._observers: dict[Subscription, Observer] = {}
        self._conductor: Conductor | None = None
        self._program: Program | None = None
        self._running = False
        self._run_observers: Observers | None = None

    @classmethod
    def from_blocks(
        cls,
        blocks: Any,
        *,
        components: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        result: str | None = None,
        **request: Any,
    ) -> Pipeline:
        """Compose the leaf blocks of Modular Diffusers that would run for a request; each leaf, or loop, is one stage.

        Inputs that a run leaves out get the defaults of diffusers' own modular pipeline.

        Args:
            blocks: Any blocks of Modular Diffusers, such as `LTX2AutoBlocks()`.
            components: Components by name; diffusers' own, made from configuration (guiders, processors), are added.
                One that blocks declare and do without may be None.
            config: Settings that blocks declare, such as Wan 2.2's `boundary_ratio`, in place of their defaults.
            result: The name of the value that `run` returns.
            **request: The inputs that decide which blocks run. Of a switch (Ernie's `use_pe`) the value decides, of any
                other input whether it is None. `run` takes them again, and refuses values that decide otherwise.

        Raises:
            PipelineError: No block runs for the request, or there is no such setting.
        """
        pipeline = cls(
            _blocks.made_from_config(blocks) | dict(components or {}), name=type(blocks).__name__, result=result
        )
        pipeline.config, pipeline._inputs = _blocks.settings(blocks, config or {}), _blocks.declared_inputs(blocks)
        for name, leaf in _blocks.leaves(blocks, request).items():
            pipeline.add(_blocks.BlockStage(leaf), name=name)
        pipeline._chosen = _blocks.choices(blocks, pipeline.stages, request)
        return pipeline

    @classmethod
    def from_diffusers(cls, pipe: Any) -> Pipeline:
        """Compose a stock `DiffusionPipeline`, whose stages follow from its component calls; `run` returns its output.

        Its one call has sections: encode, denoise, upscale, decode, a section for each of two experts that denoise in
        turn, and one named for each component of another kind. Before the first run `stages` shows those that the
        components suggest. A run that is observed or managed recognises them as they come, adds those that nothing
        suggested ("decode_2" for a second one of its kind), and puts them in the order in which they ran.

        Args:
            pipe: Any pipeline of diffusers; its components are shared, its code runs as it is.
        """
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
            components: Component names of the stage → component names of the pipeline.
            values: Value names of the stage → value names of the pipeline.
            given: Values fixed for this stage alone.
            group: A heading for displays.
            before: The registered name of the stage that comes after it; by default it is added at the end.

        Raises:
            PipelineError: The name is taken or reserved, the stage is in a pipeline already, or the stage does not have
                a name that is renamed or given.
        """
        if self._running:
            raise PipelineError(f"the pipeline {self.name!r} is running; add stages before or after a run")
        stage = stage() if isinstance(stage, type) else stage
        if not isinstance(stage, Stage):
            raise PipelineError(
                f"wanted a stage, got {type(stage).__name__}; wrap blocks in BlockStage, functions in @stage"
            )
        if is_in_pipeline(stage):
            raise PipelineError(f"{stage!r} is in a pipeline already; add another instance")
        bind = Binding(
            pipeline=self, components=dict(components or {}), values=dict(values or {}), given=dict(given or {})
        )
        others = self._registry.names()
        registered_name = name or stage.registered_name
        if name is not None and isinstance(stage, _stock.StockStage):
            stage.begin_names_with(name)
        for shown in stage.sections():
            _names.check_registered(registered_name if shown is stage else shown.registered_name, others)
            _names.check_class(shown.stage_class, others)
        if (explicit := names_of(stage).explicit) is not None:
            _names.check_explicit(explicit, others)
        _check.check_names(stage, registered_name, bind)
        self._registry.insert(stage, name=name, before=before)
        self._bindings[id(stage)], self._groups[id(stage)] = bind, group
        return self

    @property
    def stages(self) -> Stages:
        """The stages in order; also by registered name, with Tab completion."""
        return self._registry.stages

    @property
    def current_stage(self) -> Stage | None:
        """The stage that is running, or None."""
        return self._registry.current

    @property
    def profile_names(self) -> str:
        """The rule that gives stages their profile names, a `ProfileNames`; it can be set.

        Raises:
            PipelineError: The value that is set is no rule.
        """
        return self._registry.rule

    @profile_names.setter
    def profile_names(self, rule: str) -> None:
        self._registry.rule = rule

    @property
    def text_settings(self) -> frozenset[str]:
        """The values whose text is a setting, as stages declare them; profiles and rehearsals keep these texts.

        >>> from reslab.stages import stage
        >>> say = stage(lambda how: None, text_settings="how")
        >>> Pipeline().add(say, name="say", values={"how": "tone"}).text_settings
        frozenset({'tone'})
        """
        return frozenset(bind.value(name) for stage, bind in self._bound() for name in stage.text_settings)

    @property
    def execution_device(self) -> Any:
        """The device on which blocks create their tensors, set by the conductor; None leaves it to diffusers."""
        return self._conductor.execution_device if self._conductor is not None else None

    def check(self, **inputs: Any) -> None:
        """Check a request before running it.

        Raises:
            PipelineError: The request cannot run; one error lists all that is missing, unknown or against a rule.
        """
        asked = _blocks.without_choices(inputs, self._chosen, self.stages)
        self._ready().check(asked, self.components, self.result, self.set_elsewhere, self._defaults())

    def run(self, **inputs: Any) -> Any:
        """Check the request, run every stage in order, and return the result's value, or all values.

        Raises:
            PipelineError: The request cannot run; no stage has run.
            Exception: A stage raised this error, which has the stage's name as a note.
        """
        if self._running:
            raise PipelineError(f"the pipeline {self.name!r} is running already; make another for a run inside a run")
        program = self._ready()
        asked = _blocks.without_choices(inputs, self._chosen, self.stages)
        program.check(asked, self.components, self.result, self.set_elsewhere, self._defaults())
        program.prepare()
        values = self._values(asked)
        self._running, self.request = True, inputs
        try:
            self._registry.hold()
            if self._observers or self._conductor is not None:
                observers = self._run_observers = self.tell
                run_observed(
                    self.name, self._registry, program, values,
                    components=self.components, observers=observers, conductor=self._conductor,
                )  # fmt: skip
            else:
                run_unobserved(self.name, self._registry, program, values)
        finally:
            self._running, self._run_observers, self.request = False, None, {}
            self._registry.release()
        return values[self.result] if self.result is not None else values

    def observe(self, observer: Observer) -> Subscription:
        """Send the events of every run to `observer`, until the subscription is closed."""
        subscription = Subscription(lambda: self._observers.pop(subscription, None))
        self._observers[subscription] = observer
        return subscription

    def conduct(self, conductor: Conductor) -> Subscription:
        """Let `conductor` act around stages and component calls, until the subscription is closed.

        Raises:
            PipelineError: The pipeline has a conductor already.
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
    def tell(self) -> Observers:
        """The observers, for a conductor's transfers and waits; during a run, those that the run began with.

        >>> Pipeline().tell.begin("transfer", "vae", nbytes=1024)
        """
        return self._run_observers or Observers(tuple(self._observers.values()))

    def filed_under(self, component: Any, stage: Stage | None = None) -> str:
        """Return the name under which a component's measurements are filed.

        It is the profile name of `stage`, else of the running stage, else the component's name, else its class name.
        """
        if (stage := stage or self.current_stage) is not None:
            return stage.profile_name
        names = [name for name, own in self.components.items() if own is component]
        return names[0] if names else type(component).__name__

    def _defaults(self) -> dict[str, Any]:
        """Return the defaults for inputs that a run leaves out."""
        return {name: each.default for name, each in self._inputs.items() if each.default is not None}

    def _values(self, inputs: Mapping[str, Any]) -> Values:
        values = Values(self._defaults() | dict(inputs))
        for name, each in self._inputs.items():
            if each.tag is not None and name in values:
                values.tag(name, each.tag)
        return values

    def _ready(self) -> Program:
        key = (self._registry.version, self.progress, *self.components, *map(id, self.components.values()))
        if self._program is None or self._program.key != key:
            self._program = Program(key=key, bound=self._bound())
        return self._program

    def _bound(self) -> tuple[tuple[Stage, Binding], ...]:
        return tuple((stage, self._bindings[id(stage)]) for stage in self._registry.inserted)

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {len(self.stages)} stages, {len(self.components)} components>"

    def _repr_html_(self) -> str:
        from reslab.stages import _pipeline_report

        entries = [_pipeline_report.AddedStage(stage, bind, self._groups[id(stage)]) for stage, bind in self._bound()]
        return _pipeline_report.html(self.name, entries, components=self.components, result=self.result)
