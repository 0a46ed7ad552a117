"""A mapping that cannot change, for frozen data: compared, hashed, copied, pickled and written as JSON like a value.

    @dataclass(frozen=True)
    class Card:
        rates: Mapping[str, int]

        def __post_init__(self) -> None:
            freeze(self)                   # replaces the mapping that was given by a FrozenDict

`types.MappingProxyType` is a view of another dict, which can be neither pickled nor hashed. Frames, arrays and tensors
return a frame, array or tensor from `==`, so a dataclass that holds some takes `==` and `hash` from `Compared`:

    @dataclass(frozen=True, eq=False)
    class Run(Compared):
        spans: pl.DataFrame
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

#: Types whose values can equal values of another type: 2 and 2.0, or a text and the member of a StrEnum.
_PLAIN = (int, float, str)
K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A dict that refuses every change; it equals a dict with the same items, and is hashable if its values are.

    >>> rates = FrozenDict(bfloat16=165)
    >>> rates == {"bfloat16": 165}, hash(rates) == hash(FrozenDict(bfloat16=165)), rates
    (True, True, {'bfloat16': 165})
    >>> rates["bfloat16"] = 330
    Traceback (most recent call last):
    TypeError: this mapping is frozen; change a copy, as in dict(mapping)
    """

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping is frozen; change a copy, as in dict(mapping)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        # by default, unpickling a dict sets its items one by one, which this class refuses
        return type(self), (dict(self),)

    def __copy__(self) -> FrozenDict[K, V]:
        return self


class Compared:
    """Equality and hash of a frozen dataclass by content, where its fields may be frames, arrays or plain mappings."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in _compared(self))

    def __hash__(self) -> int:
        return hash((type(self), *(_digest(getattr(self, name)) for name in _compared(self))))


def _compared(instance: Any) -> list[str]:
    return [field.name for field in fields(instance) if field.compare]


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values have the same content."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if type(one) is not type(other):
        return bool(one == other) if isinstance(one, _PLAIN) and isinstance(other, _PLAIN) else False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "equals"):  # a frame
        return bool(one.equals(other))
    if hasattr(one, "dtype"):  # an array or tensor
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    return bool(one == other)


def _digest(value: Any) -> int:
    """Return a number that values of the same content share."""
    if isinstance(value, Mapping):
        return hash(frozenset(value))
    if isinstance(value, (list, tuple)):
        return hash(tuple(map(_digest, value)))
    return hash(tuple(value.shape)) if hasattr(value, "shape") else hash(value)


def freeze(instance: Any, names: Iterable[str] | None = None) -> None:
    """Replace the mappings in the fields of a frozen dataclass by frozen ones, in its `__post_init__`.

    Args:
        instance: The instance of the dataclass.
        names: The names of the fields; by default all.
    """
    for name in [each.name for each in fields(instance)] if names is None else names:
        value = getattr(instance, name)
        if isinstance(value, Mapping) and not isinstance(value, FrozenDict):
            object.__setattr__(instance, name, FrozenDict(value))
