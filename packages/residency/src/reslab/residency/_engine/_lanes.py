"""Copy lanes: where copies to the device are made, one after the other, beside the compute.

On a CPU a lane is a thread, on an accelerator a stream (`_accelerator`). A copy is issued and answered at once by a
ticket; what needs the copy waits for the ticket. Each copy is told to the observers, where it happens and when.

    lane = ThreadLane()
    ticket = lane.issue(Copy(name="vae@decode", nbytes=4096, parts=((target, source),), tell=pipeline.tell))
    ticket.wait()

A slower link, so that a trade-off can be felt on any machine: each copy takes as long as that link would.

    apply(pipeline, plan, link="1 GB/s")                  # a bandwidth
    apply(pipeline, plan, link=like(card, rehearsal))     # a card's ratio of copying to computing

`like` takes the ratio from a rehearsal of what the card would run; the time that computing takes here comes from the
first run, which copies unthrottled.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

import torch

from reslab.residency._engine._interrupts import masked
from reslab.residency._engine._layout import Part, copy_on_host
from reslab.residency._units import LEAST_BARE_RATE, LinkRatio, parse_rate
from reslab.stages import Kind, Observer

_LOOK_AGAIN_S = 0.1  # a notice that an interrupt has swallowed is made up for after that
_END_WITHIN_S = 10.0  # a thread that copies longer than that is left to end by itself


class Copy(NamedTuple):
    """One copy to the device; several units in one piece where a component moves whole.

    `name` is as `reslab.stages.Observer` has it for transfers, `nbytes` the weights' bytes. `copied` is called with
    each part as soon as nothing reads it any more, by lanes that know when that is.
    """

    name: str
    nbytes: int
    parts: tuple[tuple[torch.Tensor, Part], ...]
    tell: Observer
    copied: Callable[[Part], None] = lambda part: None


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


class _Job:
    """A copy handed to the thread, and what became of it.

    Interrupts may come at any line of the thread that waits, so what both threads share are queues of C, whose calls
    happen or do not: a `Condition`, as futures have it, can be left locked.
    """

    def __init__(self, copy: Copy, issued_s: float) -> None:
        self.finished, self.lost = False, False
        self._copy: Copy | None = copy
        self._issued_s = issued_s
        self._error: BaseException | None = None
        self._claim: SimpleQueue[None] = SimpleQueue()  # who takes what is in it decides: the copy is made, or given up
        self._claim.put(None)
        self._news: SimpleQueue[None] = SimpleQueue()

    def done(self) -> bool:
        return self.finished

    def wait(self) -> None:
        self.settle()
        if self._error is not None:
            raise self._error
        if self.lost:
            raise RuntimeError("this copy was given up before it was made")

    def is_lost(self) -> bool:
        return self.lost or self._error is not None

    def abandon(self) -> None:
        if self._claimed():
            self.lost = True
        else:
            self.settle()

    def settle(self) -> None:
        while not self.finished:
            with suppress(Empty):
                self._news.get(timeout=_LOOK_AGAIN_S)

    def run(self, make: Callable[[Copy, float], None]) -> None:
        """Make the copy in the lane's thread, unless it was given up."""
        if self._claimed():
            assert self._copy is not None
            try:
                make(self._copy, self._issued_s)
            except BaseException as error:
                self._error = error
        else:
            self.lost = True
        self._copy = None  # whose targets live as long as somebody has it
        self.finished = True
        self._news.put(None)

    def _claimed(self) -> bool:
        try:
            self._claim.get_nowait()
        except Empty:
            return False
        return True


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
        self._stop: weakref.finalize[Any, Any] | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._issued: deque[_Job] = deque()

    def issue(self, copy: Copy) -> Ticket:
        """Hand a copy to the thread."""
        job = _Job(copy, self._clock())
        while self._issued and self._issued[0].done():
            self._issued.popleft()
        with masked():
            if self._stop is None:
                self._stop = self._started()
            self._issued.append(job)
            self._jobs.put(job)
        return job

    def drain(self) -> None:
        """Drop what waits, and wait for the copy that is under way."""
        for job in self._issued:
            job.abandon()
        self._issued.clear()

    def close(self) -> None:
        """Drain the lane and end its thread."""
        self.drain()
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _started(self) -> weakref.finalize[Any, Any]:
        """Start a thread, and return what ends it: at the latest with the lane, or with Python."""
        jobs, ended = self._jobs, SimpleQueue[None]()
        make = partial(_make, self._copy, self._throttle)
        threading.Thread(target=_work, args=(jobs, ended, make), name="reslab-copy", daemon=True).start()
        return weakref.finalize(self, _end, jobs, ended)


def _make(
    copy_bytes: Callable[[torch.Tensor, torch.Tensor], None], throttle: Throttle | None, copy: Copy, issued_s: float
) -> None:
    copy.tell.begin(Kind.TRANSFER, copy.name, nbytes=copy.nbytes)
    try:
        for target, source in copy.parts:
            copy_bytes(target, source.staged())
            copy.copied(source)
        if throttle is not None:
            throttle.hold(copy.nbytes, issued_s)
    except BaseException as error:
        copy.tell.end(error)
        raise
    copy.tell.end()


def _work(jobs: SimpleQueue[_Job | None], ended: SimpleQueue[None], make: Callable[[Copy, float], None]) -> None:
    """Make copies until there is None."""
    while (job := jobs.get()) is not None:
        job.run(make)
        del job  # while this waits for the next
    ended.put(None)


def _end(jobs: SimpleQueue[_Job | None], ended: SimpleQueue[None]) -> None:
    """End a thread, and wait until it has."""
    jobs.put(None)
    with suppress(Empty):
        ended.get(timeout=_END_WITHIN_S)


class Link:
    """Holds a lane to a bandwidth: copies that follow each other take exactly their bytes' time together.

    Args:
        link: A bandwidth, or a ratio whose bandwidth `learn` will find; None for no limit.
        clock: Returns seconds.
        sleep: Sleeps that many seconds.

    Raises:
        ValueError: For what is no bandwidth, 0, or a bare number below 1 MB/s.
    """

    def __init__(
        self,
        link: str | int | LinkRatio | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ratio = link if isinstance(link, LinkRatio) else None
        self.bytes_per_s: float | None = None if link is None or isinstance(link, LinkRatio) else parse_rate(link)
        if self.bytes_per_s == 0:
            raise ValueError(f"link={link!r} would never finish a copy; name a bandwidth above 0, or leave link out")
        if isinstance(link, int) and link < LEAST_BARE_RATE:
            raise ValueError(f"link={link} is {link} bytes a second; did you mean '{link} GB/s'?")
        self._clock, self._sleep, self._free_s = clock, sleep, 0.0

    @property
    def is_limited(self) -> bool:
        """Tell whether copies are held to anything, now or later."""
        return self.ratio is not None or self.bytes_per_s is not None

    def learn(self, *, copied_bytes: int, compute_s: float) -> None:
        """Take the bandwidth from how long computing took here, if the link is a ratio and this is the first time."""
        if self.ratio is not None and self.bytes_per_s is None and compute_s > 0:
            self.bytes_per_s = self.ratio.rate(copied_bytes=copied_bytes, compute_s=compute_s)

    def hold(self, nbytes: int, issued_s: float) -> None:
        """Sleep until a copy of that size, issued at that time, would have come over the link."""
        if self.bytes_per_s is None:
            return
        self._free_s = max(self._free_s, issued_s) + nbytes / self.bytes_per_s
        if (left := self._free_s - self._clock()) > 0:
            self._sleep(left)
