"""Ranges in torch's own profiler, so that its traces show the stage of each operator.

    with torch.profiler.profile() as operators, torch_ranges(pipeline):
        pipeline.run(prompt="a heron over a weir", seed=7)
    operators.key_averages()        # has a row for "denoise", beside those of the operators

A stage's range has its profile name, as in a `Profile`; every other range has the name that observers get. A range
costs 7 to 12 µs, so ranges serve to look into operators, not to time stages. `torch_ranges` imports torch when it is
called.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reslab.stages import Kind

if TYPE_CHECKING:
    from reslab.profiler._record._profiler import Observable


@contextmanager
def torch_ranges(pipeline: Observable) -> Iterator[None]:
    """Open a `torch.profiler.record_function` range around every event of a pipeline.

    Args:
        pipeline: The pipeline to observe within the block.
    """
    with pipeline.observe(_Ranges(pipeline)):
        yield


class _Ranges:
    """An observer that opens and closes ranges; each thread has a stack of its own."""

    def __init__(self, pipeline: Observable) -> None:
        from torch.profiler import record_function

        self._record_function = record_function
        self._pipeline = pipeline
        self._names: dict[str, str] = {}
        self._open = threading.local()

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Open a range; see `reslab.stages.Observer` for the arguments."""
        if kind == Kind.RUN:
            self._names = {stage.registered_name: stage.profile_name for stage in self._pipeline.stages}
        called = self._names.get(name, name) if kind == Kind.STAGE else name
        opened = self._record_function(f"{called} {index}" if kind == Kind.STEP else called)
        opened.__enter__()
        self._stack().append(opened)

    def end(self, error: BaseException | None = None) -> None:
        """Close the innermost range of this thread."""
        if stack := self._stack():
            stack.pop().__exit__(None, None, None)

    def _stack(self) -> list[Any]:
        if not hasattr(self._open, "stack"):
            self._open.stack = []
        stack: list[Any] = self._open.stack
        return stack
