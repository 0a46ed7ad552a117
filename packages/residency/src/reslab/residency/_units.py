"""Sizes and rates as text with units, parsed and written, and the ratio of copying to computing.

    parse_bytes("12 GiB")          # 12884901888; an integer is a number of bytes
    parse_rate("1 GB/s")           # 1000000000

GiB is 2³⁰ and GB is 10⁹. A bare number is never given a unit by guessing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

_UNITS = {"B": 1} | {
    f"{prefix}{infix}B": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
#: A bare rate below this is refused, since its unit was probably forgotten.
LEAST_BARE_RATE = 10**6
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?i?B)\s*(/s)?\s*")


def parse_bytes(size: int | str) -> int:
    """Return a size in bytes.

    >>> [parse_bytes(size) for size in (4096, "12 GiB", "1.5 KB")]
    [4096, 12884901888, 1500]

    Raises:
        ValueError: The text is not a size, or the number is negative.
    """
    return _parse(size, rate=False, example='"12 GiB"')


def parse_rate(rate: int | str) -> int:
    """Return a rate in bytes a second.

    >>> [parse_rate(rate) for rate in (25_000_000_000, "1 GB/s")]
    [25000000000, 1000000000]

    Raises:
        ValueError: The text is not a rate, or the number is negative.
    """
    return _parse(rate, rate=True, example='"25 GB/s"')


def _parse(value: int | str, *, rate: bool, example: str) -> int:
    what = "a rate in bytes a second" if rate else "a size in bytes"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or bool(match[3]) != rate:
        raise ValueError(f"{value!r} is not {what}; write a whole number, or a text such as {example}")
    return round(float(match[1]) * _UNITS[match[2]])


def size_text(nbytes: float) -> str:
    """Return a size as text, in the largest unit in which it is at least 0.1.

    >>> size_text(35.37 * 2**30), size_text(10880), size_text(-3)
    ('35.37 GiB', '10.62 KiB', '-3 B')
    """
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if abs(nbytes) >= 1024**power / 10:
            return f"{nbytes / 1024**power:.2f} {unit}"
    return f"{nbytes:.0f} B"


def is_near(name: str, known: Iterable[str]) -> bool:
    """Return whether a name may be a misspelling of a known one.

    >>> is_near("transfomer", ["transformer", "vae"]), is_near("latent_upsampler", ["transformer", "vae"])
    (True, False)
    """
    folded = [each.casefold() for each in known]
    return bool(get_close_matches(name.casefold(), folded, n=1, cutoff=0.6))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRatio:
    """The seconds of copying the weights of every call of a run, for each second that the calls compute."""

    copy_s_per_compute_s: float

    def rate(self, *, copied_bytes: int, compute_s: float) -> float:
        """Return the link rate, in bytes a second, at which copying has this ratio to computing.

        >>> LinkRatio(copy_s_per_compute_s=2.0).rate(copied_bytes=1000, compute_s=5.0)
        100.0
        """
        return copied_bytes / (self.copy_s_per_compute_s * compute_s)
