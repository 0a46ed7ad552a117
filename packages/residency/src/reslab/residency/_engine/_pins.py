"""Pinning: how much of what moves is pinned, as `footprint` accounts for it, and what happens where the system refuses.

What is pinned is copied to an accelerator at the full speed of the link. A system may let a process pin less than that,
or nothing: under WSL2, under a limit of locked memory. What is left waits in pageable memory, and a note says so.

    pins.share(footprint(plan, workload), units)
    HostBuffer(layout, pin=pins.of(unit))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from reslab.residency._engine import _accelerator
from reslab.residency._engine._buffers import Pin
from reslab.residency._engine._unit import Unit
from reslab.residency._plan._footprint import Footprint, HostBytes
from reslab.residency._units import size_text

if TYPE_CHECKING:
    from reslab.residency._engine._setting import Setting

_SLOWER = "is copied from pageable memory, which is slower"


class Pins:
    """Shares out what may be pinned.

    Args:
        setting: The device, and how many bytes may be pinned.
        note: Says what is left pageable.
    """

    def __init__(self, setting: Setting, note: Callable[[str], None]) -> None:
        self._setting, self._note = setting, note
        self._left: dict[str, int] = {}
        self._window_bytes = self._pinned_bytes = 0
        self._is_refused = self._is_noted = False

    def share(self, account: Footprint, units: Sequence[Unit]) -> None:
        """Share out what may be pinned among what moves, less what is pinned already."""
        if not self._setting.pins:
            return
        host = account.host(pinnable_bytes=self._setting.budget.pinned_bytes)
        sources = {id(unit.shared.source): unit for unit in units if unit.shared.source is not None}
        self._left = dict(host.pinned)
        for unit in sources.values():
            if unit.component in self._left:
                self._left[unit.component] -= unit.source.pinned_bytes
        self._window_bytes = host.pinned_window_bytes
        self._say(host)

    def of(self, unit: Unit) -> Pin | None:
        """Return what pins the memory of a unit, None where it is pageable."""
        if self._left.get(unit.component, 0) <= 0:
            return None
        return partial(self._pin, unit.component, unit.nbytes)

    def window(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin the window, if it is to be pinned."""
        return self._try(memory) if self._window_bytes else (0, None)

    def _pin(self, component: str, nbytes: int, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        """Pin as much of a unit's memory as its component has left."""
        left = self._left[component]
        pinned, unpin = self._try(memory if nbytes <= left else memory[:left])
        self._left[component] -= pinned
        return pinned, unpin

    def _try(self, memory: torch.Tensor) -> tuple[int, Callable[[], None] | None]:
        pin = None if self._is_refused else _accelerator.pinner(self._setting.device)
        if pin is None:
            return 0, None
        try:
            unpin = pin(memory)
        except RuntimeError as error:
            self._is_refused = True
            reason = str(error).splitlines()[0]
            self._note(
                f"the system refused to pin {size_text(memory.nbytes)} of host memory beside "
                f"{size_text(self._pinned_bytes)} ({reason}), so the rest of what moves {_SLOWER}"
            )
            return 0, None
        self._pinned_bytes += memory.nbytes
        return memory.nbytes, unpin

    def _say(self, host: HostBytes) -> None:
        """Say once how much is planned to be pageable."""
        if not self._is_noted and host.pinned_bytes < host.nbytes:
            self._is_noted = True
            self._note(
                f"{size_text(host.pinned_bytes)} of the {size_text(host.nbytes)} of host memory that moves can be "
                f"pinned, what moves most often first; the rest {_SLOWER}"
            )
