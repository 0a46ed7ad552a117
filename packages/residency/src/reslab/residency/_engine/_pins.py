"""Pinning: how much of what moves is pinned, as `footprint` accounts for it, and what happens where the system refuses.

What is pinned is copied to an accelerator at the full speed of the link. A system may let a process pin less than that,
or nothing: under WSL2, under a limit of locked memory. What is left waits in pageable memory, and a note says so.

    pins.share(footprint(plan, workload), units)     # whenever another plan, or another run, comes into force
    HostBuffer(layout, pin=pins.of(unit))
    pins.top_up(unit)                           # of what has host memory already
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._engine._buffers import Pin, Source
from reslab.residency._engine._unit import Unit
from reslab.residency._plan._footprint import Footprint, HostBytes
from reslab.residency._units import size_text

_SLOWER = "is copied from pageable memory, which is slower"


@runtime_checkable
class Pinnable(Protocol):
    """A source that is host memory, all or part of which can be pinned."""

    host_bytes: int

    @property
    def pinned_bytes(self) -> int:
        """Return how much of it is pinned."""

    def pin(self, pin: Pin) -> None:
        """Pin it anew, as much of it as it may now."""


class Pins:
    """Shares out what may be pinned.

    Args:
        device: Where it is copied to.
        is_used: Whether anything is pinned at all.
        pinnable_bytes: How much may be; None for all.
        note: Says what is left pageable.
    """

    def __init__(
        self, device: torch.device, *, is_used: bool, pinnable_bytes: int | None, note: Callable[[str], None]
    ) -> None:
        self._device, self._is_used, self._pinnable_bytes, self._note = device, is_used, pinnable_bytes, note
        self._planned: Mapping[str, int] = {}
        self._pinned: Counter[str] = Counter()  # by component, of its weights: the gaps between them do not count
        self._window_bytes = 0
        self._is_refused = self._is_noted = False

    def share(self, account: Footprint, units: Sequence[Unit]) -> None:
        """Share out what may be pinned among what moves; what is pinned beyond its share is unpinned."""
        if not self._is_used:
            return
        host = account.host(pinnable_bytes=self._pinnable_bytes)
        self._planned = host.pinned
        for unit in units:
            if unit.shared.source is not None and unit.source.pinned_bytes and self._left(unit.component) < 0:
                _unpin(unit.source, units)
        self._window_bytes = host.pinned_window_bytes
        self._say(host)

    def of(self, unit: Unit) -> Pin | None:
        """Return what pins the memory of a unit, None where it is pageable."""
        if self._is_refused or self._left(unit.component) <= 0:
            return None
        return partial(self._pin, unit.component, unit.nbytes)

    def top_up(self, unit: Unit) -> None:
        """Pin what may be pinned, and is not, of the host memory in which a unit waits."""
        source, pin = unit.source, self.of(unit)
        if pin is not None and isinstance(source, Pinnable) and source.pinned_bytes < source.host_bytes:
            source.pin(pin)

    def window(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin the window, if it is to be pinned."""
        if not self._window_bytes:
            return 0, None
        pinned, unpin = self._try(memory)
        self._pinned[""] += pinned  # of no component
        return pinned, unpin

    def _pin(self, component: str, nbytes: int, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin as much of a unit's memory as its component has left."""
        left = self._left(component)
        pinned, unpin = self._try(memory if nbytes <= left else memory[:left])
        weights = min(pinned, nbytes)
        self._pinned[component] += weights

        def undo() -> None:
            assert unpin is not None
            unpin()
            self._pinned[component] -= weights

        return pinned, undo if unpin is not None else None

    def _left(self, component: str) -> int:
        """Return what of a component may still be pinned; below 0, what is pinned beyond its share."""
        return self._planned.get(component, 0) - self._pinned[component]

    def _try(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        pin = None if self._is_refused else _accelerator.pinner(self._device)
        if pin is None:
            return 0, None
        try:
            unpin = pin(memory)
        except RuntimeError as error:
            self._is_refused = True
            reason = str(error).splitlines()[0]
            self._note(
                f"the system refused to pin {size_text(memory.nbytes)} of host memory beside "
                f"{size_text(self._pinned.total())} ({reason}), so the rest of what moves {_SLOWER}"
            )
            return 0, None
        return memory.nbytes, unpin

    def _say(self, host: HostBytes) -> None:
        """Say once how much is planned to be pageable."""
        if not self._is_noted and host.pinned_bytes < host.nbytes:
            self._is_noted = True
            self._note(
                f"{size_text(host.pinned_bytes)} of the {size_text(host.nbytes)} of host memory that moves can be "
                f"pinned, what moves most often first; the rest {_SLOWER}"
            )


def _unpin(source: Source, units: Sequence[Unit]) -> None:
    """Unpin a source, once no copy from it is under way."""
    for unit in units:
        if unit.shared.source is source and unit.ticket is not None:
            unit.ticket.settle()
    source.close()
