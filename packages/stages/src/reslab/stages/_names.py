"""Names: what a stage is called, and what its measurements are filed under.

A stage has three. Its class name is its type. Its registered name is unique in the pipeline and keys residency and
logs. Its profile name is what measurements are filed under, by one of two rules:

    "registered"           the registered name. Injective, independent of the order of adding, and never changed by
                           adding another stage: two stages never share a row.
    "first-keeps-class"    the reference's rule (sglang 0.5.23): the class name, unless an earlier stage has the same
                           class, else the registered name. Kept for comparison with its records. It files A, A as "B",
                           B as "b1" under A, B, B.

An explicit profile name wins under both rules and is reserved: it may not equal another stage's explicit, registered or
class name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from reslab.stages._described import Described


class PipelineError(ValueError):
    """A pipeline was built or called in a way that cannot work; nothing has been run."""


class ProfileNames(Described):
    """The two rules; see the module's docstring.

    >>> ProfileNames("registered").doc
    'The profile name is the registered name.'
    """

    REGISTERED = "registered", "The profile name is the registered name."
    FIRST_KEEPS_CLASS = (
        "first-keeps-class",
        "The first stage of a class is filed under the class name, later ones under their registered names.",
    )


def rule(name: str) -> ProfileNames:
    """Look up a naming rule.

    Raises:
        PipelineError: There is no such rule.
    """
    return ProfileNames.read("profile_names", name, error=PipelineError)


class Names(NamedTuple):
    """The names of one stage; `explicit` is the profile name that was set by hand, if any."""

    registered: str
    stage_class: str
    explicit: str | None = None


def profile_names(stages: Sequence[Names], by: str = ProfileNames.REGISTERED) -> list[str]:
    """Give each stage its profile name, in order.

    >>> a, b, c = Names("A", "A"), Names("B", "A"), Names("b1", "B")
    >>> profile_names([a, b, c])
    ['A', 'B', 'b1']
    >>> profile_names([a, b, c], "first-keeps-class")
    ['A', 'B', 'B']
    """
    seen: set[str] = set()
    filed = []
    by = rule(by)
    for names in stages:
        keeps_class = by is ProfileNames.FIRST_KEEPS_CLASS and names.stage_class not in seen
        seen.add(names.stage_class)
        filed.append(names.explicit or (names.stage_class if keeps_class else names.registered))
    return filed


def check_registered(name: str, others: Iterable[Names]) -> None:
    """Raise if `name` cannot be registered beside `others`, suggesting one that can."""
    others = list(others)
    _check_text(name, "registered name")
    taken = {other.registered for other in others}
    if name in taken:
        raise PipelineError(
            f"a stage is already registered as {name!r}; give this one a name of its own, "
            f"for example add(..., name={free_name(name, taken)!r})"
        )
    for other in others:
        if other.explicit == name:
            raise PipelineError(
                f"{name!r} is reserved: it is the explicit profile name of the stage {other.registered!r}; "
                f"choose another name, for example {free_name(name, {*taken, name})!r}"
            )


def check_class(stage_class: str, others: Iterable[Names]) -> None:
    """Raise if a stage of this class would meet another stage's explicit profile name."""
    for other in others:
        if other.explicit == stage_class:
            raise PipelineError(
                f"the stage {other.registered!r} has the explicit profile name {stage_class!r}, which is the class of "
                f"the stage being added; give {other.registered!r} another profile name first"
            )


def check_explicit(name: str, others: Iterable[Names]) -> None:
    """Raise if `name` cannot be the explicit profile name of a stage beside `others`."""
    _check_text(name, "profile name")
    for other in others:
        for what, value in (
            ("profile", other.explicit),
            ("registered", other.registered),
            ("class", other.stage_class),
        ):
            if value == name:
                raise PipelineError(
                    f"the profile name {name!r} is the {what} name of the stage {other.registered!r}; "
                    "two stages may not share a row: choose another"
                )


def free_name(name: str, taken: Iterable[str]) -> str:
    """Suggest a name near `name` that is free.

    >>> free_name("decode", {"decode", "decode_2"})
    'decode_3'
    """
    taken = set(taken)
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are near, as the end of an error's sentence.

    >>> nearest("Promt", ["width", "prompt"])
    "did you mean 'prompt'?"
    >>> nearest("zzz", ["width", "prompt"])
    'known: prompt, width'

    Args:
        name: The name that was given; capitals do not matter.
        known: The names that there are, in any order.
    """
    names = sorted(known)
    folded = {each.casefold(): each for each in names}
    close = get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
    return "known: " + (", ".join(names) or "none")


def _check_text(name: str, what: str) -> None:
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise PipelineError(f"a {what} is a text without blanks around it, got {name!r}")
