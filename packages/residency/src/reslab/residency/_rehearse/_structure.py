"""Arguments and results as plain data: the key that equal calls share, and the template that rebuilds a result.

    key(args, phantoms)                 # hashable; `Unshareable` if an argument is an object that a call may change
    given = GivenTensors(args)          # the storages that a result may be a view of, without keeping them alive
    template = Template(result, given, phantoms)
    template.build(given)               # the same structure with fresh phantoms

Two tensors have equal keys if their shapes, strides and dtypes are equal, and their numbers if these are known.
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

#: Types of values in a result that are passed on unchanged, since no call changes them.
_AS_IT_IS = (*_PLAIN, torch.nn.Module, enum.Enum, range)
_KNOWN = "_reslab_digest"


class Unshareable(Exception):
    """An argument or result that a call may change, so that no two calls are known to be equal."""


def key(value: Any, phantoms: Phantoms) -> Any:
    """Return a key that equal arguments share.

    Raises:
        Unshareable: An argument is an object that a call may change.
    """
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
    """Return a digest of a tensor's numbers, kept on the tensor until it is written into."""
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
    """Return the same structure with `function` applied to each tensor in its lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        made = [map_tensors(each, function) for each in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if isinstance(value, dict):
        return _mapping(type(value), {name: map_tensors(each, function) for name, each in value.items()})
    return value


def each_tensor(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from each_tensor(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from each_tensor(each)


def containers(value: Any) -> Iterator[list[Any] | dict[Any, Any]]:
    """Yield the lists and mappings in a structure, which a call may change."""
    if isinstance(value, (list, dict)):
        yield value
    if isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from containers(each)


def sharing(value: Any) -> tuple[int, ...]:
    """Return for each tensor the number of the first tensor that has the same storage."""
    first: dict[int, int] = {}
    return tuple(
        [first.setdefault(each.untyped_storage()._cdata, place) for place, each in enumerate(each_tensor(value))]
    )


class GivenTensors:
    """The tensors of a call's arguments, by their storages.

    None is kept alive: a call may replace tensors in a list, and then they must be released.
    """

    def __init__(self, value: Any) -> None:
        tensors = list(each_tensor(value))
        self._storages = [weakref.ref(tensor.untyped_storage()) for tensor in tensors]
        self.offsets_bytes = [int(tensor.storage_offset()) * tensor.itemsize for tensor in tensors]

    def storage(self, place: int) -> torch.UntypedStorage:
        """Return the storage of an argument that is still alive."""
        found = self._storages[place]()
        assert found is not None
        return found

    def places(self) -> dict[int, int]:
        """Return the first argument that has each storage, of the storages still alive."""
        alive = ((place, ref()) for place, ref in enumerate(self._storages))
        places: dict[int, int] = {}
        for place, storage in alive:
            if storage is not None:
                places.setdefault(storage._cdata, place)
        return places


@dataclasses.dataclass(frozen=True, slots=True)
class TensorForm:
    """One tensor of a result: its geometry in a storage, which is that of an argument or the result's own."""

    storage: int  # below 0: of argument -1 - storage; else the result's own, by number
    size: Any
    stride: Any
    offset: int  # beyond the argument's
    dtype: torch.dtype


class Template:
    """The structure of a result and the storage of each of its tensors, from which the result is made again.

    Args:
        result: The result of a call.
        given: The tensors of its arguments.
        phantoms: The mode that knows which tensors have numbers; these are kept, since an equal call returns the same.

    Raises:
        Unshareable: Something in the result cannot be made again.
    """

    def __init__(self, result: Any, given: GivenTensors, phantoms: Phantoms) -> None:
        self._given, self._phantoms = given, phantoms
        self._storages = {storage: -1 - place for storage, place in given.places().items()}
        self._sizes: list[int] = []
        self._known: dict[int, torch.Tensor] = {}
        self._result = self._pack(result)
        del self._given, self._phantoms

    @property
    def own_bytes(self) -> int:
        """Return the bytes of the result's own storages."""
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

    def _shape(self, tensor: torch.Tensor) -> TensorForm:
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
        return TensorForm(place, tensor.shape, tensor.stride(), beyond, tensor.dtype)

    def build(self, given: GivenTensors) -> tuple[Any, list[torch.Tensor]]:
        """Return the result made again, and one tensor of each of its own storages."""
        own = [
            self._known[place].clone() if place in self._known else torch.empty(size, dtype=torch.uint8, device=META)
            for place, size in enumerate(self._sizes)
        ]
        return self._unpack(self._result, own, given), own

    def _unpack(self, packed: Any, own: list[torch.Tensor], given: GivenTensors) -> Any:
        if isinstance(packed, TensorForm):
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
    """Return a mapping of a class, which may be one of transformers' or diffusers' outputs."""
    return items if kind is dict else kind(**items)


class _Attributes(dict[str, Any]):
    """The attributes of an object, packed."""


def _whole(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return all bytes of a storage as a tensor."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _view(storage: torch.UntypedStorage, shape: TensorForm, first: int) -> torch.Tensor:
    """Return a tensor of this geometry on a storage, with its offset counted from byte `first`."""
    made = torch.empty(0, dtype=shape.dtype, device=storage.device)
    return made.set_(storage, (first + shape.offset) // shape.dtype.itemsize, shape.size, shape.stride)
