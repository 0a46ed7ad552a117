"""Units: what moves in one piece, and the one record of where it is.

Every parameter of a component belongs to one unit: to its repeated block, or to what lies outside the blocks (as does
a tied weight of two blocks). A unit is in one of the states of `Where`, and changes it by the events of `Event` alone,
each a method: `TABLE` says which event may come in which state, and what follows. The parameters are made to agree at
the end of each event, so one that was interrupted half-way is healed by making them agree once more.

    unit.adopt(sources)                          # UNTOUCHED to AWAY: its weights wait in a source
    unit.begin_fetch(target, ticket, slot)       # to ARRIVING
    unit.arrive(sources)                         # to DEVICE: now it can compute
    unit.leave(sources)                          # to AWAY
    unit.put_back()                              # to UNTOUCHED
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Protocol

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from reslab.residency._engine import _guards
from reslab.residency._engine._guards import Mark, fits, marks, outdate, written
from reslab.residency._engine._lanes import Ticket
from reslab.residency._engine._layout import HostBuffer, Layout, Piece, Source, memory_key, views
from reslab.residency._engine._only_copy import OnlyCopy
from reslab.residency._schedule._kept_units import OUTSIDE
from reslab.stages.support import Described

#: Parameters that a residency left in one piece of memory with others, which lives as long as any of them.
_together: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Where(Described):
    """Where the weights of a unit are."""

    UNTOUCHED = "untouched", "Where they were before the residency: nothing has needed them yet."
    AWAY = "away", "In host memory or on disk; absent from the device."
    ARRIVING = "arriving", "Being copied to the device."
    DEVICE = "device", "On the device."


class Event(Described):
    """What happens to a unit."""

    ADOPT = "adopt", "Its weights wait in a source from now on; nothing, where they do already."
    SHARE = "share", "Its source is one that other units with the same weights have too."
    RENEW = "renew", "Its source is the one that the plan in force wants."
    BEGIN_FETCH = "begin fetch", "It has memory on the device, of its own or a slot, and a copy to there is under way."
    ARRIVE = "arrive", "The copy has been made: its parameters are what is on the device."
    LEAVE = "leave", "Its parameters are absent, and its memory on the device, or its slot, is free."
    PUT_BACK = "put back", "Its parameters are as if nothing had managed them."
    SHOW = "show", "Of the units with the same parameters, it is the one whose weights these are."
    KEEP_WRITES = "keep writes", "What somebody wrote into its weights is in its source too."
    HEAL = "heal", "An event that was interrupted leaves its parameters and its memory as where it is says."


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
    Event.PUT_BACK:    (_U,       _U,   None,     None),
    Event.SHOW:        (_U,       _A,   _R,       _D),
    Event.KEEP_WRITES: (_U,       _A,   _R,       _D),
    Event.HEAL:        (_U,       _A,   _R,       _D),
}  # fmt: skip
#: Where a unit is after an event, by where it was before; what is not here cannot come, and is an error of the engine.
TABLE: Mapping[tuple[Where, Event], Where] = {
    (before, event): after
    for event, row in _AFTER.items()
    for before, after in zip(_STATES, row, strict=True)
    if after is not None
}


class Shared:
    """Makes the source of a unit's weights when it is first asked for, one for all units that are the same memory."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self.users = 0
        #: Memory given to what lies beside the weights, by what memory that was.
        self.apart: dict[object, torch.Tensor] = {}


class Sources(Protocol):
    """Says where the weights of a unit wait, by the plan in force."""

    def make(self, unit: Unit) -> Source:
        """Return where they wait from now on, copied there."""

    def renewed(self, unit: Unit) -> Source:
        """Return where a unit that has a source waits from now on: there, if that is right."""

    def left(self, unit: Unit) -> Source:
        """Return where a unit waits that leaves the device."""


class Slot:
    """Memory on the device through which the blocks of a component stream; one of them owns it at a time.

    Args:
        number: Which of the component's slots.
        buffer: The memory.
    """

    def __init__(self, number: int, buffer: torch.Tensor) -> None:
        self.number, self.buffer = number, buffer
        self.owner: Unit | None = None


class Front:
    """Says which of two units with the same parameters is in front: what the parameters hold is that unit's.

    Args:
        base: The one whose weights they are.
    """

    def __init__(self, base: Unit) -> None:
        self.base = self.unit = base


class Unit:
    """What moves in one piece.

    Args:
        component: The component's name.
        number: The block's number, or `OUTSIDE`.
        layout: How its parameters lie in one buffer.
        shared: Where the source is kept.
        device: Where it computes.
        where: Where its weights are.
    """

    #: Whether it is known what its weights are; a merged copy's are not until its LoRA has been on.
    is_known = True
    #: Whether what somebody writes into its weights is kept; a merged copy is made from others.
    keeps_writes = True

    def __init__(
        self,
        component: str,
        number: int,
        layout: Layout,
        shared: Shared,
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
        #: Parameters beside its own that are not managed: what a LoRA adds that is to be merged.
        self.beside: tuple[torch.nn.Parameter, ...] = ()
        self._views: tuple[torch.Tensor, ...] = ()
        self._viewed: torch.Tensor | None = None
        self._marks: tuple[Mark, ...] = ()
        #: Weights that somebody has written and that were kept.
        self.writes = 0
        #: Values that were known before, copied when it is put back beside others that were not.
        self._known: tuple[torch.Tensor, ...] = ()
        self._homes = tuple(piece.parameter.device for piece in layout.pieces)
        self.by_parameter = {id(piece.parameter): place for place, piece in enumerate(layout.pieces)}

    @property
    def name(self) -> str:
        """Return its name in events and errors: "transformer/7", or "transformer" for what lies outside the blocks."""
        return self.component if self.number == OUTSIDE else f"{self.component}/{self.number}"

    @property
    def nbytes(self) -> int:
        """Return the bytes of its weights."""
        return self.layout.weight_bytes

    @property
    def source(self) -> Source:
        """Return where its weights are while they are not on the device."""
        assert self.shared.source is not None
        return self.shared.source

    @property
    def is_in_place(self) -> bool:
        """Tell whether its weights lie on the accelerator already, and stay where they are."""
        return isinstance(self.shared.source, OnlyCopy) and self.shared.source.is_in_place

    @property
    def held_bytes(self) -> int:
        """Return the bytes that it takes on the device, in memory of its own."""
        if self.buffer is None:
            return 0
        return self.layout.weight_bytes if self.is_in_place else self.buffer.nbytes

    @property
    def is_here(self) -> bool:
        """Tell whether it can compute."""
        return self.where is Where.DEVICE

    @property
    def is_front(self) -> bool:
        """Tell whether its parameters hold what it has; always so where no other unit has the same parameters."""
        return self.front is None or self.front.unit is self

    @property
    def needs(self) -> tuple[Unit, ...]:
        """Return the units that have to be adopted for this one, in order."""
        return (self,)

    @property
    def has_unknown(self) -> bool:
        """Tell whether some of its weights had no values before: their values are in files."""
        return any(piece.is_unknown for piece in self.layout.pieces)

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """Return what its parameters hold now."""
        return tuple(piece.parameter.data for piece in self.layout.pieces)

    @property
    def is_managed(self) -> bool:
        """Tell whether its parameters hold something else than they held before."""
        return self.where is not Where.UNTOUCHED

    def stand_before(self, base: Unit) -> None:
        """Have the parameters in common with a unit, whose weights they hold until this one is shown."""
        self.front = base.front = Front(base)

    def note_beside(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Note which parameters lie beside its own that are not managed."""
        self.beside = tuple(parameters)

    def whole(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """Return the whole of a weight that is absent, None where it is not."""
        piece = self.layout.pieces[place := self.by_parameter[id(parameter)]]
        if self.is_front and self.where is Where.UNTOUCHED:
            return _on_meta(piece) if piece.is_unknown else None
        if self.is_front and self.where is Where.DEVICE:
            return None
        return self.source.tensors[place]

    def adopt(self, sources: Sources) -> None:
        """Let the weights lie in a source, and be absent; the memory that they were in is given up."""
        after = self._after(Event.ADOPT)
        if self.where is not Where.UNTOUCHED:
            return
        if self.shared.source is None:
            self.shared.source = sources.make(self)
        self.where = after
        self._point()
        self._set_apart()

    def share(self, shared: Shared) -> None:
        """Wait where other units do whose weights are the same: from now on it is known what they are."""
        self.where = self._after(Event.SHARE)
        self.shared, self.is_known = shared, True

    def _set_apart(self) -> None:
        """Give what lies beside memory of its own, where it would keep alive what the weights were just copied from."""
        with torch.inference_mode(False), torch.no_grad():
            for parameter in self.beside:
                if parameter in _together:
                    key = (memory_key(parameter), parameter.shape)
                    if key not in self.shared.apart:
                        self.shared.apart[key] = parameter.data.clone()
                    parameter.data = self.shared.apart[key]
                    del _together[parameter]

    def _after(self, event: Event) -> Where:
        """Return where the unit is after an event, which may come now."""
        after = TABLE.get((self.where, event))
        assert after is not None, f"{event!s} cannot come to {self!r}"
        return after

    def _point(self) -> None:
        """Make the parameters agree with where the unit is, or the one in front of it."""
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
        """Keep what somebody has written into its weights, and tell whether anything could not be.

        What was written into a weight that was away is not there: it changed an empty tensor.
        """
        self.where = self._after(Event.KEEP_WRITES)
        if self.where is Where.UNTOUCHED or not self.is_front:
            return False
        places = written(self.layout, self._marks)
        kept = [place for place in places if self.keeps_writes and fits(self.layout.pieces[place])]
        if kept:
            is_written = isinstance(self.source, (HostBuffer, OnlyCopy))
            tensors = self.source.tensors if is_written else self._in_host_memory().tensors
            with torch.inference_mode(False), torch.no_grad():
                for place in kept:
                    tensors[place].copy_(self.layout.pieces[place].parameter.data)
        self._marks, self.writes = marks(self.layout), self.writes + len(kept)
        return len(kept) < len(places)

    def renew(self, sources: Sources) -> None:
        """Wait where the plan in force says, from now on."""
        self.where = self._after(Event.RENEW)
        self._renew(sources)

    def _renew(self, sources: Sources) -> None:
        before, self.shared.source = self.source, sources.renewed(self)
        if self.source is before:
            return
        before.close()
        if self.is_here:
            self._give_up()

    def begin_fetch(self, *, target: torch.Tensor, ticket: Ticket, slot: Slot | None = None) -> None:
        """Be on the way to the device.

        Args:
            target: Its memory there.
            ticket: Of the copy to it.
            slot: The slot that the memory is, if it is one.
        """
        after = self._after(Event.BEGIN_FETCH)
        assert slot is None or slot.owner is None, f"{self!r} cannot have the slot of {slot.owner!r}"
        self.buffer, self.ticket, self.slot = target, ticket, slot
        if slot is not None:
            slot.owner = self
        self.where = after

    def leave(self, sources: Sources) -> None:
        """Be absent from the device, and give up its memory there; what is in a slot is soon another's.

        What was on the device alone is brought back.
        """
        after = self._after(Event.LEAVE)
        if self.slot is not None:
            outdate(self.layout)
        self.shared.source = sources.left(self)
        self.where = after
        self._point()
        self._release()

    def show(self) -> None:
        """Come to the front."""
        self.where = self._after(Event.SHOW)
        if self.front is not None:
            self.front.unit = self
        self._point()

    def heal(self) -> None:
        """Have parameters and memory agree with where it is, after an event that was interrupted."""
        self.where = self._after(Event.HEAL)
        self._point()
        if self.where not in (Where.ARRIVING, Where.DEVICE):
            self._release()

    def drop(self) -> None:
        """Have no weights any more, as a copy of another unit's is put back; the parameters are the other's already."""
        after = self._after(Event.PUT_BACK)
        if self.shared.source is not None:
            self.shared.source.close()
            self.shared.source = None
        self.where = after

    def put_back(self) -> None:
        """Let the parameters hold their weights in host memory, as if nothing had managed them."""
        after = self._after(Event.PUT_BACK)
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
        """Give up the source, but for the values that were known before."""
        pieces = zip(self.layout.pieces, self.source.tensors, strict=True)
        self._known = tuple(
            _guards.empty(piece.dtype, self._device) if piece.is_unknown else tensor.clone() for piece, tensor in pieces
        )
        self.source.close()
        self.shared.source = None

    def _bring_home(self) -> None:
        """Have the weights on the accelerator again that they were on before the residency."""
        if any(home.type != "cpu" for home in self._homes):
            self._known = tuple(tensor.to(home) for tensor, home in zip(self.source.tensors, self._homes, strict=True))
            self.source.close()
            self.shared.source = None

    def _in_host_memory(self) -> HostBuffer:
        """Have the source be memory, and return it."""
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
        """Give up the memory on the device; in this order, since an interrupt may come between any two lines."""
        if self.slot is not None and self.slot.owner is self:
            self.slot.owner = None
        self.buffer, self.ticket, self.slot = None, None, None
        self._views, self._viewed = (), None

    def arrive(self, sources: Sources) -> None:
        """Be on the device; what needs no second copy gives up the one that it came from."""
        self.where, self.ticket = self._after(Event.ARRIVE), None
        self._give_up()
        self._renew(sources)
        self._point()

    def _give_up(self) -> None:
        """Give up what is left of the weights where they came from, if the device has the only copy from now on."""
        if isinstance(self.source, OnlyCopy) and not self.source.is_in_place:
            self.source.arrive(self._on_device())

    @cached_property
    def _absent(self) -> tuple[torch.Tensor, ...]:
        kinds: Mapping[torch.dtype, torch.Tensor] = {
            dtype: _guards.empty(dtype, self._device) for dtype in {piece.dtype for piece in self.layout.pieces}
        }
        return tuple(kinds[piece.dtype] for piece in self.layout.pieces)

    def __repr__(self) -> str:
        return f"Unit({self.name!r}, {self.where})"


def without_values(units: Iterable[Unit]) -> str | None:
    """Return in a sentence whose writes went with the values that a residency had brought, None where none did."""
    names = dict.fromkeys(unit.component for unit in units if unit.has_unknown and unit.writes)
    if not names:
        return None
    return (
        f"{', '.join(map(repr, names))} came without values and is left without them, so what was written into its "
        "weights is lost; load it before apply to keep that"
    )


def _on_meta(piece: Piece) -> torch.Tensor:
    return torch.empty_strided(piece.size, piece.stride, dtype=piece.dtype, device="meta")
