"""Choices that say what they mean: enums whose members carry a sentence.

    class Tiling(Described):
        ON = "on", "Decode in tiles."

    Tiling.of("on", "tiling").doc       # "Decode in tiles."; another text is refused, with the texts that there are

Users give the text of a member, so a call reads `tiling="on"` and needs no import.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Described(StrEnum):
    """The base of enums whose members carry the sentence that tables, tooltips and errors use.

    >>> class Tiling(Described):
    ...     ON = "on", "Decode in tiles."
    >>> Tiling.ON == "on", Tiling("on").doc
    (True, 'Decode in tiles.')
    """

    doc: str

    def __new__(cls, value: str, doc: str = "") -> Described:
        """Make a member of its value and its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member

    @classmethod
    def of(cls, value: str, argument: str, *, error: type[ValueError] = ValueError) -> Self:
        """Return the member with a value.

        >>> class Tiling(Described):
        ...     ON, OFF = "on", "off"
        >>> Tiling.of("auto", "tiling")
        Traceback (most recent call last):
        ValueError: tiling is one of 'on', 'off'; got 'auto'

        Args:
            value: The text that the user gave, or a member.
            argument: The name of the argument, for the error.
            error: The class of the error.

        Raises:
            ValueError: No member has the value; `error`, if that is given.
        """
        if value not in list(cls):
            raise error(f"{argument} is one of {', '.join(repr(member.value) for member in cls)}; got {value!r}")
        return cls(value)
