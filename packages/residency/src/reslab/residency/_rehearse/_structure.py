"""Arguments and results as plain data: what decides whether two calls are equal, and how a result is made again.

    key(args)                    # hashable; `Unshareable` where an argument is an object that a call may change
    given = Given(args)          # what a result may be a look at, without keeping it alive
    template = Template(result, given)
    template.build(given)        # the same structure with fresh phantoms

Two tensors are equal in a key if shape, strides and dtype are, and, where their numbers are known, those too.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from reslab.residency._rehearse._phantom import META, Phantoms

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, type, slice)

#: What a result may hold that is handed on as it is: nothing in it changes.
_AS_IT_IS = (*_PLAIN, torch.nn.Module, enum.Enum, range)
_KNOWN = "_reslab_digest"


class Unshareable(Exception):
    """An argument is an object that a call may change, so that no two calls are known to be equal."""


def key(value: Any, phantoms: Phantoms) -> Any:
    """Return what decides whether arguments are equal; raises `Unshareable` for objects that a call may change."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, None if phantoms.is_phantom(value) else _digest(value)
    if isinstance(value, (list, tuple)):
        return type(value), tuple([key(each, phantoms) for each in value])
    if isinstance(value, Mapping):
        return type(value), tuple([(name, key(each, phantoms)) for name, each in value.items()])
    if isinstance(value, (*_PLAIN, enum.Enum, range)) or callable(value):
        return type(value), value if not isinstance(value, slice) else (value.start, value.stop, value.step)
    raise Unshareable(type(value).__name__)


def _digest(tensor: torch.Tensor) -> bytes:
    """Identify a tensor's numbers; remembered on the tensor until it is written into."""
    version = -1 if tensor.is_inference() else tensor._version
    known = getattr(tensor, _KNOWN, None)
    if known is None or known[0] != version or version < 0:
        # a copy: a single element may be expanded and is contiguous all the same, but not to be looked at as bytes
        data = (
            tensor.detach().clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).numpy().tobytes()
        )
        known = version, hashlib.blake2b(data, digest_size=16).digest()
        setattr(tensor, _KNOWN, known)
    return known[1]


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same structure with `function` applied to each tensor in its lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        made = [map_tensors(each, function) for each in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if isinstance(value, dict):
        return _mapping(type(value), {name: map_tensors(each, function) for name, each in value.items()})
    return value


def flat(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from flat(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from flat(each)


def containers(value: Any) -> Iterator[list[Any] | dict[Any, Any]]:
    """Yield the lists and mappings in a structure, which a call may change."""
    if isinstance(value, (list, dict)):
        yield value
    if isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from containers(each)


def sharing(value: Any) -> tuple[int, ...]:
    """Return which tensors share a storage: for each the place of the first that has it."""
    first: dict[int, int] = {}
    return tuple([first.setdefault(each.untyped_storage()._cdata, place) for place, each in enumerate(flat(value))])


class Given:
    """The tensors of a call's arguments, by their storages.

    None is kept alive: a call may replace what it finds in a list, and what it replaces is gone from then on.
    """

    def __init__(self, value: Any) -> None:
        tensors = list(flat(value))
        self._storages = [weakref.ref(tensor.untyped_storage()) for tensor in tensors]
        self.offsets_bytes = [int(tensor.storage_offset()) * tensor.itemsize for tensor in tensors]

    def storage(self, place: int) -> torch.UntypedStorage:
        """Return the storage of an argument that is still there."""
        found = self._storages[place]()
        assert found is not None
        return found

    def places(self) -> dict[int, int]:
        """Where each storage is first found, of those that are still there."""
        alive = ((place, ref()) for place, ref in enumerate(self._storages))
        places: dict[int, int] = {}
        for place, storage in alive:
            if storage is not None:
                places.setdefault(storage._cdata, place)
        return places


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """One tensor of a result: its place in a storage, which is an argument's or one of its own."""

    storage: int  # below 0: of argument -1 - storage; else the result's own, by number
    size: Any
    stride: Any
    offset: int  # beyond the argument's
    dtype: torch.dtype


class Template:
    """How a result is made again: its structure, and where each tensor of it lies.

    Args:
        result: What a call returned.
        given: What it was given.
        phantoms: Knows which tensors have numbers; these are kept, as the same call gives them again.

    Raises:
        Unshareable: Something in the result cannot be made again.
    """

    def __init__(self, result: Any, given: Given, phantoms: Phantoms) -> None:
        self._given, self._phantoms = given, phantoms
        self._storages = {storage: -1 - place for storage, place in given.places().items()}
        self._sizes: list[int] = []
        self._known: dict[int, torch.Tensor] = {}
        self._result = self._pack(result)
        del self._given, self._phantoms

    @property
    def own_bytes(self) -> int:
        """Bytes of the storages that are the result's own."""
        return sum(self._sizes)

    def _pack(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._shape(value)
        if isinstance(value, (list, tuple)):
            return type(value), [self._pack(each) for each in value]
        if isinstance(value, dict):
            return type(value), {name: self._pack(each) for name, each in value.items()}
        if isinstance(value, _AS_IT_IS) or callable(value):
            return value
        if not hasattr(value, "__dict__"):
            raise Unshareable(type(value).__name__)
        return type(value), _Attributes({name: self._pack(each) for name, each in vars(value).items()})

    def _shape(self, tensor: torch.Tensor) -> Shape:
        storage, offset = tensor.untyped_storage(), int(tensor.storage_offset())
        if storage._cdata not in self._storages:
            place = self._storages[storage._cdata] = len(self._sizes)
            self._sizes.append(storage.nbytes())
            if not self._phantoms.is_phantom(tensor):
                self._known[place] = _whole(storage).clone()
        place = self._storages[storage._cdata]
        beyond = offset * tensor.itemsize
        if place < 0:
            beyond -= self._given.offsets_bytes[-1 - place]
        return Shape(place, tensor.shape, tensor.stride(), beyond, tensor.dtype)

    def build(self, given: Given) -> tuple[Any, list[torch.Tensor]]:
        """Make the result again; returns it with one tensor of each storage that is its own."""
        own = [
            self._known[place].clone() if place in self._known else torch.empty(size, dtype=torch.uint8, device=META)
            for place, size in enumerate(self._sizes)
        ]
        return self._unpack(self._result, own, given), own

    def _unpack(self, packed: Any, own: list[torch.Tensor], given: Given) -> Any:
        if isinstance(packed, Shape):
            if packed.storage >= 0:
                return _view(own[packed.storage].untyped_storage(), packed, 0)
            place = -1 - packed.storage
            return _view(given.storage(place), packed, given.offsets_bytes[place])
        if not (isinstance(packed, tuple) and len(packed) == 2 and isinstance(packed[0], type)):
            return packed
        kind, content = packed
        if isinstance(content, _Attributes):
            made = kind.__new__(kind)
            made.__dict__.update({name: self._unpack(each, own, given) for name, each in content.items()})
            return made
        if isinstance(content, dict):
            return _mapping(kind, {name: self._unpack(each, own, given) for name, each in content.items()})
        values = [self._unpack(each, own, given) for each in content]
        return kind(*values) if hasattr(kind, "_fields") else kind(values)


def _mapping(kind: type, items: dict[Any, Any]) -> Any:
    """A mapping of a class that may be one of transformers' or diffusers' outputs."""
    return items if kind is dict else kind(**items)


class _Attributes(dict[str, Any]):
    """The attributes of an object, packed."""


def _whole(storage: torch.UntypedStorage) -> torch.Tensor:
    """All bytes of a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _view(storage: torch.UntypedStorage, shape: Shape, first: int) -> torch.Tensor:
    """A tensor of this geometry on a storage, its offset counted from byte `first`."""
    made = torch.empty(0, dtype=shape.dtype, device=storage.device)
    return made.set_(storage, (first + shape.offset) // shape.dtype.itemsize, shape.size, shape.stride)
