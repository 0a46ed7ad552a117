"""A slower link, so that a trade-off can be felt on any machine: each copy takes as long as that link would.

    apply(pipeline, plan, link="1 GB/s")                  # a bandwidth
    apply(pipeline, plan, link=like(card, rehearsal))     # a card's ratio of copying to computing

`like` takes the ratio from a rehearsal of what the card would run; the time that computing takes here comes from the
first run, which copies unthrottled.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reslab.residency._plan._ratio import Ratio
from reslab.residency._units import LEAST_BARE_RATE, parse_rate


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
        link: str | int | Ratio | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ratio = link if isinstance(link, Ratio) else None
        self.bytes_per_s: float | None = None if link is None or isinstance(link, Ratio) else parse_rate(link)
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
