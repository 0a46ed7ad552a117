"""Which card a name means, and which is near to one that the catalogue does not have.

find("NVIDIA GeForce RTX 4060 Ti", memory_bytes=8 * 2**30)      # 'RTX 4060 Ti 8GB'
near("RTX 4065")                                                # 'RTX 4060'
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from math import ceil, log

from reslab.profiler import GIB
from reslab.residency._device._cards import cards, catalogue, folded, named
from reslab.stages import nearest

#: A name without as many leading letters of a card's, or as much in common, is near to none.
_LETTERS, _COMMON = 2, 0.6
_SIZE = re.compile(r"\b(\d+) ?Gi?B\b", re.IGNORECASE)


def find(name: str, memory_bytes: int | None = None) -> str | None:
    """Return the card that a name means, or None; of several sizes the one with such a memory, else the usual one.

    >>> find("RTX 4060 Ti"), find("NVIDIA GeForce RTX 4060 Ti", memory_bytes=round(7.75 * 2**30))
    ('RTX 4060 Ti 16GB', 'RTX 4060 Ti 8GB')
    """
    found = named(name)
    if not found or not memory_bytes:
        return found[0] if found else None
    return min(found, key=lambda each: abs(log(memory_bytes / (catalogue()[each]["memory_gib"].value * GIB))))


def near(name: str) -> str | None:
    """Return the card of the same generation whose name is nearest, or None where none is near.

    >>> near("RTX 4065"), near("RX 7950 XT"), near("abacus")
    ('RTX 4060', 'RX 7900 XT', None)
    """
    wanted = folded(_SIZE.sub("", name))
    alike = {
        each: (_leading(wanted, folded(each)), SequenceMatcher(None, wanted, folded(each)).ratio()) for each in cards()
    }
    best = max(alike, key=alike.__getitem__)
    letters, common = alike[best]
    return best if letters >= _LETTERS and common >= _COMMON else None


def _leading(one: str, other: str) -> int:
    """Return how many leading letters two texts share."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def unknown(name: str) -> str:
    """Return what to say of a name that no card bears: the nearest names, and how to describe a card of one's own."""
    close = nearest(_SIZE.sub("", name).strip(), cards())
    listed = close if close.startswith("did you mean") else f"devices() lists the {len(cards())} that there are."
    return f"there is no device {name!r}; {listed} For a card of your own, write {_own(name)}"


def _own(name: str) -> str:
    card = near(name)
    size = _SIZE.search(name)
    if card is None:
        memory = size[1] if size else "12"
        return (
            f"device({name!r}, memory='{memory} GiB', compute='44 TFLOP/s', bandwidth='288 GB/s') with its own figures"
        )
    memory = size[1] if size else f"{ceil(catalogue()[card]['memory_gib'].value / 2) * 2}"
    return f"device({name!r}, like={card!r}, memory='{memory} GiB')"
