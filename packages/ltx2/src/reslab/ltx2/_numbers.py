"""Which numbers a request may hold, and the nearest legal one.

Numbers of numpy and fractions count, since sizes are often computed; truth values, which Python counts among the whole
numbers, do not.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def nearest_multiple(number: float, of: int, offset: int = 0) -> int:
    """Return the nearest legal size of the form k × of + offset.

    >>> nearest_multiple(100, 64), nearest_multiple(10, 8, offset=1), nearest_multiple(1, 64)
    (128, 9, 64)
    """
    k = max(math.floor((number - offset) / of + 0.5), 0 if offset else 1)
    return k * of + offset


def nearest(number: Any, of: int, offset: int = 0) -> str:
    """Say the nearest legal size as the end of an error's sentence; nothing where `number` is none.

    >>> nearest(100, 64), nearest("100", 64)
    ('; the nearest is 128', '')
    """
    return f"; the nearest is {nearest_multiple(number, of, offset)}" if is_number(number) else ""


def is_whole(number: Any) -> bool:
    """Tell whether this is a whole number.

    >>> is_whole(7), is_whole(7.0), is_whole(True)
    (True, False, False)
    """
    return not isinstance(number, bool) and isinstance(number, Integral)


def is_count(number: Any) -> bool:
    """Tell whether this is a whole number from 1 up."""
    return is_whole(number) and bool(number > 0)


def is_number(number: Any) -> bool:
    """Tell whether this is a finite number.

    >>> is_number(23.976), is_number(float("nan")), is_number("24")
    (True, False, False)
    """
    return not isinstance(number, bool) and isinstance(number, Real) and math.isfinite(number)
