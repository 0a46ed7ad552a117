"""What repeating a stage needs: its values, generator states and schedulers as they were before it.

A stage that failed half-way has advanced generators and schedulers (a denoising loop repeated without both raises
IndexError). Values are kept by reference: stages hand on new tensors and do not write into those they read. Generators
and schedulers are found by what they look like, among values and components alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reslab.stages._values import Values


class Attempt:
    """The call that runs a stage; each call after the first starts again from where the first did."""

    def __init__(self, call: Callable[[Values], None], values: Values, components: Mapping[str, Any]) -> None:
        self._call, self._values = call, values
        self._restore = keep(values, components)
        self._tried = False

    def __call__(self) -> None:
        if self._tried:
            self._restore()
        self._tried = True
        self._call(self._values)


def keep(values: Values, components: Mapping[str, Any]) -> Callable[[], None]:
    """Keep the state that a stage advances, and return what puts it back."""
    kept = values.copy()
    objects = [*flat(values.values()), *components.values()]
    generators = [(each, each.get_state()) for each in objects if _is_generator(each)]
    schedulers = [(each, dict(vars(each))) for each in objects if _is_scheduler(each)]

    def restore() -> None:
        values.restore(kept)
        for generator, state in generators:
            generator.set_state(state)
        for scheduler, state in schedulers:
            vars(scheduler).clear()
            vars(scheduler).update(state)

    return restore


def flat(values: Iterable[Any]) -> Iterable[Any]:
    """Values with the members of lists and tuples beside them: a request may hold a list of generators."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        yield value


def _is_generator(value: Any) -> bool:
    return hasattr(value, "get_state") and hasattr(value, "set_state") and hasattr(value, "manual_seed")


def _is_scheduler(value: Any) -> bool:
    return hasattr(value, "set_timesteps") and hasattr(value, "step")
