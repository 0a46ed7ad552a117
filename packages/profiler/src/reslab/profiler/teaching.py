"""Exercises: a check compares an answer with what the packages compute, and returns right or wrong, why, and a picture.

A notebook's exercise is a cell with `...` in place of the answer. Its check compares the answer with what the packages
compute, never with a number written down, and returns a `Verdict`. An answer is right if it is within half a unit of
the last digit asked for.

    passes = dict(truth=123, what="the number of passes", why="30 × 4 + 3")
    check_number(..., **passes)                                       # asks for an answer
    check_number(33, **passes, hints=Hints(traps={33: "one pass a step? guidance makes four"}))    # wrong, and why
    check_number("81 GB/s", truth=81.22, what="the bandwidth", why="…", asked=Asked(unit="GB/s", to=1))    # right

The first two wrong answers to a question get the hint of their trap, where one is known, else the direction. The third
also points to the section that explains the subject.

An answer may be a number, a text with a unit, a scalar of numpy or torch, or a polars column of one row. `as_number`
converts it to the unit asked for, and `as_word` returns it as one word. Both raise `AnswerError` for any other answer,
with what was wanted and what was given.

    as_number("81 GB/s", "GB/s")                    # 81.0
    as_number(frame.select("moved_gib"), "GiB")     # the value of a frame of one row and one column
    as_number("102 GiB", "GB")                      # 109.5…, converted
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from html import escape
from math import ceil, log10
from types import EllipsisType
from typing import Any

from reslab.profiler._report._figure import PALETTE, Figure
from reslab.stages.support import freeze

__all__ = ["Asked", "Hints", "Verdict", "check_choice", "check_number"]

_DIRECTIONS = 2  # wrong answers to one question that get their direction
_CLOSE = 1.5  # units of the last digit asked for
_GENERAL = {
    2.0: "is something counted twice?",
    0.5: "does something come twice, and is counted once?",
}

#: Distinct wrong answers so far, by question, to recognise the third.
_wrong: dict[tuple[str, Any], set[Any]] = {}


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a check: right, wrong or not answered yet, with a sentence and perhaps a picture.

    >>> Verdict(right=True, says="123 forward passes: 30 × 4 + 3.")
    Verdict('right: 123 forward passes: 30 × 4 + 3.')

    Attributes:
        right: Whether the answer is right; None where there is none yet.
        says: One or two sentences; they reveal the answer only where it is right.
        figure: A picture of the answer beside a known value, if there is one.
    """

    right: bool | None
    says: str
    figure: Figure | None = None

    @property
    def word(self) -> str:
        """One word for the verdict."""
        return {True: "right", False: "not yet", None: "your turn"}[self.right]

    def __repr__(self) -> str:
        return f"Verdict({f'{self.word}: {self.says}'!r})"

    def _repr_html_(self) -> str:
        colour = {True: PALETTE["green"], False: PALETTE["vermilion"], None: PALETTE["grey"]}[self.right]
        head = f'<p><b style="color:{colour}">{self.word}</b>: {escape(self.says)}</p>'
        return head + (_picture(self.figure) if self.figure is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The unit and the precision in which a number is asked for.

    Attributes:
        unit: The unit, such as "GiB", "GB/s", "TFLOP" or "ms"; empty for a count.
        to: One unit of the last digit asked for, such as 1 or 0.1; 0 asks for a count, which has to be exact.
        rounded: Answers that are right as well: results from parts that were rounded first, as the text shows them.
    """

    unit: str = ""
    to: float = 0
    rounded: tuple[float, ...] = ()

    @property
    def digits(self) -> int:
        """The number of digits after the point that are asked for."""
        return max(0, ceil(-log10(self.to))) if self.to else 0

    @property
    def words(self) -> str:
        """The precision in words, as the end of a phrase."""
        names = {0: ", as a whole number", 1: ", to one decimal", 2: ", to two decimals"}
        return names.get(self.digits, f", to {self.digits} decimals") if self.to else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """Help after a wrong answer.

    Attributes:
        traps: Likely wrong answers, each with a question or a sentence that leads on.
        section: The section that explains the subject, such as "section 4".
        beside: Known values that the picture shows beside the answer, by label; none of them is the answer.
    """

    traps: Mapping[Any, str] = field(default_factory=dict)
    section: str = ""
    beside: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self)


def check_number(
    answer: Any, *, truth: float, what: str, why: str, asked: Asked = Asked(), hints: Hints = Hints()
) -> Verdict:
    """Check a number.

    >>> check_number(..., truth=11, what="the number of passes", why="8 + 3")
    Verdict('your turn: put the number of passes in place of the dots.')
    >>> check_number(20, truth=11, what="the number of passes", why="8 + 3")
    Verdict('not yet: the number of passes is smaller than 20.')
    >>> check_number("2.3 GiB", truth=2.28, what="the size in GiB", why="the VAE", asked=Asked(unit="GiB", to=0.1))
    Verdict('right: the size in GiB is 2.3: the VAE.')

    Args:
        answer: The reader's number: plain, as a text with a unit, or as the one value of a column, an array or a
            tensor; or `...`.
        truth: The number that the packages compute, not rounded.
        what: The name of the number, as the subject of a sentence.
        why: The reason for the truth, shown with a right answer.
        asked: The unit and the precision.
        hints: Help after a wrong answer.
    """
    if isinstance(answer, EllipsisType):
        return Verdict(right=None, says=f"put {what}{asked.words} in place of the dots.")
    try:
        number = as_number(answer, asked.unit)
    except AnswerError as error:
        return Verdict(right=False, says=str(error))
    if _is_right(number, truth, asked):
        _wrong.pop((what, truth), None)
        return _right(number, truth, what, why, asked)
    figure = _wrong_picture(number, asked, hints.beside)
    return Verdict(right=False, says=_hint(number, truth, what, asked, hints), figure=figure)


def check_choice(
    answer: Any, *, truth: str, options: Sequence[str], what: str, why: str, hints: Hints = Hints()
) -> Verdict:
    """Check one choice out of several.

    >>> check_choice("B", truth="B", options=["A", "B"], what="the shared name", why="two stages are filed under it")
    Verdict('right: the shared name is B: two stages are filed under it.')

    Args:
        answer: The reader's choice: a text, or the one value of a column; or `...`.
        truth: The option that the packages compute.
        options: All options.
        what: The name of the choice, as the subject of a sentence.
        why: The reason for the truth, shown with a right answer.
        hints: Help after a wrong answer.
    """
    listed = ", ".join(options)
    if isinstance(answer, EllipsisType):
        return Verdict(right=None, says=f"put {what} in place of the dots: {listed}.")
    try:
        chosen = as_word(answer)
    except AnswerError as error:
        return Verdict(right=False, says=f"{error} There are {listed}.")
    chosen = next((option for option in options if option.casefold() == chosen.casefold()), chosen)
    if chosen == truth:
        _wrong.pop((what, truth), None)
        return Verdict(right=True, says=f"{what} is {truth}: {why}.")
    if chosen not in options:
        return Verdict(right=False, says=f"{chosen} is none of them; there are {listed}.")
    again = _count_wrong((what, truth), chosen) > _DIRECTIONS
    reason = f": {hints.traps[chosen]}" if chosen in hints.traps else f"; there are {listed}."
    return Verdict(right=False, says=f"{chosen} is not it{reason}" + (_pointer(hints) if again else ""))


def _is_right(number: float, truth: float, asked: Asked) -> bool:
    return _is_exact(number, truth, asked) or any(abs(number - each) <= 1e-9 * abs(each) for each in asked.rounded)


def _is_exact(number: float, truth: float, asked: Asked) -> bool:
    """Tell whether a number is within half a unit of the last digit asked for."""
    return abs(number - truth) <= asked.to / 2 + 1e-9 * max(1.0, abs(truth))


def _right(number: float, truth: float, what: str, why: str, asked: Asked) -> Verdict:
    mine, shown = _shown(number, asked), _shown(round(truth, asked.digits), asked)
    exact = _is_exact(number, truth, asked)
    note = "" if exact else f" {mine} is right as well: its parts were rounded first."
    rows = [("your answer", number, mine), ("what happens", truth, shown)]
    figure = _bars(rows, PALETTE["green"], f"Your answer is {mine}, and it is {shown}.")
    return Verdict(right=True, says=f"{what} is {shown}: {why}.{note}", figure=figure)


def _hint(number: float, truth: float, what: str, asked: Asked, hints: Hints) -> str:
    """Return the hint for a wrong number: its trap, its direction, or the section to read."""
    again = _count_wrong((what, truth), number) > _DIRECTIONS
    shown = _shown(number, asked)
    trap = next(_sprung(number, truth, asked, hints), None)
    if trap is not None:
        return f"{what} is not {shown}: {trap}" + (_pointer(hints) if again else "")
    if again:
        return f"{what} is not {shown}.{_pointer(hints)}"
    if not asked.to and not number.is_integer():
        return f"{what} is a whole number, and {shown} is none."
    return f"{what} is {'larger' if truth > number else 'smaller'} than {shown}."


def _sprung(number: float, truth: float, asked: Asked, hints: Hints) -> Iterator[str]:
    """Yield the traps that explain a wrong number, the likeliest first."""
    for value, reason in hints.traps.items():
        if abs(number - value) <= max(asked.to / 2, 1e-9 * abs(value)):
            yield reason
    for unit, size in _other_units(asked.unit):
        if _near(number, truth * size, asked):
            yield f"that is the answer in {unit}, and {asked.unit} is asked for."
    if 0 < abs(number - truth) <= (_CLOSE * asked.to or 1):
        yield _close(asked)
    for factor, reason in _GENERAL.items():
        if _near(number, truth * factor, asked):
            yield reason


def _close(asked: Asked) -> str:
    if not asked.to:
        return "close: count the first and the last again."
    return "close: compute with all digits and round once, at the end."


def _other_units(unit: str) -> Iterator[tuple[str, float]]:
    """Yield the other units of the same family, each with the factor that converts the asked unit to it."""
    for family in FAMILIES:
        if unit in family:
            yield from ((other, family[unit] / size) for other, size in family.items() if size != family[unit])


def _near(number: float, value: float, asked: Asked) -> bool:
    return abs(number - value) <= max(0.005 * abs(value), min(asked.to / 2, 0.05 * abs(value)))


def _count_wrong(question: tuple[str, Any], answer: float | str) -> int:
    """Return how many distinct wrong answers the question has had, this one included."""
    tried = _wrong.setdefault(question, set())
    tried.add(answer)
    return len(tried)


def _pointer(hints: Hints) -> str:
    return f" Read {hints.section or 'the text above'} again: it says how this comes about."


def _shown(number: float, asked: Asked) -> str:
    """Return a number with all its digits, and at least the digits that are asked for."""
    if float(number).is_integer() and not asked.digits:
        return f"{number:,.0f}"
    text = f"{number:,.10g}"
    return text if len(text.partition(".")[2]) >= asked.digits else f"{number:,.{asked.digits}f}"


def _wrong_picture(number: float, asked: Asked, beside: Mapping[str, float]) -> Figure | None:
    """Draw a wrong answer beside known values; None without such values."""
    if not beside:
        return None
    rows = [("your answer", number, _shown(number, asked))]
    rows += [(label, value, f"{value:,.{asked.digits}f}") for label, value in beside.items()]
    says = "; ".join(f"{label}: {text}" for label, _, text in rows)
    return _bars(rows, PALETTE["vermilion"], f"{says[0].upper()}{says[1:]}.")


def _bars(rows: Sequence[tuple[str, float, str]], hue: str, caption: str) -> Figure:
    """Draw the answer in its hue, and the values beside it in grey."""
    import altair as alt  # takes two seconds

    hues = [hue, *[PALETTE["grey"]] * (len(rows) - 1)]
    values = [
        {"label": label, "value": value, "text": text, "hue": colour}
        for (label, value, text), colour in zip(rows, hues, strict=True)
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("label:N", sort=None, title=None, axis={"ticks": False, "domain": False}),
        x=alt.X("value:Q", axis=None),
    )
    bars = base.mark_bar(height=14).encode(color=alt.Color("hue:N", scale=None, legend=None))
    texts = base.mark_text(align="left", dx=5).encode(text="text:N")
    return Figure.from_altair(alt.layer(bars, texts).properties(width=260, height=alt.Step(22)), caption=caption)


def _picture(figure: Figure) -> str:
    data, _metadata = figure._repr_mimebundle_()
    return f'<img alt="{escape(figure.caption)}" width="420" src="data:image/png;base64,{data["image/png"]}">'


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
        answer: A number, a text with or without a unit, or a container of exactly one of these.
        unit: The unit asked for, such as "GiB"; a plain number is in it.

    Raises:
        AnswerError: The answer is not one number, or it has a unit of another kind.
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
        AnswerError: The answer is not one text.
    """
    value = single(answer)
    if not isinstance(value, str):
        raise AnswerError(f"one name is wanted, in quotation marks, got {_named(value)}.")
    return value.strip().strip("\"'`")


def single(answer: Any) -> Any:
    """Return the one value of a column, a frame, an array or a tensor; return a plain value as it is.

    Raises:
        AnswerError: The answer holds no value, or several.
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
