"""Exercises that say right or wrong, with a picture.

A notebook's exercise is a cell with `...` where the answer goes. Its check compares the answer with what the packages
compute, never with a number written down, and returns a `Verdict`.

    check_number(..., truth=123, what="the number of forward passes", why="30 × 4 + 3")      # asks for an answer
    check_number(120, truth=123, what="the number of forward passes", why="30 × 4 + 3")      # wrong, and by how much
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from types import EllipsisType
from typing import Any

from reslab.profiler._vega import PALETTE, Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check says of an answer.

    >>> Verdict(right=True, says="123 forward passes: 30 × 4 + 3.")
    Verdict('right: 123 forward passes: 30 × 4 + 3.')

    Attributes:
        right: Whether the answer is right; None where there is none yet.
        says: One or two sentences; they give the answer away only where it is right.
        figure: A picture of the answer beside what is, if there is one.
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


def check_number(answer: int | float | EllipsisType, *, truth: int | float, what: str, why: str) -> Verdict:
    """Check a number.

    >>> check_number(..., truth=11, what="the number of passes", why="8 + 3")
    Verdict('your turn: put the number of passes in place of the dots.')
    >>> check_number(10, truth=11, what="the number of passes", why="8 + 3")
    Verdict('not yet: the number of passes is larger than 10.')

    Args:
        answer: The reader's number, or `...`.
        truth: What the packages compute.
        what: What is asked for.
        why: How the truth comes about, said with a right answer.
    """
    if isinstance(answer, EllipsisType):
        return Verdict(right=None, says=f"put {what} in place of the dots.")
    if answer == truth:
        both = [("your answer", answer, f"{answer:,}"), ("what happens", truth, f"{truth:,}")]
        return Verdict(right=True, says=f"{what} is {truth:,}: {why}.", figure=_bars(both, f"Both are {truth:,}."))
    off = "small" if truth > answer else "large"
    figure = _bars([("your answer", answer, f"{answer:,}: too {off}")], f"Your answer is too {off}.")
    return Verdict(
        right=False, says=f"{what} is {'larger' if off == 'small' else 'smaller'} than {answer:,}.", figure=figure
    )


def check_choice(answer: Any, *, truth: Any, options: Sequence[Any], what: str, why: str) -> Verdict:
    """Check one choice out of several.

    >>> check_choice("B", truth="B", options=["A", "B"], what="the shared name", why="two stages are filed under it")
    Verdict('right: the shared name is B: two stages are filed under it.')

    Args:
        answer: The reader's choice, or `...`.
        truth: What the packages compute.
        options: What there is to choose from.
        what: What is asked for.
        why: Why it is so, said with a right answer.
    """
    listed = ", ".join(map(str, options))
    if isinstance(answer, EllipsisType):
        return Verdict(right=None, says=f"put {what} in place of the dots: {listed}.")
    if answer == truth:
        return Verdict(right=True, says=f"{what} is {truth}: {why}.")
    kind = "is not it" if answer in options else "is none of them"
    return Verdict(right=False, says=f"{answer} {kind}; there are {listed}.")


def _bars(rows: Sequence[tuple[str, float, str]], caption: str) -> Figure:
    import altair as alt  # takes two seconds

    values = [{"label": label, "value": value, "text": text} for label, value, text in rows]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("label:N", sort=None, title=None, axis={"ticks": False, "domain": False}),
        x=alt.X("value:Q", axis=None),
    )
    layers = base.mark_bar(height=14, color=PALETTE["green"]), base.mark_text(align="left", dx=5).encode(text="text:N")
    return Figure.from_altair(alt.layer(*layers).properties(width=260, height=alt.Step(22)), caption=caption)


def _picture(figure: Figure) -> str:
    data, _metadata = figure._repr_mimebundle_()
    return f'<img alt="{escape(figure.caption)}" width="420" src="data:image/png;base64,{data["image/png"]}">'
