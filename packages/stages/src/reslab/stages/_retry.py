"""Restore what a stage advances, so that it can be repeated: values, generator states and schedulers.

A stage that failed half-way has advanced generators and schedulers, and a denoising loop that is repeated without
restoring both raises IndexError. Values are kept by reference, because stages return new tensors and do not write into
those they read. Generators and schedulers are recognised by their methods, among values, values given to this stage
alone, and components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reslab.stages._stage import Binding
from reslab.stages._values import Values


class Attempt:
    """The call that runs a stage; each call after the first restores the state before the first."""

    def __init__(self, call: Callable[[Values], None], values: Values, bind: Binding) -> None:
        self._call, self._values = call, values
        self._restore = keep(values, bind.given, bind.pipeline.components)
        self._tried = False

    def __call__(self) -> None:
        if self._tried:
            self._restore()
        self._tried = True
        self._call(self._values)


def keep(values: Values, given: Mapping[str, Any], components: Mapping[str, Any]) -> Callable[[], None]:
    """Keep the state that a stage advances, and return a function that restores it."""
    kept = values.copy()
    objects = [*flat(values.values()), *flat(given.values()), *components.values()]
    generators = [(each, each.get_state()) for each in objects if _is_generator(each)]
    schedulers = [keep_attributes(each) for each in objects if _is_scheduler(each)]

    def restore() -> None:
        values.restore(kept)
        for generator, state in generators:
            generator.set_state(state)
        for put_back in schedulers:
            put_back()

    return restore


def keep_attributes(owner: Any) -> Callable[[], None]:
    """Keep the attributes of an instance, and return a function that restores them on every call.

    Lists are copied: multistep schedulers write their history into one.

    >>> from types import SimpleNamespace
    >>> scheduler = SimpleNamespace(step_index=0, history=[None])
    >>> put_back = keep_attributes(scheduler)
    >>> scheduler.step_index, scheduler.sigma, scheduler.history[0] = 1, 0.5, "latents"
    >>> put_back(); scheduler
    namespace(step_index=0, history=[None])
    """
    kept = _attributes(vars(owner))

    def put_back() -> None:
        vars(owner).clear()
        vars(owner).update(_attributes(kept))

    return put_back


def flat(values: Iterable[Any]) -> Iterable[Any]:
    """Yield values, and the members of lists and tuples among them: a request may hold a list of generators."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        yield value


def _attributes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy attributes, and the lists among them."""
    return {name: list(value) if type(value) is list else value for name, value in state.items()}


def _is_generator(value: Any) -> bool:
    return hasattr(value, "get_state") and hasattr(value, "set_state") and hasattr(value, "manual_seed")


def _is_scheduler(value: Any) -> bool:
    return hasattr(value, "set_timesteps") and hasattr(value, "step")
