"""The stages of a pipeline as a sequence, found by place and by registered name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from reslab.stages._names import nearest
from reslab.stages._stage import Stage


class Stages(Sequence[Stage]):
    """An ordered view: `stages[0]`, `stages["decode"]`, or `stages.decode`; names complete with Tab."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)

    @overload
    def __getitem__(self, key: int | str) -> Stage: ...
    @overload
    def __getitem__(self, key: slice) -> Stages: ...
    def __getitem__(self, key: int | str | slice) -> Stage | Stages:
        if isinstance(key, slice):
            return Stages(self._stages[key])
        if isinstance(key, int):
            return self._stages[key]
        for stage in self._stages:
            if stage.registered_name == key:
                return stage
        raise KeyError(f"no stage is registered as {key!r}; {nearest(key, self._ipython_key_completions_())}")

    def __len__(self) -> int:
        return len(self._stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __contains__(self, key: object) -> bool:
        return any(key is stage or key == stage.registered_name for stage in self._stages)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as missing:
            raise AttributeError(missing.args[0]) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self._ipython_key_completions_() if name.isidentifier())]

    def _ipython_key_completions_(self) -> list[str]:
        return [stage.registered_name for stage in self._stages]

    def __repr__(self) -> str:
        return "Stages(" + ", ".join(self._ipython_key_completions_()) + ")"
