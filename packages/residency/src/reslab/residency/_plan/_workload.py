"""What a plan is laid over: the sizes of the components, and their calls in the order of the run.

A rehearsal knows far more; this is what the order of moves and the memory they take depend on. Stages bear their
registered names, which also key the placements.

    Workload(
        components={"vae": ComponentSize(outside_bytes=100, block_bytes=(40, 40))},
        stages=("encode", "decode"),
        calls=(Call(stage="decode", component="vae", blocks=(0, 1)),),
    )

`activations` are the bytes that a stage has alive besides weights, at its highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from reslab.residency._plan._placement import PlanError
from reslab.stages import freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSize:
    """Bytes of one component's weights, in its repeated blocks and outside of them.

    >>> ComponentSize(outside_bytes=100, block_bytes=(40, 40)).weight_bytes
    180
    """

    outside_bytes: int
    block_bytes: tuple[int, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all its weights."""
        return self.outside_bytes + sum(self.block_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a component's method.

    A rehearsed call says which one it is: its times are those of its traces. A call that was made by hand, or seen in a
    run, does not.

    Attributes:
        stage: The stage's registered name.
        component: The component's name.
        method: What is called of it.
        blocks: The blocks that it runs, in their order.
        traces: Numbers of the rehearsal's traces that it runs: one, or one a guidance pass where passes are batched.
        step: The denoising step from 0; None outside.
        guidance_pass: The guidance pass; None outside, and where one call makes all of a step's passes.
    """

    stage: str
    component: str
    method: str = "forward"
    blocks: tuple[int, ...] = ()
    traces: tuple[int, ...] = ()
    step: int | None = None
    guidance_pass: str | None = None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The components of a pipeline and the calls of one run.

    Args:
        components: Sizes by name.
        stages: Registered names in the order of running, those without a call included.
        calls: In the order of the run; calls of one stage lie together.
        activations: Highest bytes alive besides weights, by stage.

    Raises:
        PlanError: For a call of a component or stage that is not there, or of stages out of order.
    """

    components: Mapping[str, ComponentSize]
    stages: tuple[str, ...]
    calls: tuple[Call, ...]
    activations: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self)
        for call in self.calls:
            if call.component not in self.components or call.stage not in self.stages:
                raise PlanError(f"{call} is of a component or stage that the workload does not list")
        places = [self.stages.index(call.stage) for call in self.calls]
        if places != sorted(places):
            raise PlanError("the calls of a workload follow the order of its stages, and each stage runs once")

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights of all components."""
        return sum(size.weight_bytes for size in self.components.values())

    @cached_property
    def by_stage(self) -> tuple[tuple[Call, ...], ...]:
        """Return the calls of each stage."""
        return tuple(tuple(call for call in self.calls if call.stage == stage) for stage in self.stages)

    @cached_property
    def calls_of(self) -> Mapping[tuple[str, int], tuple[Call, ...]]:
        """Return the calls of each component in the stage at each place; nothing where there is none."""
        found: dict[tuple[str, int], list[Call]] = {}
        for place, calls in enumerate(self.by_stage):
            for call in calls:
                found.setdefault((call.component, place), []).append(call)
        return {key: tuple(calls) for key, calls in found.items()}

    @cached_property
    def blocks_of(self) -> Mapping[tuple[str, int], frozenset[tuple[int, ...]]]:
        """Return the distinct lists of blocks that those calls run."""
        return {key: frozenset(call.blocks for call in calls) for key, calls in self.calls_of.items()}

    @cached_property
    def users(self) -> Mapping[str, tuple[int, ...]]:
        """Return the places of the stages that call each component."""
        places = range(len(self.stages))
        return {name: tuple(place for place in places if (name, place) in self.calls_of) for name in self.components}


def uniform_workload(count: int, *, passes: int = 1, nbytes: int = 1, component: str = "transformer") -> Workload:
    """Return the workload of a model of equal blocks which a stage `denoise` calls some times: enough to think with.

    >>> [(call.step, call.blocks) for call in uniform_workload(3, passes=2).calls]
    [(0, (0, 1, 2)), (1, (0, 1, 2))]

    Args:
        count: Blocks of the model; nothing lies outside of them.
        passes: Times that it is called, each in a step of its own.
        nbytes: Bytes of a block.
        component: What the model is called.
    """
    stage, blocks = "denoise", tuple(range(count))
    calls = tuple(Call(stage=stage, component=component, blocks=blocks, step=step) for step in range(passes))
    size = ComponentSize(outside_bytes=0, block_bytes=(nbytes,) * count)
    return Workload(components={component: size}, stages=(stage,), calls=calls)
