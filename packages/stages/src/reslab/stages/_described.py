"""Choices that say what they mean: enums whose members carry a sentence."""

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
    def read(cls, argument: str, value: object, *, error: type[ValueError] = ValueError) -> Self:
        """Return the member whose value a user gave as a string.

        >>> class Tiling(Described):
        ...     ON = "on", "Decode in tiles."
        ...     OFF = "off", "Decode as a whole."
        >>> Tiling.read("tiling", "on").doc
        'Decode in tiles.'
        >>> Tiling.read("tiling", "yes")
        Traceback (most recent call last):
        ValueError: tiling is one of 'on', 'off'; got 'yes'

        Args:
            argument: The name of the argument, as the error says it.
            value: A member, or its value.
            error: The error to raise.

        Raises:
            ValueError: No member has that value; the sentence lists those that there are.
        """
        for member in cls:
            if member == value:
                return member
        raise error(f"{argument} is one of {', '.join(repr(str(member)) for member in cls)}; got {value!r}")
