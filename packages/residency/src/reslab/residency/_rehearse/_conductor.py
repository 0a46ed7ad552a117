"""Standing in for a device: the pipeline's conductor and observer while it is rehearsed.

What runs between component calls, counted by stage: schedulers, guidance, latents, post-processing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from reslab.residency._rehearse._calls import Call
from reslab.residency._rehearse._costs import UNKNOWN
from reslab.residency._rehearse._phantom import Phantoms, Row
from reslab.residency._rehearse._trace import Liveness
from reslab.stages import Kind, Section, Stage, StockStage


class Stand:
    """Knows which stage, step, pass and component is under way, and lists the calls made."""

    #: Blocks make their tensors on the CPU: small ones are real, large ones become phantoms.
    execution_device = torch.device("cpu")
    may_retry = False

    def __init__(self, phantoms: Phantoms, liveness: Liveness) -> None:
        self.phantoms, self.liveness = phantoms, liveness
        self.glue: list[Glue] = []
        self.calls: list[tuple[Any, ...]] = []
        self.component = ""
        self._stage: Stage | None = None
        self._before: Glue | None = None
        self._within: list[tuple[str, str, int]] = []

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Run a stage, counting what lies between its component calls."""
        with self._within_stage(stage):
            call()

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        """Make the call of a stock pipeline, counting what lies before its first section with that."""
        self.phantoms.record = self._before = Glue("", "", self.liveness)
        call()

    def section(self, stage: Section) -> AbstractContextManager[None]:
        """Count what lies between the component calls of a section."""
        return self._within_stage(stage)

    @contextmanager
    def _within_stage(self, stage: Stage) -> Iterator[None]:
        self._stage = stage
        glue, self._before = self._before or Glue("", "", self.liveness), None
        glue.stage, glue.registered_name = stage.profile_name, stage.registered_name
        self.glue.append(glue)
        self.phantoms.record = glue
        yield

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Make a component call, knowing under which name."""
        self.component = component
        return call()

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Be told that something begins."""
        self._within.append((kind, name, index))

    def end(self, error: BaseException | None = None) -> None:
        """Be told that it ended."""
        self._within.pop()

    def told(self, call: Call) -> None:
        """List a component call."""
        assert self._stage is not None
        _kind, text, _index = self._within[-1]
        steps = [index for kind, _name, index in self._within if kind == Kind.STEP]
        passes = [name for kind, name, _index in self._within if kind == Kind.PASS]
        stage = self._stage.profile_name, self._stage.registered_name, self._stage.stage_class
        where = self.component, text.partition(".")[2], steps[-1] if steps else None, passes[-1] if passes else None
        self.calls.append((len(self.calls), *stage, *where, *call))


class Glue:
    """Counts the operations of one stage that lie outside components."""

    def __init__(self, stage: str, registered_name: str, liveness: Liveness) -> None:
        self.stage, self.registered_name, self.liveness = stage, registered_name, liveness
        self.operations = self.flops = self.read_bytes = self.written_bytes = 0
        self.peak_bytes = liveness.now
        self.unknown: list[Row] = []

    def __call__(self, row: Row, fresh: list[torch.Tensor], workspace_bytes: int = 0) -> None:
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
        """Note bytes that a kernel had for itself while it ran."""
        self.peak_bytes = max(self.peak_bytes, self.liveness.now + extra_bytes)

    def row(self) -> tuple[str, str, int, int, int, int, int]:
        """The stage's row of the frame `glue`."""
        counted = self.operations, self.flops, self.read_bytes, self.written_bytes, self.peak_bytes
        return self.stage, self.registered_name, *counted
