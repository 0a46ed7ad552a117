"""What a pipeline tells while it runs, and who may act on it.

Two seams. An `Observer` is told and never alters the run; a `Conductor` acts: it is called around every stage and every
component call and decides when, and whether again, the call is made. Both are plain calls with interned strings and
integers: an event object would cost four times the call.

    class Printer:
        def begin(self, kind, name, index=-1, nbytes=0): print("begin", kind, name)
        def end(self, error=None): print("end")

    with pipeline.observe(Printer()):
        pipeline.run(prompt="a heron over a weir")

Events nest like brackets on each thread, also when a stage raises. Read on in `_calls` for where they are told.
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
    """What an event is about; each member carries its sentence in `doc`.

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
    """Is told what happens; may not raise, change values or take long."""

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        """Be told that something begins.

        Args:
            kind: A `Kind`.
            name: For a run the pipeline's name; for a stage its registered name; for a step "step"; for a guidance pass
                its cache context; for a component call "component.method", where the method of a module inside is
                its path ("text_encoder.model.layers.3"); for a transfer "component" or
                "component/block", and "@" with the registered name of the stage that it serves, if that is not the
                one under way ("refiner/7@refine"); for a wait what is waited for, in the same form.
            index: The stage's place, the step's number, the pass's number within its step; -1 where there is none.
            nbytes: Bytes moved by a transfer, else 0.
        """

    def end(self, error: BaseException | None = None) -> None:
        """Be told that the innermost thing begun on this thread has ended, with the error it raised, if any."""


class Conductor(Protocol):
    """Acts around stages and component calls; a pipeline has at most one."""

    #: Where blocks create their tensors (a `torch.device`), or None to leave it to the pipeline.
    execution_device: Any
    #: Whether `stage` may make its call a second time; then the pipeline keeps what a repetition needs.
    may_retry: bool

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        """Make the call that runs `stage`; a second call first restores values, generators and schedulers."""

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        """Make the call of a stock pipeline, whose sections are stages; a second call begins again from the first."""

    def section(self, stage: Section) -> AbstractContextManager[None]:
        """Act around a section of such a call, which cannot be made again by itself."""

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        """Make the call of a component's method and return its result."""


class Subscription:
    """What `observe` and `conduct` return: ends on `close()` or when its `with` block is left."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close

    def close(self) -> None:
        """Stop; closing twice does nothing more."""
        self._close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Tell:
    """Passes each event on to every observer; one that raises is logged once and told no more."""

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
        logger.exception(
            "%s raised while being told of an event; it is told no more in this run", type(observer).__name__
        )
        self.observers = tuple(other for other in self.observers if other is not observer)
