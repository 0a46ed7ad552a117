"""The pipeline's conductor and observer while it is rehearsed.

    with pipeline.conduct(conductor), pipeline.observe(conductor): ...

It lists every component call with its stage, step and guidance pass, and counts the operations between component calls
by stage: schedulers, guidance, latents, post-processing. The frame `glue` of a rehearsal holds these counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from reslab.residency._rehearse._calls import ComponentCall
from reslab.residency._rehearse._costs import UNKNOWN
from reslab.residency._rehearse._phantom import OperationRow, Phantoms
from reslab.residency._rehearse._trace import Liveness
from reslab.stages import Kind, Section, Stage, StockStage


class RehearsalConductor:
    """Knows the current stage, step, pass and component, and lists component calls."""

    #: Blocks make their tensors on the CPU: small ones are real, large ones become phantoms.
    execution_device = torch.device("cpu")
    may_retry = False

    def __init__(self, phantoms: Phantoms, liveness: Liveness) -> None:
        self.phantoms, self.liveness = phantoms, liveness
        self.glue: list[GlueCounter] = []
        self.calls: list[tuple[Any, ...]] = []
        self.component = ""
        self._stage: Stage | None = None
        self._before: GlueCounter | None = None
        self._within: list[tuple[str, str, int]] = []

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Run a stage, and count the operations between its component calls."""
        with self._within_stage(stage):
            call()

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        """Call a stock pipeline; operations before its first section count as part of that section."""
        self.phantoms.record = self._before = GlueCounter("", "", self.liveness)
        call()

    def section(self, stage: Section) -> AbstractContextManager[None]:
        """Count the operations between the component calls of a section."""
        return self._within_stage(stage)

    @contextmanager
    def _within_stage(self, stage: Stage) -> Iterator[None]:
        self._stage = stage
        glue, self._before = self._before or GlueCounter("", "", self.liveness), None
        glue.stage, glue.registered_name = stage.profile_name, stage.registered_name
        self.glue.append(glue)
        self.phantoms.record = glue
        yield

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Make a component call, and remember the component's name meanwhile."""
        self.component = component
        return call()

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Note that a span begins."""
        self._within.append((kind, name, index))

    def end(self, error: BaseException | None = None) -> None:
        """Note that the innermost span ends."""
        self._within.pop()

    def list_call(self, call: ComponentCall) -> None:
        """Append a component call to `calls`, with the stage, step and pass that it is in."""
        assert self._stage is not None
        _kind, text, _index = self._within[-1]
        steps = [index for kind, _name, index in self._within if kind == Kind.STEP]
        passes = [name for kind, name, _index in self._within if kind == Kind.PASS]
        stage = self._stage.profile_name, self._stage.registered_name, self._stage.stage_class
        where = self.component, text.partition(".")[2], steps[-1] if steps else None, passes[-1] if passes else None
        self.calls.append((len(self.calls), *stage, *where, *call))


class GlueCounter:
    """Counts the operations of one stage outside of components."""

    def __init__(self, stage: str, registered_name: str, liveness: Liveness) -> None:
        self.stage, self.registered_name, self.liveness = stage, registered_name, liveness
        self.operations = self.flops = self.read_bytes = self.written_bytes = 0
        self.peak_bytes = liveness.now
        self.unknown: list[OperationRow] = []

    def __call__(self, row: OperationRow, fresh: list[torch.Tensor], workspace_bytes: int = 0) -> None:
        self.operations += 1
        self.flops += row.flops
        self.read_bytes += row.read_bytes
        self.written_bytes += row.written_bytes
        if row.kind == UNKNOWN:
            self.unknown.append(row)
        for tensor in fresh:
            self.liveness.add(tensor)
        self.peak_bytes = max(self.peak_bytes, self.liveness.now)

    def touch(self, extra_bytes: int) -> None:
        """Note bytes that a kernel used for itself while it ran."""
        self.peak_bytes = max(self.peak_bytes, self.liveness.now + extra_bytes)

    def row(self) -> tuple[str, str, int, int, int, int, int]:
        """Return the stage's row of the frame `glue`."""
        counted = self.operations, self.flops, self.read_bytes, self.written_bytes, self.peak_bytes
        return self.stage, self.registered_name, *counted
