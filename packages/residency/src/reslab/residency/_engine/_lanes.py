"""Copy lanes: where copies to the device are made, one after the other, beside the compute.

On a CPU a lane is a thread, on an accelerator a stream (`_accelerator`). A copy is issued and answered at once by a
ticket; what needs the copy waits for the ticket. Each copy is told to the observers, where it happens and when.

    lane = ThreadLane()
    ticket = lane.issue(Copy(name="vae@decode", nbytes=4096, parts=((target, source),), tell=pipeline.tell))
    ticket.wait()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

import torch

from reslab.residency._engine._buffers import Part, copy_on_host
from reslab.stages import Kind, Observer


class Copy(NamedTuple):
    """One copy to the device; several units in one piece where a component moves whole.

    `name` is as `reslab.stages.Observer` has it for transfers, `nbytes` the weights' bytes.
    """

    name: str
    nbytes: int
    parts: tuple[tuple[torch.Tensor, Part], ...]
    tell: Observer


class Ticket(Protocol):
    """A copy that was issued."""

    def done(self) -> bool:
        """Tell whether the copy has been made."""

    def wait(self) -> None:
        """Go on when it has been made; raises what the copy raised."""

    def is_lost(self) -> bool:
        """Tell whether the copy was given up, or failed."""

    def abandon(self) -> None:
        """Have nothing write into the targets from now on, whether the copy was made or not."""

    def settle(self) -> None:
        """Have nothing write into the targets from now on, the copy made unless it fails."""


class CopyLane(Protocol):
    """Makes copies in the order in which they were issued."""

    def issue(self, copy: Copy) -> Ticket:
        """Issue a copy."""

    def drain(self) -> None:
        """Drop what has not begun, and go on when nothing is under way."""

    def close(self) -> None:
        """Drain the lane and give back what it holds."""


class Throttle(Protocol):
    """Makes a lane as slow as a link."""

    def hold(self, nbytes: int, issued_s: float) -> None:
        """Return when a copy of that size, issued at that time of `time.perf_counter`, would have been made."""


class _ThreadTicket:
    """A copy that a thread makes."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def wait(self) -> None:
        self._future.result()

    def is_lost(self) -> bool:
        return self._future.cancelled() or (self._future.done() and self._future.exception() is not None)

    def abandon(self) -> None:
        self._future.cancel()
        self.settle()

    def settle(self) -> None:
        wait([self._future])


class ThreadLane:
    """A lane that is a thread.

    Args:
        copy: Copies bytes (target, source) and returns when that is done.
        throttle: Makes the lane as slow as a link; None leaves it as fast as it is.
        clock: Returns seconds, of the throttle's clock.
    """

    def __init__(
        self,
        *,
        copy: Callable[[torch.Tensor, torch.Tensor], None] = copy_on_host,
        throttle: Throttle | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._copy, self._throttle, self._clock = copy, throttle, clock
        self._thread: ThreadPoolExecutor | None = None
        self._issued: deque[Future[None]] = deque()

    def issue(self, copy: Copy) -> Ticket:
        """Hand a copy to the thread."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reslab-copy")
        while self._issued and self._issued[0].done():
            self._issued.popleft()
        future = self._thread.submit(self._make, copy, self._clock())
        self._issued.append(future)
        return _ThreadTicket(future)

    def drain(self) -> None:
        """Drop what waits, and wait for the copy that is under way."""
        for future in self._issued:
            future.cancel()
        wait(self._issued)
        self._issued.clear()

    def close(self) -> None:
        """Drain the lane and end its thread."""
        self.drain()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _make(self, copy: Copy, issued_s: float) -> None:
        copy.tell.begin(Kind.TRANSFER, copy.name, nbytes=copy.nbytes)
        try:
            for target, source in copy.parts:
                self._copy(target, source.staged())
            if self._throttle is not None:
                self._throttle.hold(copy.nbytes, issued_s)
        except BaseException as error:
            copy.tell.end(error)
            raise
        copy.tell.end()
