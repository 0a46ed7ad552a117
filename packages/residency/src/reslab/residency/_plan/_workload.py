"""The workload of a plan: the sizes of the components, and their calls in the order of the run.

A workload holds everything that the order of moves and their memory depend on; a rehearsal holds far more. Stages have
their registered names, which also key the placements.

    Workload(
        components={"vae": ComponentSize(outside_bytes=100, block_bytes=(40, 40))},
        stages=("encode", "decode"),
        calls=(Call(stage="decode", component="vae", blocks=(0, 1)),),
    )

`activations` are the highest bytes alive besides weights, by stage. `residency.workload` reads a workload from a
rehearsal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from reslab.residency._plan._placement import PlanError
from reslab.stages.support import freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSize:
    """Bytes of one component's weights, in its repeated blocks and outside the blocks.

    >>> ComponentSize(outside_bytes=100, block_bytes=(40, 40)).weight_bytes
    180
    """

    outside_bytes: int
    block_bytes: tuple[int, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights of the component."""
        return self.outside_bytes + sum(self.block_bytes)

    @property
    def block_count(self) -> int:
        """Return the number of its blocks.

        >>> ComponentSize(outside_bytes=100, block_bytes=(40, 40)).block_count
        2
        """
        return len(self.block_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a component's method.

    A call from a rehearsal names its traces, whose times are its times. A call made by hand, or recorded in a real run,
    has none.

    Attributes:
        stage: The stage's registered name.
        component: The component's name.
        method: The name of the called method.
        blocks: The numbers of the blocks that the call runs, in order.
        traces: Numbers of the rehearsal's traces that the call runs: one, or one per guidance pass if they are batched.
        step: The denoising step, counted from 0; None outside denoising.
        guidance_pass: The guidance pass; None outside of passes, and if one call makes all passes of a step.
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
        components: The size of each component, by name.
        stages: Registered names in the order of the run, including stages without a call.
        calls: All calls in the order of the run.
        activations: Highest bytes alive besides weights, by stage.

    Raises:
        PlanError: A call names a component or stage that is not listed, or calls are not in the order of the stages.
    """

    components: Mapping[str, ComponentSize]
    stages: tuple[str, ...]
    calls: tuple[Call, ...]
    activations: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self)
        for call in self.calls:
            if call.component not in self.components or call.stage not in self.stages:
                raise PlanError(f"{call} names a component or stage that the workload does not list")
        order = [self.stages.index(call.stage) for call in self.calls]
        if order != sorted(order):
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
        """Return the calls by component and index of the stage; a stage without calls has no entry."""
        found: dict[tuple[str, int], list[Call]] = {}
        for index, calls in enumerate(self.by_stage):
            for call in calls:
                found.setdefault((call.component, index), []).append(call)
        return {key: tuple(calls) for key, calls in found.items()}

    @cached_property
    def blocks_of(self) -> Mapping[tuple[str, int], frozenset[tuple[int, ...]]]:
        """Return the distinct lists of blocks that calls run, by component and index of the stage."""
        return {key: frozenset(call.blocks for call in calls) for key, calls in self.calls_of.items()}

    @cached_property
    def users(self) -> Mapping[str, tuple[int, ...]]:
        """Return the indices of the stages that call each component."""
        stages = range(len(self.stages))
        return {name: tuple(index for index in stages if (name, index) in self.calls_of) for name in self.components}


def uniform_workload(count: int, *, passes: int = 1, nbytes: int = 1, component: str = "transformer") -> Workload:
    """Return the workload of one model of equal blocks that the stage `denoise` calls once per pass, for examples.

    >>> [(call.step, call.blocks) for call in uniform_workload(3, passes=2).calls]
    [(0, (0, 1, 2)), (1, (0, 1, 2))]

    Args:
        count: Number of blocks; the model has no weights outside the blocks.
        passes: Number of calls, each in a step of its own.
        nbytes: Bytes of a block.
        component: The model's name.
    """
    stage, blocks = "denoise", tuple(range(count))
    calls = tuple(Call(stage=stage, component=component, blocks=blocks, step=step) for step in range(passes))
    size = ComponentSize(outside_bytes=0, block_bytes=(nbytes,) * count)
    return Workload(components={component: size}, stages=(stage,), calls=calls)
