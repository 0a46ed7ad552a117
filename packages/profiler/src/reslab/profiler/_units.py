"""Format nanoseconds, bytes and shares for readers: three digits and the unit that fits."""

from __future__ import annotations

from collections.abc import Sequence

#: Bytes of a GiB.
GIB = 2**30


def format_ns(ns: float) -> str:
    """Return a duration with three significant digits.

    >>> [format_ns(ns) for ns in (0, 850, 12_340, 4_560_000, 98_700_000_000)]
    ['0 ns', '850 ns', '12.3 µs', '4.56 ms', '98.7 s']
    """
    return _scaled(ns, 1000, ("ns", "µs", "ms", "s"))


def format_bytes(nbytes: float) -> str:
    """Return a size with three significant digits, in powers of 1024.

    >>> [format_bytes(size) for size in (12, 1536, 737 * 2**20, 22.7 * 2**30)]
    ['12 B', '1.5 KiB', '737 MiB', '22.7 GiB']
    """
    return _scaled(nbytes, 1024, ("B", "KiB", "MiB", "GiB"))


def gib(nbytes: float) -> str:
    """Return a size in GiB with two decimals, for sentences and tables that compare sizes.

    >>> gib(35.37 * 2**30)
    '35.37 GiB'
    """
    return f"{nbytes / GIB:.2f} GiB"


def format_share(share: float) -> str:
    """Return a share from 0 to 1 in per cent; a share between 0 and one per cent is "<1 %", not "0 %".

    >>> [format_share(share) for share in (0, 0.004, 0.506, 1)]
    ['0 %', '<1 %', '51 %', '100 %']
    """
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def time_unit(ns: float) -> tuple[str, float]:
    """Return the unit in which an axis up to `ns` reads best, and how many nanoseconds it has.

    >>> time_unit(98_700_000), time_unit(12)
    (('ms', 1000000.0), ('ns', 1.0))
    """
    return next(((unit, size) for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)) if ns >= 2 * size), ("ns", 1.0))


def bytes_unit(nbytes: float) -> tuple[str, float]:
    """Return the unit in which an axis up to `nbytes` reads best, and how many bytes it has.

    >>> bytes_unit(24 * 2**30), bytes_unit(700 * 2**20)
    (('GiB', 1073741824.0), ('MiB', 1048576.0))
    """
    units = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
    return next(((unit, size) for unit, size in units if nbytes >= size), ("B", 1.0))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    unit = 0
    while abs(value) >= base - 0.5 and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {units[unit]}"
