"""Sizes and rates as people write them, to and from the numbers that the code works with.

    parse_bytes("12 GiB")          # 12884901888; an integer is bytes already
    parse_rate("1 GB/s")           # 1000000000

GiB is 2³⁰ and GB is 10⁹, as they are written; nothing is guessed from a bare number.

How copying relates to computing on a card: what a link here can be held to, so that it feels as it does there.
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
#: Below this a bare number of bytes a second is taken for one whose unit was forgotten.
LEAST_BARE_RATE = 10**6
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?i?B)\s*(/s)?\s*")


def parse_bytes(size: int | str) -> int:
    """Return a size in bytes.

    >>> [parse_bytes(size) for size in (4096, "12 GiB", "1.5 KB")]
    [4096, 12884901888, 1500]

    Raises:
        ValueError: For a text that is no size, or a negative number.
    """
    return _parse(size, rate=False, example='"12 GiB"')


def parse_rate(rate: int | str) -> int:
    """Return a rate in bytes a second.

    >>> [parse_rate(rate) for rate in (25_000_000_000, "1 GB/s")]
    [25000000000, 1000000000]

    Raises:
        ValueError: For a text that is no rate, or a negative number.
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
    """Return a size in the largest unit of which there is a tenth, for sentences about models of any size.

    >>> size_text(35.37 * 2**30), size_text(10880), size_text(-3)
    ('35.37 GiB', '10.62 KiB', '-3 B')
    """
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if abs(nbytes) >= 1024**power / 10:
            return f"{nbytes / 1024**power:.2f} {unit}"
    return f"{nbytes:.0f} B"


def is_near(name: str, known: Iterable[str]) -> bool:
    """Tell whether a name may be one of the known ones, mistyped.

    >>> is_near("transfomer", ["transformer", "vae"]), is_near("latent_upsampler", ["transformer", "vae"])
    (True, False)
    """
    folded = [each.casefold() for each in known]
    return bool(get_close_matches(name.casefold(), folded, n=1, cutoff=0.6))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRatio:
    """How long it takes to copy the weights of every call of a run, for each second that the calls compute."""

    copy_s_per_compute_s: float

    def rate(self, *, copied_bytes: int, compute_s: float) -> float:
        """Return the bytes a second with which copying takes that much longer than computing.

        >>> LinkRatio(copy_s_per_compute_s=2.0).rate(copied_bytes=1000, compute_s=5.0)
        100.0
        """
        return copied_bytes / (self.copy_s_per_compute_s * compute_s)
