"""A package's facade whose costly names are imported when they are first asked for.

    if TYPE_CHECKING:  # so that type checkers and editors know them
        from reslab.residency._engine._apply import apply
    else:
        __getattr__ = lazy_names(__name__, {"apply": "_engine._apply"})


    def __dir__() -> list[str]:
        return __all__

The facades of `reslab.residency` and `reslab.ltx2` do so with what needs torch, so that plans are made without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(facade: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that imports a name's module when the name is asked for.

    >>> late = lazy_names("reslab.stages", {"free_name": "_names"})
    >>> late("free_name")("decode", {"decode"})
    'decode_2'
    >>> late("decode")
    Traceback (most recent call last):
    AttributeError: module 'reslab.stages' has no attribute 'decode'

    Args:
        facade: The package's own `__name__`.
        modules: The module that has each name, below the package: "_engine._apply".
    """

    def late(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {facade!r} has no attribute {name!r}")
        return getattr(import_module(f"{facade}.{modules[name]}"), name)

    return late
