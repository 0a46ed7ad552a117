"""The facade of a package with costly imports: a name's module is imported when the name is first used.

    if TYPE_CHECKING:  # so that type checkers and editors know the names
        from reslab.residency._engine._apply import apply
    else:
        __getattr__ = lazy_names(__name__, {"apply": "_engine._apply"})


    def __dir__() -> list[str]:
        return __all__

The facades of `reslab.residency` and `reslab.ltx2` import the modules that need torch this way, so that making a plan
does not need torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(facade: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that imports the module of a name when the name is used.

    >>> late = lazy_names("reslab.stages", {"free_name": "_names"})
    >>> late("free_name")("decode", {"decode"})
    'decode_2'
    >>> late("decode")
    Traceback (most recent call last):
    AttributeError: module 'reslab.stages' has no attribute 'decode'

    Args:
        facade: The package's own `__name__`.
        modules: The module of each name, relative to the package: "_engine._apply".
    """

    def late(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {facade!r} has no attribute {name!r}")
        return getattr(import_module(f"{facade}.{modules[name]}"), name)

    return late
