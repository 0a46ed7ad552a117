"""A stock diffusers pipeline as one stage, observed by its components."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

from reslab.stages._stage import REQUIRED, Binding, Signature, Stage


class StockStage(Stage):
    """Runs a whole `DiffusionPipeline`; it reads what the pipeline's `__call__` takes and writes `output`."""

    writes = ("output",)

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def stage_class(self) -> str:
        return type(self.pipe).__name__

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline."""
        return self.pipe(*args, **kwargs)

    def signature(self, available: Collection[str] = ()) -> Signature:
        parameters = inspect.signature(self.pipe.__call__).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        defaults = {p.name: REQUIRED if p.default is p.empty else p.default for p in named}
        return Signature(components=tuple(stock_components(self.pipe)), reads=defaults, writes=self.writes)

    def prepare(self, bind: Binding) -> Callable[[Any], None]:
        read = [(name, bind.value(name)) for name in self.signature().reads]

        def call(values: Any) -> None:
            kwargs = {name: values[source] for name, source in read if source in values} | dict(bind.given)
            values[bind.value("output")] = self.pipe(**kwargs)

        return call


def stock_components(pipe: Any) -> dict[str, Any]:
    """The components that a stock pipeline really has, by name."""
    return {name: component for name, component in pipe.components.items() if component is not None}
