"""Choices that say what they mean: enums whose members carry a sentence."""

from __future__ import annotations

from enum import StrEnum


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
