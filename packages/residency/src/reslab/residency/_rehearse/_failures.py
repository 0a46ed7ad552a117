"""Errors of a rehearsal, with the line of the caller's code that caused them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

#: Frames of these folders are ours or torch's; the caller's line is above them.
_INNER = ("/torch/", "/reslab/residency/_rehearse/")


class RehearsalError(ValueError):
    """A rehearsal that cannot continue, or a file that cannot be read as one."""


class UnknownValueError(RehearsalError):
    """Code reads a value that depends on weights or on computed tensors, so that no rehearsal knows it."""


def where() -> str:
    """Return the caller's line: the file with its folder, the line number and the function."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename).as_posix()
        if not any(inner in path for inner in _INNER):
            return f"{'/'.join(Path(path).parts[-2:])}:{frame.lineno} in {frame.name}"
    return "unknown code"


def raise_unknown(op: str) -> NoReturn:
    """Raise `UnknownValueError` for an operation that reads the numbers of a phantom."""
    raise UnknownValueError(
        f"{op} reads the value of a computed tensor, which a rehearsal does not know ({where()}). Give rehearse the "
        'answer and its reason: answers={"file.py:function": (value, "why")}.'
    )


def raise_uncosted(calls: Mapping[str, int], nbytes: Mapping[str, int], total_bytes: int) -> NoReturn:
    """Raise `RehearsalError` for operations without a cost formula, listing each with its share of the bytes."""
    listed = "; ".join(
        f"{name} ({count} calls, {100 * nbytes[name] / max(total_bytes, 1):.2g} % of the bytes)"
        for name, count in calls.items()
    )
    raise RehearsalError(
        f"{len(calls)} of the operations have no cost formula: {listed}. Give rehearse a formula for their FLOPs, or 0 "
        'for operations that only move bytes: costs={"' + next(iter(calls)) + '": lambda args, out: 0}.'
    )


#: The answers to reads of unknown values: "file.py:function" → (value, reason).
Answers = Mapping[str, tuple[object, str]]
#: Cost formulas: operation → function that returns FLOPs from its arguments and its result.
Costs = Mapping[str, Callable[..., int]]
