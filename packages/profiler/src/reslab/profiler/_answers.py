"""What a reader put into an exercise, as one number or one word.

Answers come as they are found: a number, a text with a unit, a scalar of numpy or torch, a polars column of one row.
Each becomes one number in the unit that was asked for, or one word. What cannot become that raises `AnswerError`, whose
sentence says what was wanted and what was got.

    as_number("81 GB/s", "GB/s")                    # 81.0
    as_number(frame.select("moved_gib"), "GiB")     # the value of a frame of one row and one column
    as_number("102 GiB", "GB")                      # 109.5…, converted
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sized
from typing import Any

_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGTP", start=1)}
_BYTES = {f"{prefix}B": size for prefix, size in _PREFIXES.items()} | _BINARY
#: Units that can be converted into each other, each with its size in the family's smallest.
FAMILIES: tuple[Mapping[str, float], ...] = (
    _BYTES,
    {f"{unit}/s": size for unit, size in _BYTES.items()},
    {f"{prefix}FLOP": size for prefix, size in _PREFIXES.items()},
    {"ns": 1.0, "µs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9},
)
_NUMBER = r"[+-]?(?:\d{1,3}(?:[,\s_]\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|[+-]?\.\d+"
_TEXT = re.compile(rf"(?:=|≈|~)?\s*({_NUMBER})\s*([^\d\s][^\d]*)?")


class AnswerError(ValueError):
    """An answer is not one number, or not one word."""


def as_number(answer: Any, unit: str = "") -> float:
    """Return an answer as one number in a unit.

    >>> as_number("1.5 TB/s", "GB/s"), as_number("14,080"), as_number(81)
    (1500.0, 14080.0, 81.0)

    Args:
        answer: A number, a text with or without a unit, or what holds exactly one of these.
        unit: What is asked for, such as "GiB"; a plain number is taken to be in it.

    Raises:
        AnswerError: It is not one number, or it has a unit of another kind.
    """
    value = single(answer)
    if isinstance(value, str):
        return _read(value, unit)
    if value is None or isinstance(value, bool | complex):
        raise AnswerError(f"one number is wanted, got {value!r}.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise AnswerError(f"one number is wanted, got something of type {type(value).__name__}.") from None
    if not math.isfinite(number):
        raise AnswerError(f"a finite number is wanted, got {number}.")
    return number


def as_word(answer: Any) -> str:
    """Return an answer as one word, without quotation marks and spaces around it.

    Raises:
        AnswerError: It is not one text.
    """
    value = single(answer)
    if not isinstance(value, str):
        raise AnswerError(f"one name is wanted, in quotation marks, got {_named(value)}.")
    return value.strip().strip("\"'`")


def single(answer: Any) -> Any:
    """Return the one value that a column, a frame, an array or a tensor holds; a plain value as it is.

    Raises:
        AnswerError: It holds no value, or several.
    """
    if isinstance(answer, str | bytes) or not (hasattr(answer, "item") or isinstance(answer, Sized)):
        return answer
    if not hasattr(answer, "item"):
        raise AnswerError(f"one value is wanted, got a {type(answer).__name__} of {len(answer)}; take one out of it.")
    try:
        return answer.item()
    except (TypeError, ValueError, RuntimeError):
        shape = " × ".join(map(str, getattr(answer, "shape", ())))
        kind = type(answer).__name__
        raise AnswerError(f"one value is wanted, got a {kind} of {shape}; take one row of one column.") from None


def _read(text: str, unit: str) -> float:
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise AnswerError(f"{text!r} is not one number; write it as 1234.5, with or without a unit.")
    number, given = float(re.sub(r"[,\s_]", "", match[1])), _spelled(match[2] or "")
    if not given or given == _spelled(unit):
        return number
    for family in FAMILIES:
        if given in family and unit in family:
            return number * family[given] / family[unit]
    if not re.fullmatch(r"[^\W\d]+(?:\s[^\W\d]+)*", given) or any(given in f or unit in f for f in FAMILIES):
        wanted = f"in {unit}" if unit else "without a unit"
        raise AnswerError(f"the number is wanted {wanted}, got {text!r}.")
    return number  # a count, with what is counted: "16 blocks"


def _spelled(unit: str) -> str:
    """Return a unit as the families spell it: "GiB per s", "TFLOPs", "blocks." as "GiB/s", "TFLOP", "blocks"."""
    plain = re.sub(r"\s+(?:per|a)\s+(?:s|sec|second)$", "/s", unit.strip().rstrip(".").replace("μ", "µ"))
    return (
        re.sub(r"FLOPS?$", "FLOP", plain, flags=re.IGNORECASE) if plain.upper().rstrip("S").endswith("FLOP") else plain
    )


def _named(value: Any) -> str:
    return (
        repr(value)
        if value is None or isinstance(value, bool | int | float)
        else f"something of type {type(value).__name__}"
    )
