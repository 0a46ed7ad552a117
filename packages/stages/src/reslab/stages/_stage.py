"""A stage: one named step, with the components it uses, the values it reads and writes, and `run`.

A subclass needs nothing but `run`. The names of its parameters say what it reads: a parameter that the pipeline has a
component for gets the component, any other gets the value of that name, and one with a default may be absent. What it
returns is a mapping from names to values.

    class Halve(Stage):
        writes = ("half_height", "half_width")

        def run(self, height, width):
            return {"half_height": height // 2, "half_width": width // 2}

`writes` is optional; declared, it lets `Pipeline.check` see before a run that a value will be there. `@stage` makes the
same from a function. `BlockStage` (in `_blocks`) wraps blocks of Modular Diffusers; `Choice` (in `_choice`) picks one
of two stages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from reslab.stages import _names
from reslab.stages._frozen import freeze
from reslab.stages._names import Names, PipelineError


class _Required:
    """The mark of a value without a default: one object, in every process."""

    def __reduce__(self) -> str:
        return "REQUIRED"

    def __repr__(self) -> str:
        return "REQUIRED"


#: The mark of a value without a default.
REQUIRED: Any = _Required()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The components and values of a stage, in its own names.

    Attributes:
        components: The components that it declares.
        reads: The values that it reads, each with its default, or `REQUIRED`.
        writes: The values that it writes; None if only a run shows them.
        gathers: Whether it reads further values by their tag.
        changes: The values that it may write, among those that it reads.
    """

    components: tuple[str, ...]
    reads: Mapping[str, Any]
    writes: tuple[str, ...] | None
    gathers: bool = False
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        freeze(self)


class StageRegistry(Protocol):
    """The registry as a stage sees it: its own name and the names of the others. `_registry` implements it."""

    def profile_name(self, stage: Stage) -> str:
        """Return the stage's profile name."""

    def others(self, stage: Stage) -> list[Names]:
        """Return the names of all other stages."""

    def found(self, section: Stage) -> None:
        """Add a section that a run has found."""

    def changed(self) -> None:
        """Note that a name, or the order of sections, has changed."""


class Stage:
    """One named step of a pipeline."""

    #: Components that `run` takes; any other parameter is a component if the pipeline has one of that name.
    components: tuple[str, ...] = ()
    #: Values that `run` returns; None leaves them open.
    writes: tuple[str, ...] | None = None
    #: Values whose text is a setting, not a text of the user: profiles keep it, as they keep numbers.
    text_settings: tuple[str, ...] = ()

    _registry: StageRegistry | None = None
    _registered_name: str | None = None
    _explicit_profile_name: str | None = None

    def __init_subclass__(cls) -> None:
        """Turn a text in `components`, `writes` or `text_settings` into a tuple of one name, not of its letters."""
        for attribute in ("components", "writes", "text_settings"):
            if isinstance(name := cls.__dict__.get(attribute), str):
                setattr(cls, attribute, (name,))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the values that the stage writes, and return a mapping of them, or None.

        The parameters are the components and values that the stage reads.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method run; its parameters are what the stage reads")

    def check(self, values: Mapping[str, Any], components: Mapping[str, Any]) -> None:
        """Raise `PipelineError` where a request breaks a rule of the model; called before anything runs.

        Args:
            values: The values that are known before the run, in the stage's names.
            components: The pipeline's components, in the stage's names.
        """

    @property
    def stage_class(self) -> str:
        """The name of the stage's type."""
        return type(self).__name__

    @property
    def registered_name(self) -> str:
        """The name that is unique in the pipeline; the class name until it is set."""
        return self._registered_name or self.stage_class

    @property
    def profile_name(self) -> str:
        """The key of measurements: the explicit name, else the name by the pipeline's rule, else the class name."""
        if self._registry is not None:
            return self._registry.profile_name(self)
        return self._explicit_profile_name or self.stage_class

    def set_registered_name(self, name: str) -> None:
        """Rename the stage; this never sets an explicit profile name.

        Raises:
            PipelineError: Another stage of the pipeline has the name, or the name is reserved.
        """
        _names.check_registered(name, self._others())
        self._registered_name = name
        self._renamed()

    def set_profile_name(self, name: str) -> None:
        """File the stage's measurements under `name` from the next run on.

        Raises:
            PipelineError: The name is the explicit, registered or class name of another stage.
        """
        _names.check_explicit(name, self._others())
        self._explicit_profile_name = name
        self._renamed()

    def signature(self, available: Collection[str] = ()) -> Signature:
        """Return the components and values of the stage.

        Args:
            available: The names of the values that are available, for stages whose work depends on them.
        """
        parameters = inspect.signature(self.run).parameters.values()
        open_ended = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)]
        if open_ended:
            raise PipelineError(
                f"{self.stage_class}.run takes {open_ended[0]!r}, which names nothing to read; "
                "give it one named parameter for each component and value"
            )
        defaults = {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters}
        for what, names in (("component", self.components), ("text setting", self.text_settings)):
            if missing := [name for name in names if name not in defaults]:
                raise PipelineError(
                    f"{self.stage_class} declares the {what} {missing[0]!r}, but its run does not take it"
                )
        reads = {name: default for name, default in defaults.items() if name not in self.components}
        return Signature(components=self.components, reads=reads, writes=self.writes)

    def sections(self) -> tuple[Stage, ...]:
        """Return the stages that a pipeline shows for this one: itself, or the sections of its call."""
        return (self,)

    def watched(self) -> tuple[Any, ...]:
        """Return the loops whose steps observers get as events: objects with a method `loop_step`."""
        return ()

    def prepare(self, bind: Binding) -> Callable[[Any], None]:
        """Return the call that runs this stage on a pipeline's values; `bind` translates names."""
        signature = self.signature()
        asked = [name for name in signature.reads if name not in bind.given]
        components = [*signature.components, *(name for name in asked if bind.is_component(name))]
        used = [(name, bind.components.get(name, name)) for name in components]
        read = [(name, bind.value(name), signature.reads[name]) for name in asked if name not in components]
        given = {name: value for name, value in bind.given.items() if name in signature.reads}
        return self._caller(bind, given, used, read)

    def _caller(
        self,
        bind: Binding,
        given: Mapping[str, Any],
        used: list[tuple[str, str]],
        read: list[tuple[str, str, Any]],
    ) -> Callable[[Any], None]:
        components = bind.pipeline.components  # looked up in each call, so that the stage keeps no component alive

        def call(values: Any) -> None:
            kwargs, there = dict(given), values._values  # reading the plain dict halves the cost of five values
            for name, source in used:
                kwargs[name] = components[source]
            for name, source, default in read:
                if source in there:
                    kwargs[name] = there[source]
                elif default is REQUIRED:
                    self._raise_missing(name, source)
            if (written := self.run(**kwargs)) is not None:
                self._take_back(written, bind, values)

        def call_bare(values: Any) -> None:
            if (written := self.run()) is not None:
                self._take_back(written, bind, values)

        return call if given or used or read else call_bare

    def _take_back(self, written: Any, bind: Binding, values: Any) -> None:
        for name, value in self._named(written).items():
            values[bind.value(name)] = value

    def _named(self, written: Any) -> Mapping[str, Any]:
        if self.writes is not None and len(self.writes) == 1 and not isinstance(written, Mapping):
            return {self.writes[0]: written}
        if not isinstance(written, Mapping):
            raise TypeError(
                f"the stage {self.registered_name!r} returned {type(written).__name__}; "
                "wanted a mapping from names to values, or None"
            )
        unknown = [name for name in written if self.writes is not None and name not in self.writes]
        if unknown:
            raise TypeError(f"the stage {self.registered_name!r} returned {unknown[0]!r}, which its writes do not name")
        return written

    def _raise_missing(self, name: str, source: str) -> NoReturn:
        renamed = f" (which it calls {name!r})" if name != source else ""
        raise PipelineError(f"the stage {self.registered_name!r} reads {source!r}{renamed}, which nothing has written")

    def _renamed(self) -> None:
        if self._registry is not None:
            self._registry.changed()

    def _others(self) -> list[Names]:
        return self._registry.others(self) if self._registry is not None else []

    def __repr__(self) -> str:
        return f"<{self.stage_class} {self.registered_name!r}>"


def names_of(stage: Stage) -> Names:
    """Return a stage's three names; the explicit profile name is None unless one was set."""
    return Names(stage.registered_name, stage.stage_class, stage._explicit_profile_name)


def join(stage: Stage, registry: StageRegistry, *, name: str | None = None) -> None:
    """Put a stage on a pipeline's registry, under a new registered name if one is given."""
    stage._registry = registry
    stage._registered_name = name or stage._registered_name


def is_in_pipeline(stage: Stage) -> bool:
    """Tell whether the stage is in a pipeline."""
    return stage._registry is not None


class StageContext(Protocol):
    """The part of a pipeline that a running stage uses."""

    components: dict[str, Any]
    config: Mapping[str, Any]
    progress: bool

    @property
    def execution_device(self) -> Any:
        """The device on which blocks create their tensors, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Translates the names of one stage into those of its pipeline.

    Attributes:
        pipeline: The pipeline, as a running stage uses it.
        components: Component names of the stage → component names of the pipeline, where they differ.
        values: Value names of the stage → value names of the pipeline, where they differ.
        given: Values fixed for this stage alone, in its own names.
    """

    pipeline: StageContext
    components: Mapping[str, str]
    values: Mapping[str, str]
    given: Mapping[str, Any]

    def component(self, name: str) -> Any:
        return self.pipeline.components[self.components.get(name, name)]

    def is_component(self, name: str) -> bool:
        return self.components.get(name, name) in self.pipeline.components

    def value(self, name: str) -> str:
        return self.values.get(name, name)


def stage(
    function: Callable[..., Any] | None = None,
    *,
    writes: str | tuple[str, ...] | None = None,
    text_settings: str | tuple[str, ...] = (),
) -> Any:
    """Turn a function into a stage class, named as the function.

    >>> @stage(writes=("half_width",))
    ... def halve(width):
    ...     return {"half_width": width // 2}
    >>> halve().stage_class, halve.run(128)
    ('halve', {'half_width': 64})

    Args:
        function: A function whose parameters are the values that the stage reads. It returns a mapping of the values
            that the stage writes, or None.
        writes: The names of the values that it writes. For one name, the function may return the value itself, unless
            that is a mapping or None.
        text_settings: The names of the values whose text is a setting, which profiles may keep.
    """
    if function is None:
        return lambda decorated: stage(decorated, writes=writes, text_settings=text_settings)
    body = {
        "run": staticmethod(function),
        "writes": writes,
        "text_settings": text_settings,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
    }
    return type(function.__name__, (Stage,), body)
