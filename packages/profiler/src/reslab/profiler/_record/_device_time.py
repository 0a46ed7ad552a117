"""Convert points in a device's queues to times on the host's clock, once, after recording.

The device and the host have clocks of their own. Recording starts with the device idle, so a point marked there is
reached at that moment of the host's clock: the base. From the base, the times of a lane are a chain: each point's time
is the time of the point before plus the distance between them. A chain keeps whole nanoseconds over hours, where one
distance from the base would not (torch returns float32 milliseconds). A chain only goes forward, so a span inside
another on the host lies inside it on the device, too.

    base = TimeBase.of(device, clock)
    ...                              # points are recorded into the logs
    resolve(logs, device, base)      # waits for the device, once
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from reslab.profiler._record._instruments import Clock, DeviceTimer
from reslab.profiler._record._record import DEVICE, WIDTH, Log


class Reached(NamedTuple):
    """When a lane got to a point, in nanoseconds of the host's clock."""

    lane: str
    at_ns: int


class TimeBase(NamedTuple):
    """A point of an idle device, and the host's clock when it was marked."""

    mark: Any
    at_ns: int

    @classmethod
    def of(cls, device: DeviceTimer, clock: Clock) -> Self:
        """Wait for the device and mark a point."""
        device.synchronize()
        return cls(device.record(), clock())


def resolve(logs: Iterable[Log], device: DeviceTimer, base: TimeBase) -> None:
    """Wait for the device, then replace every point in the logs by when it was reached."""
    device.synchronize()
    for log in logs:
        before: dict[str, TimeBase] = {}  # by lane
        for place, head in enumerate(log[::WIDTH]):
            mark = log[place * WIDTH + 1]
            if head is DEVICE and not isinstance(mark, Reached):
                lane = device.lane_of(mark)
                last = before.get(lane, base)
                before[lane] = TimeBase(mark, last.at_ns + device.elapsed_ns(last.mark, mark))
                log[place * WIDTH + 1] = Reached(lane, before[lane].at_ns)
