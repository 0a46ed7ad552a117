"""Arguments and results as plain data: what decides whether two calls are equal, and how a result is made again.

    key(args)                    # hashable, or None where an argument is an object that a call may change
    template = pack(result, inputs)
    template.build(inputs)       # the same structure with fresh phantoms

Two tensors are equal in a key if shape, strides and dtype are, and, where their numbers are known, those too.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from reslab.residency._rehearse._phantom import META, Phantoms

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, type, slice)

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
    if isinstance(value, _PLAIN) or callable(value):
        return type(value), value if not isinstance(value, slice) else (value.start, value.stop, value.step)
    raise Unshareable(type(value).__name__)


def _digest(tensor: torch.Tensor) -> bytes:
    """Identify a tensor's numbers; remembered on the tensor until it is written into."""
    version = -1 if tensor.is_inference() else tensor._version
    known = getattr(tensor, _KNOWN, None)
    if known is None or known[0] != version or version < 0:
        data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
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
        return type(value)(**{name: map_tensors(each, function) for name, each in value.items()})
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """One tensor of a result: its place in a storage, which is an input's or one of its own."""

    storage: int  # below 0: input -1 - storage; else the result's own, by number
    size: Any
    stride: Any
    offset: int
    dtype: torch.dtype


class Template:
    """How a result is made again: its structure, and where each tensor of it lies."""

    def __init__(self, result: Any, inputs: Sequence[torch.Tensor]) -> None:
        self._storages = {tensor.untyped_storage()._cdata: -1 - place for place, tensor in enumerate(inputs)}
        self._sizes: list[int] = []
        self._kept: dict[int, torch.Tensor] = {}
        self._result = self._pack(result)

    def _pack(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage._cdata not in self._storages:
                self._storages[storage._cdata] = len(self._sizes)
                self._sizes.append(storage.nbytes())
            place = self._storages[storage._cdata]
            return Shape(place, value.shape, value.stride(), int(value.storage_offset()), value.dtype)
        if isinstance(value, (list, tuple)):
            return type(value), [self._pack(each) for each in value]
        if isinstance(value, dict):
            return type(value), {name: self._pack(each) for name, each in value.items()}
        if isinstance(value, (*_PLAIN, torch.nn.Module)) or not hasattr(value, "__dict__"):
            return value
        return type(value), vars(value) and _Attributes({n: self._pack(each) for n, each in vars(value).items()})

    def build(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
        """Make the result again; returns it with one tensor of each storage that is its own."""
        own = [torch.empty(size, dtype=torch.uint8, device=META) for size in self._sizes]
        return self._unpack(self._result, own, inputs), own

    def _unpack(self, packed: Any, own: list[torch.Tensor], inputs: Sequence[torch.Tensor]) -> Any:
        if isinstance(packed, Shape):
            base = own[packed.storage] if packed.storage >= 0 else inputs[-1 - packed.storage]
            return _view(base, packed)
        if not (isinstance(packed, tuple) and len(packed) == 2 and isinstance(packed[0], type)):
            return packed
        kind, content = packed
        if isinstance(content, _Attributes):
            made = kind.__new__(kind)
            made.__dict__.update({name: self._unpack(each, own, inputs) for name, each in content.items()})
            return made
        if isinstance(content, dict):
            return kind(**{name: self._unpack(each, own, inputs) for name, each in content.items()})
        values = [self._unpack(each, own, inputs) for each in content or ()]
        return kind(*values) if hasattr(kind, "_fields") else kind(values)


class _Attributes(dict[str, Any]):
    """The attributes of an object, packed."""


def _view(base: torch.Tensor, shape: Shape) -> torch.Tensor:
    """A tensor of this geometry on the storage of `base`."""
    made = torch.empty(0, dtype=shape.dtype, device=base.device)
    return made.set_(base.untyped_storage(), shape.offset, shape.size, shape.stride)
