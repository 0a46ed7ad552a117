"""The events of a run, the observers that get them, and the conductor that acts on them.

An `Observer` gets events and never alters the run. A `Conductor` acts: it is called around every stage and every
component call, and decides when, and whether again, the call is made. Events are plain calls with interned strings and
integers, because an event object would cost four times the call.

    class Printer:
        def begin(self, kind, name, index=-1, nbytes=0): print("begin", kind, name)
        def end(self, error=None): print("end")

    with pipeline.observe(Printer()):
        pipeline.run(prompt="a heron over a weir")

Events nest like brackets on each thread, also when a stage raises. Read on in `_watch`, which makes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from reslab.stages._described import Described
from reslab.stages._stage import Stage
from reslab.stages._stock import Section, StockStage

logger = logging.getLogger(__name__)


class Kind(Described):
    """The kind of an event; each member carries its sentence in `doc`.

    >>> Kind.PASS.value, Kind.PASS.doc
    ('guidance pass', 'One forward made for guidance, named by its cache context.')
    """

    RUN = "run", "One run of a pipeline."
    STAGE = "stage", "One named step of a pipeline."
    STEP = "step", "One denoising step."
    PASS = "guidance pass", "One forward made for guidance, named by its cache context."
    COMPONENT = "component call", "One call of a component (forward, encode or decode) or of a module inside it."
    TRANSFER = "transfer", "Bytes copied between disk, host and device."
    WAIT = "wait", "Standing still until a transfer has arrived."


class Observer(Protocol):
    """Gets the events of runs; it may not raise, change values or take long."""

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Take the beginning of an event.

        Args:
            kind: A `Kind`.
            name: For a run the pipeline's name; for a stage its registered name; for a step "step"; for a guidance pass
                its cache context; for a component call "component.method", where the method of a module inside is
                its path ("text_encoder.model.layers.3"); for a transfer "component" or "component/block", followed by
                "@" and the registered name of the stage that it serves, if that is not the running one
                ("refiner/7@refine"); for a wait the awaited transfer, in the same form.
            index: The stage's place, the step's number, or the pass's number within its step; else -1.
            nbytes: The bytes that a transfer moves, else 0.
        """

    def end(self, error: BaseException | None = None) -> None:
        """Take the end of the innermost event of this thread, with the error that was raised in it, if any."""


class Conductor(Protocol):
    """Acts around stages and component calls; a pipeline has at most one."""

    #: The `torch.device` on which blocks create their tensors, or None to leave it to the pipeline.
    execution_device: Any
    #: Whether `stage` may make its call a second time; if so, the pipeline keeps the state that a repetition needs.
    may_retry: bool

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Make the call that runs `stage`; a second call first restores values, generators and schedulers."""

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        """Make the call of a stock pipeline, whose sections are stages; a second call starts again at the first."""

    def section(self, stage: Section) -> AbstractContextManager[None]:
        """Return a context around one section of such a call; a section cannot be repeated by itself."""

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Make the call of a component's method and return its result."""


class Subscription:
    """A subscription made by `observe` or `conduct`; it ends on `close()` or at the end of its `with` block."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close

    def close(self) -> None:
        """End the subscription; a second call does nothing."""
        self._close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Observers:
    """Passes each event on to every observer; an observer that raises is logged once and gets no more events."""

    __slots__ = ("observers",)

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self.observers = observers

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        for observer in self.observers:
            try:
                observer.begin(kind, name, index, nbytes)
            except Exception:
                self._drop(observer)

    def end(self, error: BaseException | None = None) -> None:
        for observer in self.observers:
            try:
                observer.end(error)
            except Exception:
                self._drop(observer)

    def _drop(self, observer: Observer) -> None:
        logger.exception("%s raised while it got an event; it gets no more events in this run", type(observer).__name__)
        self.observers = tuple(other for other in self.observers if other is not observer)
