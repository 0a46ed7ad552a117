"""Choices that say what they mean: the base of the enums of this package."""

from __future__ import annotations

from enum import StrEnum


class Described(StrEnum):
    """An enum whose members carry the sentence that tables, tooltips and errors use."""

    doc: str

    def __new__(cls, value: str, doc: str = "") -> Described:
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member
