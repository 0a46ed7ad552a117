"""Copy lanes: they make copies to the device, one after the other, beside the compute.

On a CPU a lane is a thread, on an accelerator a stream (`_accelerator`). `issue` returns a ticket at once; code that
needs the copy waits for the ticket. The lane tells observers of each copy when it begins and ends.

    lane = ThreadLane()
    ticket = lane.issue(Copy(name="vae@decode", nbytes=4096, parts=((target, source),), tell=pipeline.tell))
    ticket.wait()

`LinkThrottle` makes each copy take as long as over a slower link, so that a trade-off shows on any machine:

    apply(pipeline, plan, link="1 GB/s")                  # a bandwidth
    apply(pipeline, plan, link=like(card, rehearsal))     # a card's ratio of copying to computing

`like` takes the ratio from a rehearsal of the request on the card. The time of computing on this machine comes from the
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
from reslab.residency._engine._layout import CopyPart, copy_on_host
from reslab.residency._units import LEAST_BARE_RATE, LinkRatio, parse_rate
from reslab.stages import Kind, Observer

_LOOK_AGAIN_S = 0.1  # polling time, for a notice that an interrupt has swallowed
_END_WITHIN_S = 10.0  # time to wait for a thread's end; a longer copy ends by itself


class Copy(NamedTuple):
    """One copy to the device, of one unit or of several units of a component.

    Attributes:
        name: The transfer's name, as in `reslab.stages.Observer`.
        nbytes: Bytes of the weights.
        parts: Pairs of a target on the device and the part to copy there.
        tell: The observer to tell.
        copied: Called with each part once it has been copied, by lanes that know when that is.
    """

    name: str
    nbytes: int
    parts: tuple[tuple[torch.Tensor, CopyPart], ...]
    tell: Observer
    copied: Callable[[CopyPart], None] = lambda part: None


class Ticket(Protocol):
    """An issued copy."""

    def done(self) -> bool:
        """Tell whether the copy has been made."""

    def wait(self) -> None:
        """Wait until the copy has been made; raises the copy's error."""

    def is_lost(self) -> bool:
        """Tell whether the copy was abandoned, or failed."""

    def abandon(self) -> None:
        """Return when nothing will write into the targets any more, whether the copy was made or not."""

    def settle(self) -> None:
        """Return when nothing will write into the targets any more, with the copy made unless it failed."""


class CopyLane(Protocol):
    """Makes copies in the order in which they were issued."""

    def issue(self, copy: Copy) -> Ticket:
        """Issue a copy."""

    def drain(self) -> None:
        """Drop copies that have not begun, and wait for the one under way."""

    def close(self) -> None:
        """Drain the lane and release its thread or stream."""


class Throttle(Protocol):
    """Makes a lane as slow as a link."""

    def hold(self, nbytes: int, issued_s: float) -> None:
        """Return at the time when the link would have made a copy of that size, issued at that `time.perf_counter`."""


class _Job:
    """A copy handed to the thread, and its outcome.

    An interrupt may come at any line of the thread that waits. So the threads share queues written in C, whose calls
    happen as a whole or not at all; a `Condition`, as futures have it, could stay locked.
    """

    def __init__(self, copy: Copy, issued_s: float) -> None:
        self.finished, self.lost = False, False
        self._copy: Copy | None = copy
        self._issued_s = issued_s
        self._error: BaseException | None = None
        self._claim: SimpleQueue[None] = SimpleQueue()  # the thread that takes its item makes or abandons the copy
        self._claim.put(None)
        self._news: SimpleQueue[None] = SimpleQueue()

    def done(self) -> bool:
        return self.finished

    def wait(self) -> None:
        self.settle()
        if self._error is not None:
            raise self._error
        if self.lost:
            raise RuntimeError("this copy was abandoned before it was made")

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
        """Make the copy in the lane's thread, unless it was abandoned."""
        if self._claimed():
            assert self._copy is not None
            try:
                make(self._copy, self._issued_s)
            except BaseException as error:
                self._error = error
        else:
            self.lost = True
        self._copy = None  # it keeps its targets alive
        self.finished = True
        self._news.put(None)

    def _claimed(self) -> bool:
        try:
            self._claim.get_nowait()
        except Empty:
            return False
        return True


class ThreadLane:
    """A lane that copies in a thread.

    Args:
        copy: Copies bytes (target, source) and returns when that is done.
        throttle: Makes the lane as slow as a link; None for full speed.
        clock: Returns seconds of the throttle's clock.
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
        """Drop waiting copies, and wait for the one under way."""
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
        """Start a thread, and return the finalizer that ends it with the lane, or with Python."""
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
    """Make copies until None comes."""
    while (job := jobs.get()) is not None:
        job.run(make)
        del job  # it would live on while the thread waits for the next
    ended.put(None)


def _end(jobs: SimpleQueue[_Job | None], ended: SimpleQueue[None]) -> None:
    """End a thread, and wait until it has."""
    jobs.put(None)
    with suppress(Empty):
        ended.get(timeout=_END_WITHIN_S)


class LinkThrottle:
    """Holds a lane to a bandwidth: consecutive copies together take exactly the time of their bytes.

    Args:
        link: A bandwidth, or a ratio from which `learn` computes one; None for no limit.
        clock: Returns seconds.
        sleep: Sleeps that many seconds.

    Raises:
        ValueError: For a value that is no bandwidth, for 0, or for a bare number below 1 MB/s.
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
        """Tell whether copies are held to a bandwidth, now or after the first run."""
        return self.ratio is not None or self.bytes_per_s is not None

    def learn(self, *, copied_bytes: int, compute_s: float) -> None:
        """Compute the bandwidth from a run's bytes and time of computing, if the link is a ratio and has none yet."""
        if self.ratio is not None and self.bytes_per_s is None and compute_s > 0:
            self.bytes_per_s = self.ratio.rate(copied_bytes=copied_bytes, compute_s=compute_s)

    def hold(self, nbytes: int, issued_s: float) -> None:
        """Sleep until the link would have made a copy of that size, issued at that time."""
        if self.bytes_per_s is None:
            return
        self._free_s = max(self._free_s, issued_s) + nbytes / self.bytes_per_s
        if (left := self._free_s - self._clock()) > 0:
            self._sleep(left)
