"""The numbers that a request may hold, and the nearest legal one.

Numbers of numpy and fractions count, since sizes are often computed. Truth values, which Python counts among the whole
numbers, do not.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def neighbours(number: float, of: int, offset: int = 0, *, least: float = 1, most: float = math.inf) -> list[int]:
    """Return the one or two nearest legal sizes of the form k × of + offset, the nearer first.

    >>> neighbours(720, 64), neighbours(10, 8, offset=1), neighbours(1, 64), neighbours(10**9, 64, most=8192)
    ([704, 768], [9, 17], [64], [8192])
    """
    low = math.ceil((least - offset) / of) * of + offset
    high = math.floor((most - offset) / of) * of + offset if math.isfinite(most) else most
    below = math.floor((number - offset) / of) * of + offset
    above = below if below == number else below + of
    legal = {int(min(max(size, low), high)) for size in (below, above)}
    return sorted(legal, key=lambda size: (abs(size - number), size))


def nearest_legal(number: Any, of: int, offset: int = 0, *, least: float = 1, most: float = math.inf) -> str:
    """Return the end of an error's sentence that names the nearest legal sizes; empty where `number` is no number.

    >>> nearest_legal(100, 64), nearest_legal(128.0, 64), nearest_legal("100", 64)
    ('; the nearest is 128, then 64', '; the nearest is 128', '')
    """
    if not is_number(number):
        return ""
    sizes = neighbours(int(number) if is_whole(number) else float(number), of, offset, least=least, most=most)
    return "; the nearest is " + ", then ".join(map(str, sizes))


def is_whole(number: Any) -> bool:
    """Tell whether a value is a whole number.

    >>> is_whole(7), is_whole(7.0), is_whole(True)
    (True, False, False)
    """
    return not isinstance(number, bool) and isinstance(number, Integral)


def is_count(number: Any) -> bool:
    """Tell whether a value is a whole number from 1 up."""
    return is_whole(number) and bool(number > 0)


def is_number(number: Any) -> bool:
    """Tell whether a value is a finite number.

    >>> is_number(23.976), is_number(float("nan")), is_number("24")
    (True, False, False)
    """
    return not isinstance(number, bool) and isinstance(number, Real) and math.isfinite(number)
