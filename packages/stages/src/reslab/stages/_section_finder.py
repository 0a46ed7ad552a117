"""Find the sections of a stock pipeline's call while it runs, and the steps in them, from the component calls alone.

Before each outermost component call, the finder decides what ends and what begins. All other work of the call,
schedulers and latents among it, belongs to the open section. The first section begins with the first component call.

    component call                                                section          step
    a component of the section's role                             continues        continues
    a denoiser, when a scheduler has stepped, or its timestep
        is another one: the section has called it before          continues        the next
        it has not (the next of two experts)                      the next         the next
    a denoiser that the section has not called, in the same step  continues        continues
    another component while the denoising loop is not over        continues        continues
    a component of another role                                   the next         ends
    a part of a component                                         goes on          goes on

Schedulers are read, never wrapped (they are deep-copied): a step is over when one of their counters moves. A guidance
pass begins with its first call, because only that call shows its step.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from reslab.stages._events import Conductor, Kind, Observers
from reslab.stages._registry import Registry
from reslab.stages._roles import Role, numbers, role_of, timestep_reader
from reslab.stages._stock import Section, StockStage

#: The attributes in which diffusers' schedulers count their steps.
_COUNTERS = ("_step_index", "counter")


class SectionFinder:
    """Finds the sections of a stock pipeline's calls, and opens each for observers and the conductor.

    Args:
        registry: The registry of the pipeline's stages, to which sections belong.
        components: The pipeline's components by name.
        observers: The observers that get the events.
        conductor: The conductor that acts around each section, if there is one.
    """

    def __init__(
        self, registry: Registry, components: Mapping[str, Any], observers: Observers, conductor: Conductor | None
    ) -> None:
        self._registry, self._components, self._observers, self._conductor = registry, components, observers, conductor
        self._stock: StockStage | None = None
        self._inside = False
        self._clear()

    def _clear(self) -> None:
        self._section: Section | None = None
        self._conducted: AbstractContextManager[None] | None = None
        self._counts: dict[str, int] = {}
        self._called: dict[str, None] = {}  # components called in the section
        self._step = self._pass = -1  # the numbers of the last step and pass
        self._in_step = self._in_pass = False
        self._waiting: str | None = None  # the guidance pass whose cache context is entered and that has made no call
        self._counters: tuple[Any, ...] = ()
        self._timesteps: dict[str, Any] = {}  # of the calls in this step

    @contextmanager
    def of(self, stock: StockStage) -> Iterator[None]:
        """Find the sections of the call made within the block."""
        self._clear()
        self._stock, self._inside = stock, False
        stock._touched = self._touch
        try:
            yield
            if not self._counts:  # without a component call, the whole call is the first section
                self._next(stock.sections()[0].role)
        except BaseException as error:
            self._end(error)
            raise
        else:
            self._end()
        finally:
            self._stock = stock._touched = None

    def around(self, owner: Any, name: str, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a component's call, with the decision on sections and steps before it."""
        role = role_of(name, owner, method)
        timestep = timestep_reader(owner)

        @functools.wraps(call)
        def bordered(*args: Any, **kwargs: Any) -> Any:
            if self._stock is None or self._inside:
                return call(*args, **kwargs)
            if role == Role.DENOISE:
                self._begin_denoising(name, timestep(args, kwargs))
            elif not self._is_looping():
                self._continue(role)
            with self._calling(name):
                return call(*args, **kwargs)

        return bordered

    def around_part(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a part's call: it belongs to the section under way, or begins one where there is none."""

        def bordered(*args: Any, **kwargs: Any) -> Any:
            if self._stock is None or self._inside:
                return call(*args, **kwargs)
            self._touch(name)
            with self._calling(name):
                return call(*args, **kwargs)

        return bordered

    @contextmanager
    def _calling(self, name: str) -> Iterator[None]:
        """Note a call of a component in its section; calls inside it decide on no sections."""
        self._note(name)
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def entering(self, original: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
        """Return a cache context whose guidance pass begins with its first call; `otherwise` serves other stages."""

        @contextmanager
        def entered(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
            if self._stock is None:
                with otherwise(name, *args, **kwargs):
                    yield
                return
            self._waiting = name
            try:
                with original(name, *args, **kwargs):
                    yield
            except BaseException as error:
                self._end_pass(error)
                raise
            finally:
                self._waiting = None
            self._end_pass()

        return functools.wraps(original)(entered)

    def _begin_denoising(self, name: str, timestep: Any) -> None:
        fresh = self._is_fresh(name, timestep)
        self._continue(Role.DENOISE)
        if fresh and self._called and name not in self._called:  # the next of two experts
            self._next(Role.DENOISE, steps=self._step)
        if fresh or not self._in_step:
            self._end_step()
            self._step += 1
            self._pass, self._in_step = -1, True
            self._observers.begin(Kind.STEP, "step", self._step)
            self._timesteps.clear()
        self._counters, self._timesteps[name] = self._read_counters(), self._number(timestep)
        if self._waiting is not None and not self._in_pass:
            self._pass, self._in_pass = self._pass + 1, True
            self._observers.begin(Kind.PASS, sys.intern(self._waiting), self._pass)

    def _is_fresh(self, name: str, timestep: Any) -> bool:
        """Tell whether a denoiser's call is the first of its step."""
        counters, number = self._read_counters(), self._number(timestep)
        if not self._in_step or counters != self._counters:
            return True
        if timestep is None:
            return name in self._timesteps
        if number is None:
            return False
        if not counters:  # then only a change of the timestep shows a new step, whichever denoiser is called
            return all(number != before for before in self._timesteps.values())
        return name in self._timesteps and self._timesteps[name] != number

    def _number(self, timestep: Any) -> Any:
        return numbers(timestep, whatever_device=not self._read_counters())

    def _read_counters(self) -> tuple[Any, ...]:
        """Return the step counters of the schedulers; reading them waits for no device."""
        return tuple(
            (place, name, value)
            for place, scheduler in enumerate(self._schedulers())
            for name, value in vars(scheduler).items()
            if name in _COUNTERS
        )

    def _schedulers(self) -> list[Any]:
        components = self._stock.pipe.components.values() if self._stock is not None else ()
        return [each for each in components if hasattr(each, "set_timesteps") and hasattr(each, "step")]

    def _is_looping(self) -> bool:
        """Tell whether the current denoising loop has steps left: some pipelines decode, or embed, inside it."""
        if not self._in_step or self._stock is None or getattr(self._stock.pipe, "interrupt", False):
            return False
        states = [(getattr(each, "step_index", None), each.timesteps) for each in self._schedulers()]
        return any(step is not None and 0 < step < len(timesteps) for step, timesteps in states)

    def _touch(self, name: str) -> None:
        if self._section is None and not self._inside:
            self._next(role_of(name, self._components[name], "forward"))
            self._note(name)

    def _continue(self, role: str) -> None:
        if self._section is None or self._section.role != role:
            self._next(role)

    def _note(self, name: str) -> None:
        assert self._section is not None
        self._called[name] = None
        if name not in self._section.used:
            self._section.used += (name,)

    def _next(self, role: str, *, steps: int = -1) -> None:
        before = self._section
        self._end()
        self._step = steps
        self._begin(role, self._count(role), after=before)

    def _count(self, role: str) -> int:
        self._counts[role] = self._counts.get(role, 0) + 1
        return self._counts[role]

    def _begin(self, role: str, number: int, *, after: Section | None = None) -> None:
        assert self._stock is not None
        section = self._stock.section(role, number, after=after)
        self._called.clear()
        self._registry.current = self._section = section
        self._observers.begin(Kind.STAGE, sys.intern(section.registered_name), self._registry.stages.index(section))
        if self._conductor is not None:
            self._conducted = self._conductor.section(section)
            try:
                self._conducted.__enter__()
            except BaseException as error:
                self._conducted, self._section = None, None
                self._observers.end(error)
                raise

    def _end(self, error: BaseException | None = None) -> None:
        """End the open section, with its open step and pass."""
        self._end_step(error)
        if self._section is None:
            return
        acting, self._conducted, self._section = self._conducted, None, None
        try:
            if acting is not None:
                acting.__exit__(
                    type(error) if error is not None else None, error, getattr(error, "__traceback__", None)
                )
        except BaseException as own:
            self._observers.end(own)
            raise
        self._observers.end(error)

    def _end_step(self, error: BaseException | None = None) -> None:
        self._end_pass(error)
        if self._in_step:
            self._in_step = False
            self._observers.end(error)

    def _end_pass(self, error: BaseException | None = None) -> None:
        if self._in_pass:
            self._in_pass = False
            self._observers.end(error)
