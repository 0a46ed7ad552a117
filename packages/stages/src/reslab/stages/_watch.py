"""Watch component calls, denoising steps and guidance passes for the duration of a run.

Bound methods are shadowed by instance attributes and restored exactly: `forward`, `encode` and `decode` of each
component that is a module, `forward` of the modules inside it that have weights (`_parts`), `cache_context` of
components that have one (its argument names the guidance pass), and `loop_step` of each loop block. Signatures stay,
because the LTX-2 denoiser reads `inspect.signature(transformer.forward)`. Schedulers are never wrapped: they are
deep-copied, and the copy would carry a wrapper bound to the original. No code of diffusers is repeated.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from reslab.stages._events import Conductor, Kind, Observers
from reslab.stages._parts import Parts, parts_with_weights
from reslab.stages._roles import is_module
from reslab.stages._section_finder import SectionFinder
from reslab.stages._stage import Stage

METHODS = ("forward", "encode", "decode")
_ABSENT = object()


@contextmanager
def shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set the attribute `name` of `owner` to `value` within the block, then restore it exactly, even to its absence.

    >>> from types import SimpleNamespace
    >>> owner = SimpleNamespace(paused=False)
    >>> with shadowed(owner, "paused", True), shadowed(owner, "forward", print):
    ...     owner.paused, "forward" in vars(owner)
    (True, True)
    >>> owner
    namespace(paused=False)
    """
    before = owner.__dict__.get(name, _ABSENT)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if before is _ABSENT:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before


class Watch:
    """Wraps components and loops during a run, so that observers get their calls, steps and passes.

    Args:
        observers: The observers that get the events.
        conductor: The conductor to call around component calls, if any.
        components: The pipeline's components by name.
        names_in_use: A function that returns the component names of the running stage, for objects of several names.
        sections: The finder of the sections of a stock pipeline, if there is one.
    """

    def __init__(
        self,
        observers: Observers,
        conductor: Conductor | None,
        components: Mapping[str, Any],
        names_in_use: Callable[[], Sequence[str]],
        sections: SectionFinder | None = None,
    ) -> None:
        self._observers, self._conductor = observers, conductor
        self._components, self._names_in_use, self._sections = components, names_in_use, sections
        self._pass = 0

    @contextmanager
    def run(self, stages: Sequence[Stage]) -> Iterator[None]:
        """Wrap components and loops within the block."""
        with ExitStack() as stack:
            for owner, names, inside in self._modules():
                parts = Parts(inside, functools.partial(self._part_call, names))
                stack.enter_context(parts.seen())
                for method in METHODS:
                    if callable(getattr(owner, method, None)):
                        call = self._component_call(owner, names, method, parts)
                        stack.enter_context(shadowed(owner, method, call))
                if callable(getattr(owner, "cache_context", None)):
                    stack.enter_context(shadowed(owner, "cache_context", self._cache_context(owner)))
            for loop in {id(loop): loop for stage in stages for loop in stage.watched()}.values():
                stack.enter_context(shadowed(loop, "loop_step", self._loop_step(loop.loop_step)))
            yield

    def _modules(self) -> list[tuple[Any, list[str], dict[str, Any]]]:
        """Return each module with its names and its parts; what lies in two components is a part of the smaller."""
        names: dict[int, list[str]] = {}
        for name, component in self._components.items():
            if is_module(component):
                names.setdefault(id(component), []).append(name)
        found = [(self._components[same[0]], same) for same in names.values()]
        inside = {id(owner): parts_with_weights(owner) for owner, _names in found}
        owner_of = {
            id(part): key
            for key, parts in sorted(inside.items(), key=lambda each: -len(each[1]))
            for part in parts.values()
        }
        return [
            (
                owner,
                same,
                {
                    path: part
                    for path, part in inside[id(owner)].items()
                    if owner_of[id(part)] == id(owner) and id(part) not in names
                },
            )
            for owner, same in found
        ]

    def _component_call(self, owner: Any, names: list[str], method: str, parts: Parts) -> Callable[..., Any]:
        original = getattr(owner, method)
        watched = self._watched_call(names, method, original)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not parts:
                return watched(*args, **kwargs)
            with parts.unseen():
                return watched(*args, **kwargs)

        return call if self._sections is None else self._sections.around(owner, names[0], method, call)

    def _part_call(self, names: list[str], path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        call = self._watched_call(names, path, forward)
        return call if self._sections is None else self._sections.around_part(names[0], call)

    def _watched_call(self, names: list[str], method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        called, conductor, observers = self._names_of_call(names, method), self._conductor, self._observers

        def call(*args: Any, **kwargs: Any) -> Any:
            component, text = called()
            observers.begin(Kind.COMPONENT, text)
            try:
                if conductor is None:
                    result = original(*args, **kwargs)
                else:
                    result = conductor.component_call(component, method, lambda: original(*args, **kwargs))
            except BaseException as error:
                observers.end(error)
                raise
            observers.end()
            return result

        return call

    def _names_of_call(self, names: list[str], method: str) -> Callable[[], tuple[str, str]]:
        """Return a function that gives the component's name and the event's name, by the running stage."""
        texts = {name: (name, sys.intern(f"{name}.{method}")) for name in names}
        if len(names) == 1:
            only = texts[names[0]]
            return lambda: only
        return lambda: texts[next((name for name in self._names_in_use() if name in texts), names[0])]

    def _cache_context(self, owner: Any) -> Callable[[str], Any]:
        original = owner.cache_context

        @contextmanager
        def entered(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
            self._observers.begin(Kind.PASS, sys.intern(name), self._pass)
            self._pass += 1
            try:
                with original(name, *args, **kwargs):
                    yield
            except BaseException as error:
                self._observers.end(error)
                raise
            self._observers.end()

        watched = functools.wraps(original)(entered)
        return watched if self._sections is None else self._sections.entering(original, watched)

    def _loop_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            if "i" not in kwargs:  # a loop over chunks or segments of a video, not over denoising steps
                return original(*args, **kwargs)
            self._pass = 0
            self._observers.begin(Kind.STEP, "step", kwargs["i"])
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                self._observers.end(error)
                raise
            self._observers.end()
            return result

        return step
