"""Leaf blocks of Modular Diffusers as stages, recognised by their attributes: diffusers is not imported here.

    pipeline.add(
        BlockStage(LTX2DenoiseStep()), name="refine",
        components={"scheduler": "refine_scheduler"}, values={"latents": "refine_latents", "height": "full_height"},
    )

A block is called with a view of the components and a state. The state is new for each block: it holds exactly the
inputs that the block declares, and the stage takes back only declared outputs and declared inputs that the block
changed. The view returns the pipeline's components and the conductor's execution device. For any other attribute
(`latents_mean`, `audio_hop_length`, …) it evaluates the property of diffusers' own modular pipeline class on itself.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from reslab.stages._names import PipelineError, nearest
from reslab.stages._stage import REQUIRED, Binding, Signature, Stage

#: Blocks log every error with its whole traceback, once for each nesting; the stage raises the error itself.
_FRAMEWORK_LOGGER = logging.getLogger("diffusers.modular_pipelines.modular_pipeline")


class BlockStage(Stage):
    """One or several leaf blocks of Modular Diffusers as one stage.

    Args:
        blocks: Leaf blocks or loops, run in this order.
        stage_class: The name of the stage's type; by default the class of the block, if there is one block.
        check: A function called as `Stage.check`, for rules that the blocks do not declare.
    """

    def __init__(
        self,
        *blocks: Any,
        stage_class: str | None = None,
        check: Callable[[Mapping[str, Any], Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.blocks = tuple(block() if isinstance(block, type) else block for block in blocks)
        composed = [block for block in self.blocks if not is_leaf(block)]
        if composed or not blocks:
            got = type(composed[0]).__name__ + ", which is composed of blocks" if composed else "none"
            raise PipelineError(
                f"BlockStage wants leaf blocks or loops, got {got}; Pipeline.from_blocks finds the leaves"
            )
        self._stage_class = stage_class or (type(self.blocks[0]).__name__ if len(blocks) == 1 else type(self).__name__)
        self._check = check

    @property
    def stage_class(self) -> str:
        return self._stage_class

    def run(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.stage_class} runs in a pipeline: Pipeline().add(stage).run(...)")

    def check(self, values: Mapping[str, Any], components: Mapping[str, Any]) -> None:
        if self._check is not None:
            self._check(values, components)

    def signature(self, available: Collection[str] = ()) -> Signature:
        reads: dict[str, Any] = {}
        writes: dict[str, None] = {}
        components: dict[str, None] = {}
        for block in self.blocks:
            components |= dict.fromkeys(spec.name for spec in block.expected_components)
            for name, default in _inputs(block).items():
                if name not in writes and reads.get(name) is not REQUIRED:
                    reads[name] = default
            writes |= dict.fromkeys(output.name for output in block.intermediate_outputs)
        gathers = any(each.kwargs_type and not each.name for block in self.blocks for each in block.inputs)
        changes = tuple(name for name, default in reads.items() if default is not REQUIRED)
        written = tuple(writes)
        return Signature(components=tuple(components), reads=reads, writes=written, gathers=gathers, changes=changes)

    def watched(self) -> tuple[Any, ...]:
        return tuple(block for block in self.blocks if hasattr(block, "loop_step"))

    def prepare(self, bind: Binding) -> Callable[[Any], None]:
        view = ComponentsView(bind, self.blocks)
        states = [(block, functools.partial(BlockState, Declaration.of(block), bind)) for block in self.blocks]
        for loop in self.watched():
            loop.set_progress_bar_config(desc=self.registered_name, disable=not bind.pipeline.progress)

        def call(values: Any) -> None:
            given = dict(bind.given)
            _FRAMEWORK_LOGGER.addFilter(_quiet)
            try:
                for block, state in states:
                    block(view, state(values, given))
            finally:
                _FRAMEWORK_LOGGER.removeFilter(_quiet)

        return call


class ComponentsView:
    """The object that blocks get as `components`."""

    def __init__(self, bind: Binding, blocks: tuple[Any, ...]) -> None:
        self._bind, self._blocks = bind, blocks

    @property
    def components(self) -> dict[str, Any]:
        """All components, under the names that the stage's blocks use."""
        bound = dict(self._bind.pipeline.components)
        return bound | {name: bound[source] for name, source in self._bind.components.items() if source in bound}

    @property
    def _execution_device(self) -> Any:
        chosen = self._bind.pipeline.execution_device
        return chosen if chosen is not None else self._from_modular_pipeline("_execution_device")

    def __getattr__(self, name: str) -> Any:
        bind = self.__dict__["_bind"]
        source = bind.components.get(name, name)
        if source in bind.pipeline.components:
            return bind.pipeline.components[source]
        return self._from_modular_pipeline(name)

    @property
    def config(self) -> Any:
        """The settings that blocks declare, with the pipeline's values in place of their defaults."""
        declared = {spec.name: spec.default for block in self._blocks for spec in block.expected_configs}
        return SimpleNamespace(**declared | dict(self._bind.pipeline.config))

    def _from_modular_pipeline(self, name: str) -> Any:
        kind = modular_pipeline_class(self._blocks[0])
        if (found := inspect.getattr_static(kind, name, None)) is not None:  # properties and methods, with this as self
            return found.__get__(self, kind) if hasattr(found, "__get__") else found
        raise AttributeError(f"the pipeline has no component {name!r}, and diffusers' modular pipeline computes none")


def modular_pipeline_class(block: Any) -> type:
    """Return the class of diffusers' own modular pipeline for a block's model."""
    if block.model_name not in _CLASSES:
        _CLASSES[block.model_name] = type(block.init_pipeline())
    return _CLASSES[block.model_name]


_CLASSES: dict[str, type] = {}


class Declaration(NamedTuple):
    """The inputs of a block with their defaults, and its outputs; kept because diffusers builds both on each access."""

    inputs: dict[str, Any]
    outputs: frozenset[str]

    @classmethod
    def of(cls, block: Any) -> Declaration:
        return cls(_inputs(block), frozenset(output.name for output in block.intermediate_outputs))


class BlockState:
    """The state of a block: diffusers' `PipelineState`, limited to the names that one block declares.

    `given` holds the stage's fixed values, each until the stage itself writes a value of that name.
    """

    def __init__(self, declared: Declaration, bind: Binding, values: Any, given: dict[str, Any]) -> None:
        self._bind, self._values, self._given = bind, values, given
        self._inputs, self._outputs = declared

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value that the block calls `name`, else its declared default; `default` for an undeclared name.

        A declared default must come from here: if the block filled it in, that would look like a change of the input.
        """
        if name not in self._inputs:
            return default
        value = self._given[name] if name in self._given else self._values.get(self._bind.value(name))
        declared = self._inputs[name]
        return declared if value is None and declared is not REQUIRED else value

    def get_by_kwargs(self, kwargs_type: str) -> dict[str, Any]:
        """Return the values tagged `kwargs_type`, under the block's names; a renamed value has only its new name."""
        renamed, tagged = self._bind.values, self._values.tagged(kwargs_type)
        own = {name: value for name, value in tagged.items() if name not in renamed and name not in renamed.values()}
        return own | {name: tagged[source] for name, source in renamed.items() if source in tagged}

    def set(self, name: str, value: Any, kwargs_type: str | None = None) -> None:
        """Take back a declared output, or a declared input that the block changed."""
        gathered = kwargs_type is not None and name in self.get_by_kwargs(kwargs_type)
        if name not in self._outputs and name not in self._inputs and not gathered:
            return
        self._given.pop(name, None)
        target = self._bind.value(name)
        self._values[target] = value
        if kwargs_type is not None:
            self._values.tag(target, kwargs_type)


def _inputs(block: Any) -> dict[str, Any]:
    return {each.name: REQUIRED if each.required else each.default for each in block.inputs if each.name}


def _quiet(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("\nError in block")


def leaves(blocks: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaf blocks that would run for a request, by name and in order; a loop is one leaf.

    A composition is resolved by which inputs the request gives; each leaf is named by its path, such as
    "denoise.prepare_latents".
    """
    if not is_leaf(blocks):
        given = {name: value for name, value in request.items() if value is not None}
        blocks = blocks.get_execution_blocks(**given)
    if blocks is None:
        raise PipelineError(f"no block runs for a request of {', '.join(request) or 'nothing'}")
    return {type(blocks).__name__: blocks} if is_leaf(blocks) else dict(blocks.sub_blocks)


def is_leaf(block: Any) -> bool:
    """Tell whether a block runs as one stage: it has no blocks inside, or loops over them."""
    return not block.sub_blocks or hasattr(block, "loop_step")


def choices(blocks: Any, stages: Iterable[Stage], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that chose among blocks and that no chosen stage reads, each with the value it chose by."""
    defaults = {each.name: each.default for each in blocks.inputs if each.name}
    return {name: request.get(name, defaults.get(name)) for name in sorted(_choosing(blocks) - _read(stages))}


def without_choices(inputs: Mapping[str, Any], chosen: Mapping[str, Any], stages: Iterable[Stage]) -> Mapping[str, Any]:
    """Return the inputs without those that choose among blocks, which must choose the composed blocks again.

    Raises:
        PipelineError: An input would choose other blocks.
    """
    if not (given := chosen.keys() & inputs.keys()) or not (given := given - _read(stages)):  # a stage added later may
        return inputs
    for name in sorted(given):
        if _as_choice(inputs[name]) != _as_choice(chosen[name]):
            raise PipelineError(
                f"{name!r} chooses which blocks run, and {_shown(inputs[name])} is not what this pipeline was composed "
                f"for ({_shown(chosen[name])}); compose it anew: Pipeline.from_blocks(…, {name}=…)"
            )
    return {name: value for name, value in inputs.items() if name not in given}


def _read(stages: Iterable[Stage]) -> set[str]:
    return {name for stage in stages for name in stage.signature().reads}


def _as_choice(value: Any) -> Any:
    """Return the part of a value that decides among blocks: a plain value itself, else its presence; False is none."""
    if value is None or value is False:
        return None
    return value if isinstance(value, (int, float, str)) else object


def _shown(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, (int, float, str)) else f"a {type(value).__name__}"


def _choosing(block: Any) -> set[str]:
    own = {name for name in getattr(block, "block_trigger_inputs", None) or () if name is not None}
    return own.union(*(_choosing(inner) for inner in block.sub_blocks.values()))


def made_from_config(blocks: Any) -> dict[str, Any]:
    """Return the components that diffusers makes from configuration alone (guiders, processors), by name."""
    return {name: component for name, component in blocks.init_pipeline().components.items() if component is not None}


class DeclaredInput(NamedTuple):
    """An input that a composition of blocks declares: its default, and the tag that gathers it."""

    default: Any
    tag: str | None


def declared_inputs(blocks: Any) -> dict[str, DeclaredInput]:
    """Return the inputs that a composition declares, each with the default of the first block that declares it."""
    return {each.name: DeclaredInput(each.default, each.kwargs_type) for each in blocks.inputs if each.name}


def settings(blocks: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that blocks declare, by name, with given values in place of defaults.

    Raises:
        PipelineError: The blocks declare no setting of a given name.
    """
    declared = {spec.name: spec.default for spec in blocks.expected_configs}
    if unknown := [name for name in given if name not in declared]:
        raise PipelineError(
            f"{type(blocks).__name__} declares no setting {unknown[0]!r}; {nearest(unknown[0], declared)}"
        )
    return declared | dict(given)
