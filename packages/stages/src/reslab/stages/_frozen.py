"""A mapping that cannot change, for frozen data: compared, hashed, copied, pickled and written as JSON like a value.

    @dataclass(frozen=True)
    class Card:
        rates: Mapping[str, int]

        def __post_init__(self) -> None:
            freeze(self)                   # whatever mapping was handed in is a FrozenDict from here on

`types.MappingProxyType` only shows another dict: it can be neither pickled nor hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A dict that refuses every change; equal to a dict with the same items, and hashed where its values are.

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
        return type(self), (dict(self),)  # the pickle of a dict would set its items one by one

    def __copy__(self) -> FrozenDict[K, V]:
        return self


def freeze(instance: Any, names: Iterable[str] | None = None) -> None:
    """Replace the mappings in the fields of a frozen dataclass by frozen ones, in its `__post_init__`.

    Args:
        instance: Of a dataclass.
        names: The fields; by default all.
    """
    for name in [each.name for each in fields(instance)] if names is None else names:
        value = getattr(instance, name)
        if isinstance(value, Mapping) and not isinstance(value, FrozenDict):
            object.__setattr__(instance, name, FrozenDict(value))
