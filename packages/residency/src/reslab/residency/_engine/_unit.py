"""Units of weights that move in one piece, and the state machine of a unit.

Every parameter of a component belongs to one unit: to that of its repeated block, or to that of all parameters outside
the blocks (a weight tied between two blocks among them). A unit is in one of the states of `Where`, and changes it by
the events of `Event` alone, each a method; `TABLE` lists the events allowed in each state, and the state that follows.
At the end of each event the parameters are pointed at the tensors of the new state, so `heal` completes an interrupted
event by pointing them once more.

    unit.adopt(sources)                          # UNTOUCHED to AWAY: its weights wait in a source
    unit.begin_fetch(target, ticket, slot)       # to ARRIVING
    unit.arrive(sources)                         # to DEVICE: now it can compute
    unit.leave(sources)                          # to AWAY
    unit.restore()                              # to UNTOUCHED
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Protocol

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from reslab.residency._engine import _guards
from reslab.residency._engine._guards import WriteMark, fits, mark_outdated, marks, written_places
from reslab.residency._engine._lanes import Ticket
from reslab.residency._engine._layout import BufferLayout, HostBuffer, Piece, Source, memory_key, views
from reslab.residency._engine._only_copy import OnlyCopy
from reslab.residency._schedule._kept_units import OUTSIDE
from reslab.stages.support import Described

#: Parameters that a residency left in one buffer with others, which lives as long as any of them.
_together: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Where(Described):
    """Places of a unit's weights."""

    UNTOUCHED = "untouched", "In the module, as before the residency: nothing has needed them yet."
    AWAY = "away", "In host memory or on disk; absent from the device."
    ARRIVING = "arriving", "Being copied to the device."
    DEVICE = "device", "On the device."


class Event(Described):
    """Transitions of a unit."""

    ADOPT = "adopt", "Move its weights to a source; no change where they are in one."
    SHARE = "share", "Take the source of other units with the same weights."
    RENEW = "renew", "Take the source that the plan in force asks for."
    BEGIN_FETCH = "begin fetch", "Take memory on the device, its own or a slot, while a copy to it is under way."
    ARRIVE = "arrive", "Point its parameters at the weights on the device."
    LEAVE = "leave", "Make its parameters absent, and release its memory or its slot."
    RESTORE = "restore", "Give its parameters their weights as before the residency."
    SHOW = "show", "Come to the front of the units with the same parameters, which then hold its weights."
    KEEP_WRITES = "keep writes", "Copy writes into its weights to its source."
    HEAL = "heal", "Complete an interrupted event: parameters and memory agree with its state."


_U, _A, _R, _D = Where.UNTOUCHED, Where.AWAY, Where.ARRIVING, Where.DEVICE
_STATES = (_U, _A, _R, _D)
_AFTER: Mapping[Event, tuple[Where | None, ...]] = {
    # before:          untouched  away  arriving  device
    Event.ADOPT:       (_A,       _A,   _R,       _D),
    Event.SHARE:       (_U,       None, None,     None),
    Event.RENEW:       (None,     _A,   None,     _D),
    Event.BEGIN_FETCH: (None,     _R,   None,     None),
    Event.ARRIVE:      (None,     None, _D,       None),
    Event.LEAVE:       (None,     None, _A,       _A),
    Event.RESTORE:    (_U,       _U,   None,     None),
    Event.SHOW:        (_U,       _A,   _R,       _D),
    Event.KEEP_WRITES: (_U,       _A,   _R,       _D),
    Event.HEAL:        (_U,       _A,   _R,       _D),
}  # fmt: skip
#: State after an event, by the state before; an event without an entry is a defect of the engine.
TABLE: Mapping[tuple[Where, Event], Where] = {
    (before, event): after
    for event, row in _AFTER.items()
    for before, after in zip(_STATES, row, strict=True)
    if after is not None
}


class SharedSource:
    """The source of a unit's weights, one for all units of the same memory; None until the first of them is adopted."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self.users = 0
        #: New memory of parameters beside the weights, by the key of their former memory.
        self.apart: dict[object, torch.Tensor] = {}


class SourceProvider(Protocol):
    """Provides the source of a unit's weights, by the plan in force."""

    def make(self, unit: Unit) -> Source:
        """Return a new source, with the unit's weights in it."""

    def renewed(self, unit: Unit) -> Source:
        """Return the source that the plan in force asks for: the present one, if it agrees."""

    def after_leaving(self, unit: Unit) -> Source:
        """Return the source of a unit that leaves the device."""


class Slot:
    """Memory on the device through which the blocks of a component stream; one of them owns it at a time.

    Args:
        number: Number among the component's slots.
        buffer: Its memory.
    """

    def __init__(self, number: int, buffer: torch.Tensor) -> None:
        self.number, self.buffer = number, buffer
        self.owner: Unit | None = None


class Front:
    """The one of two units with the same parameters whose weights the parameters hold.

    Args:
        base: The unit of the component itself; it is in front at first.
    """

    def __init__(self, base: Unit) -> None:
        self.base = self.unit = base


class Unit:
    """Weights of a component that move in one piece.

    Args:
        component: The component's name.
        number: The block's number, or `OUTSIDE`.
        layout: Layout of its parameters in one buffer.
        shared: Its source, which other units may share.
        device: The device that computes.
        where: The place of its weights.
    """

    #: Whether its weights are known; those of a merged copy are not until its LoRA has been on.
    is_known = True
    #: Whether writes into its weights are kept; a merged copy is made anew from other weights.
    keeps_writes = True

    def __init__(
        self,
        component: str,
        number: int,
        layout: BufferLayout,
        shared: SharedSource,
        device: torch.device,
        *,
        where: Where = Where.UNTOUCHED,
    ) -> None:
        self.component, self.number, self.layout, self._device = component, number, layout, device
        self.where = where
        self.buffer: torch.Tensor | None = None
        self.slot: Slot | None = None
        self.ticket: Ticket | None = None
        self.shared = shared
        shared.users += 1
        self.front: Front | None = None
        #: Parameters beside its own that are not managed: those that a LoRA to be merged adds.
        self.beside: tuple[torch.nn.Parameter, ...] = ()
        self._views: tuple[torch.Tensor, ...] = ()
        self._viewed: torch.Tensor | None = None
        self._marks: tuple[WriteMark, ...] = ()
        #: Number of writes into its weights that were kept.
        self.writes = 0
        #: Copies of its values that were known before, once it is restored without its source.
        self._known: tuple[torch.Tensor, ...] = ()
        self._homes = tuple(piece.parameter.device for piece in layout.pieces)
        self.by_parameter = {id(piece.parameter): place for place, piece in enumerate(layout.pieces)}

    @property
    def name(self) -> str:
        """Return its name in events and errors: "transformer/7", or "transformer" for the unit outside the blocks."""
        return self.component if self.number == OUTSIDE else f"{self.component}/{self.number}"

    @property
    def nbytes(self) -> int:
        """Return the bytes of its weights."""
        return self.layout.weight_bytes

    @property
    def source(self) -> Source:
        """Return the source of its weights."""
        assert self.shared.source is not None
        return self.shared.source

    @property
    def is_in_place(self) -> bool:
        """Tell whether its weights lie on the accelerator already, and stay where they are."""
        return isinstance(self.shared.source, OnlyCopy) and self.shared.source.is_in_place

    @property
    def held_bytes(self) -> int:
        """Return the bytes that it takes on the device, its slot included."""
        if self.buffer is None:
            return 0
        return self.layout.weight_bytes if self.is_in_place else self.buffer.nbytes

    @property
    def is_on_device(self) -> bool:
        """Tell whether its weights are on the device, ready to compute."""
        return self.where is Where.DEVICE

    @property
    def is_front(self) -> bool:
        """Tell whether its parameters hold its weights; always so where no other unit has the same parameters."""
        return self.front is None or self.front.unit is self

    @property
    def needs(self) -> tuple[Unit, ...]:
        """Return the units to adopt for this one, in order."""
        return (self,)

    @property
    def has_unknown(self) -> bool:
        """Tell whether some of its weights had no values before the residency: files hold them."""
        return any(piece.is_unknown for piece in self.layout.pieces)

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors that its parameters hold now."""
        return tuple(piece.parameter.data for piece in self.layout.pieces)

    @property
    def is_managed(self) -> bool:
        """Tell whether its parameters hold other tensors than before the residency."""
        return self.where is not Where.UNTOUCHED

    def stand_before(self, base: Unit) -> None:
        """Share the parameters of a base unit; they hold the base's weights until this unit is shown."""
        self.front = base.front = Front(base)

    def note_beside(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Record the parameters beside its own that are not managed."""
        self.beside = tuple(parameters)

    def whole(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """Return the whole of a weight that is absent; None for one that is not."""
        piece = self.layout.pieces[place := self.by_parameter[id(parameter)]]
        if self.is_front and self.where is Where.UNTOUCHED:
            return _on_meta(piece) if piece.is_unknown else None
        if self.is_front and self.where is Where.DEVICE:
            return None
        return self.source.tensors[place]

    def adopt(self, sources: SourceProvider) -> None:
        """Move the weights to a source, release their former memory, and make the parameters absent."""
        after = self._after(Event.ADOPT)
        if self.where is not Where.UNTOUCHED:
            return
        if self.shared.source is None:
            self.shared.source = sources.make(self)
        self.where = after
        self._point()
        self._set_apart()

    def share(self, shared: SharedSource) -> None:
        """Take the source of other units with the same weights; from now on the weights are known."""
        self.where = self._after(Event.SHARE)
        self.shared, self.is_known = shared, True

    def _set_apart(self) -> None:
        """Give the parameters beside the weights memory of their own."""
        # in a buffer that a former residency left, they would keep the memory alive that the weights were copied from
        with torch.inference_mode(False), torch.no_grad():
            for parameter in self.beside:
                if parameter in _together:
                    key = (memory_key(parameter), parameter.shape)
                    if key not in self.shared.apart:
                        self.shared.apart[key] = parameter.data.clone()
                    parameter.data = self.shared.apart[key]
                    del _together[parameter]

    def _after(self, event: Event) -> Where:
        """Return the state after an event; the event must be allowed now."""
        after = TABLE.get((self.where, event))
        assert after is not None, f"{event!s} cannot come to {self!r}"
        return after

    def _point(self) -> None:
        """Point the parameters at the tensors of the unit's state, or of the state of the unit in front of it."""
        if self.front is not None and self.front.unit is not self:
            self.front.unit._point()
            return
        if self.where is Where.UNTOUCHED:
            tensors = self._originals()
        elif self.where is Where.DEVICE:
            tensors = self._on_device()
        else:
            tensors = self._absent
        with torch.inference_mode(False), torch.no_grad():
            for piece, tensor in zip(self.layout.pieces, tensors, strict=bool(tensors)):
                piece.parameter.data = tensor
                if self.where is Where.UNTOUCHED:
                    _guards.allow_copying(piece.parameter)
                else:
                    _guards.refuse_copying(piece.parameter, self.component)
        self._marks = marks(self.layout)

    def keep_writes(self) -> bool:
        """Copy writes into its weights to its source, and tell whether any write was lost."""
        self.where = self._after(Event.KEEP_WRITES)
        if self.where is Where.UNTOUCHED or not self.is_front:
            return False
        places = written_places(self.layout, self._marks)
        # a write into a weight that was away is lost: it changed an empty tensor
        kept = [place for place in places if self.keeps_writes and fits(self.layout.pieces[place])]
        if kept:
            is_written = isinstance(self.source, (HostBuffer, OnlyCopy))
            tensors = self.source.tensors if is_written else self._in_host_memory().tensors
            with torch.inference_mode(False), torch.no_grad():
                for place in kept:
                    tensors[place].copy_(self.layout.pieces[place].parameter.data)
        self._marks, self.writes = marks(self.layout), self.writes + len(kept)
        return len(kept) < len(places)

    def renew(self, sources: SourceProvider) -> None:
        """Take the source that the plan in force asks for."""
        self.where = self._after(Event.RENEW)
        self._renew(sources)

    def _renew(self, sources: SourceProvider) -> None:
        before, self.shared.source = self.source, sources.renewed(self)
        if self.source is before:
            return
        before.close()
        if self.is_on_device:
            self._release_host_copy()

    def begin_fetch(self, *, target: torch.Tensor, ticket: Ticket, slot: Slot | None = None) -> None:
        """Record a copy to the device that has been issued.

        Args:
            target: The unit's memory on the device.
            ticket: The ticket of the copy.
            slot: The slot that owns the memory, if it is a slot's.
        """
        after = self._after(Event.BEGIN_FETCH)
        assert slot is None or slot.owner is None, f"{self!r} cannot have the slot of {slot.owner!r}"
        self.buffer, self.ticket, self.slot = target, ticket, slot
        if slot is not None:
            slot.owner = self
        self.where = after

    def leave(self, sources: SourceProvider) -> None:
        """Leave the device and release the memory there; weights without a second copy are copied back."""
        after = self._after(Event.LEAVE)
        if self.slot is not None:  # another unit's weights will overwrite it
            mark_outdated(self.layout)
        self.shared.source = sources.after_leaving(self)
        self.where = after
        self._point()
        self._release()

    def show(self) -> None:
        """Come to the front: the parameters hold this unit's weights."""
        self.where = self._after(Event.SHOW)
        if self.front is not None:
            self.front.unit = self
        self._point()

    def heal(self) -> None:
        """Complete an interrupted event: point the parameters, and release memory that the state does not have."""
        self.where = self._after(Event.HEAL)
        self._point()
        if self.where not in (Where.ARRIVING, Where.DEVICE):
            self._release()

    def drop(self) -> None:
        """Drop the source, to restore a merged copy: the parameters hold the base's weights already."""
        after = self._after(Event.RESTORE)
        if self.shared.source is not None:
            self.shared.source.close()
            self.shared.source = None
        self.where = after

    def restore(self) -> None:
        """Give the parameters their weights in host memory, or on the device that they were on before."""
        after = self._after(Event.RESTORE)
        if self.where is Where.UNTOUCHED and self.shared.source is None:
            return
        if self.shared.source is not None and self.has_unknown:
            self._drop_source()
        elif self.shared.source is not None and not isinstance(self.source, OnlyCopy):
            self._in_host_memory()
            self._bring_home()
        self.where = after
        self.show()
        for piece in self.layout.pieces:
            _together[piece.parameter] = not piece.is_unknown

    def _drop_source(self) -> None:
        """Drop the source, after copying the values that were known before the residency."""
        pieces = zip(self.layout.pieces, self.source.tensors, strict=True)
        self._known = tuple(
            _guards.absent_tensor(piece.dtype, self._device) if piece.is_unknown else tensor.clone()
            for piece, tensor in pieces
        )
        self.source.close()
        self.shared.source = None

    def _bring_home(self) -> None:
        """Copy the weights to the accelerator that they were on before the residency."""
        if any(home.type != "cpu" for home in self._homes):
            self._known = tuple(tensor.to(home) for tensor, home in zip(self.source.tensors, self._homes, strict=True))
            self.source.close()
            self.shared.source = None

    def _in_host_memory(self) -> HostBuffer:
        """Return the source as host memory, copied there if it is another."""
        if not isinstance(self.source, HostBuffer):
            memory = HostBuffer(self.layout)
            memory.fill_from(self.source.tensors)
            self.source.close()
            self.shared.source = memory
        assert isinstance(self.source, HostBuffer)
        return self.source

    def _originals(self) -> tuple[torch.Tensor, ...]:
        return self.source.tensors if self.shared.source is not None else self._known

    def _on_device(self) -> tuple[torch.Tensor, ...]:
        if self.is_in_place:
            return self.source.tensors
        assert self.buffer is not None
        if self._viewed is not self.buffer:
            self._views, self._viewed = views(self.buffer, self.layout), self.buffer
        return self._views

    def _release(self) -> None:
        """Release the memory on the device."""
        # in this order, since an interrupt may come between any two lines
        if self.slot is not None and self.slot.owner is self:
            self.slot.owner = None
        self.buffer, self.ticket, self.slot = None, None, None
        self._views, self._viewed = (), None

    def arrive(self, sources: SourceProvider) -> None:
        """Point the parameters at the weights on the device, and release a host copy that the plan does not need."""
        self.where, self.ticket = self._after(Event.ARRIVE), None
        self._release_host_copy()
        self._renew(sources)
        self._point()

    def _release_host_copy(self) -> None:
        """Release the former memory of the weights, if the device holds their only copy from now on."""
        if isinstance(self.source, OnlyCopy) and not self.source.is_in_place:
            self.source.arrive(self._on_device())

    @cached_property
    def _absent(self) -> tuple[torch.Tensor, ...]:
        kinds: Mapping[torch.dtype, torch.Tensor] = {
            dtype: _guards.absent_tensor(dtype, self._device) for dtype in {piece.dtype for piece in self.layout.pieces}
        }
        return tuple(kinds[piece.dtype] for piece in self.layout.pieces)

    def __repr__(self) -> str:
        return f"Unit({self.name!r}, {self.where})"


def without_values(units: Iterable[Unit]) -> str | None:
    """Return a sentence about writes that were lost with values read from files; None where none was."""
    names = dict.fromkeys(unit.component for unit in units if unit.has_unknown and unit.writes)
    if not names:
        return None
    return (
        f"{', '.join(map(repr, names))} came without values and is left without them, so what was written into its "
        "weights is lost; load it before apply to keep such writes"
    )


def _on_meta(piece: Piece) -> torch.Tensor:
    return torch.empty_strided(piece.size, piece.stride, dtype=piece.dtype, device="meta")
