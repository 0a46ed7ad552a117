"""A component that the plan does not move, and that could not be moved: compiled, cast, quantised, or moved by others.

It stays as it is. On an accelerator it is brought there whole by its own `to` before the first stage, and goes back at
the end. Nothing is hooked, so what was compiled, graphed or hooked into it goes on as before.

    kept = Kept("transformer", module, device=device, watcher=watcher, why="is compiled by torch.compile")
    kept.bring()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from reslab.residency._engine._buffers import Layout
from reslab.residency._engine._component import Component, Watcher
from reslab.residency._engine._errors import ResidencyError
from reslab.residency._engine._movable import is_moved_by_others
from reslab.residency._engine._unit import Shared, Sources, Unit, Where
from reslab.residency._plan._keep import OUTSIDE


class KeptUnit(Unit):
    """All of a component that is kept, in one piece, which is always there.

    Args:
        component: Its name.
        nbytes: What its weights take.
        device: Where it computes.
    """

    def __init__(self, component: str, nbytes: int, device: torch.device) -> None:
        super().__init__(component, OUTSIDE, Layout((), nbytes, nbytes), Shared(), device, where=Where.DEVICE)

    @property
    def held_bytes(self) -> int:
        """Return the bytes that it takes on the device."""
        return self.nbytes

    def _point(self) -> None:
        """Do nothing: its parameters are never changed."""

    def renew(self, sources: Sources) -> None:
        """Do nothing: it waits nowhere."""

    def leave(self, sources: Sources) -> None:
        """Do nothing: it stays."""

    def put_back(self) -> None:
        """Do nothing: it was never taken."""


class Kept(Component):
    """One module of a pipeline that stays as it is.

    Args:
        name: In the pipeline.
        module: The module itself.
        device: Where it computes.
        watcher: As of other components; never asked.
        why: What keeps it from being moved, as the end of a sentence about it.
    """

    is_kept = True

    def __init__(self, name: str, module: torch.nn.Module, *, device: torch.device, watcher: Watcher, why: str) -> None:
        super().__init__(name, module, device=device, watcher=watcher, blocks=())
        self.why = why
        self.units = {OUTSIDE: KeptUnit(name, stored_bytes(module), device)}
        self._home: torch.device | None = None

    def refresh(self, put_back: Callable[[Iterable[Unit]], None], shared: dict[object, Shared]) -> bool:
        """Do nothing: what it consists of does not matter."""
        return False

    def bring(self) -> None:
        """Have it on the device, if it is not there; what moves it itself sees to that.

        Raises:
            ResidencyError: If it cannot be moved.
        """
        first = next(self.module.parameters(), None)
        if first is None or _is_on(first.device, self._device) or _moves_itself(self.module):
            return
        self._move(self._device)
        self._home = first.device if first.device.type != "meta" else None

    def close(self) -> None:
        """Have it where it was before."""
        if self._home is not None:
            self._move(self._home)
            self._home = None

    def _move(self, device: torch.device) -> None:
        try:
            self.module.to(device)
        except Exception as error:
            raise ResidencyError(
                f"{self.name!r} {self.why}, and could not be moved to {device} as a whole ({error}); have it there "
                "before applying the plan"
            ) from error


def stored_bytes(module: torch.nn.Module) -> int:
    """Return the bytes that the weights of a module take, of quantised ones what they really store."""
    return sum(tensor.nbytes for weight in module.parameters() for tensor in _stored(weight))


def _stored(weight: Any) -> Iterator[torch.Tensor]:
    if hasattr(type(weight), "__tensor_flatten__"):
        names, _context = weight.__tensor_flatten__()
        for name in names:
            yield from _stored(getattr(weight, name))
        return
    yield weight
    state = getattr(weight, "quant_state", None)  # of bitsandbytes, beside the packed weight
    if state is not None and hasattr(state, "as_dict"):
        yield from (each for each in state.as_dict().values() if isinstance(each, torch.Tensor))


def _is_on(place: torch.device, device: torch.device) -> bool:
    return place.type == device.type and device.index in (None, place.index)


def _moves_itself(module: torch.nn.Module) -> bool:
    return any(is_moved_by_others(part) for part in module.modules())
