"""Errors of a rehearsal, with the line of the caller's code that caused them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

#: Frames of these folders are ours or torch's; the caller's line is above them.
_INNER = ("/torch/", "/reslab/residency/_rehearse/")
#: Files of transformers that make tokens and texts of each other: they ask on behalf of the lines above them.
_WORDS = ("/transformers/tokenization_", "/transformers/processing_", "/transformers/utils/generic")


class RehearsalError(ValueError):
    """A rehearsal that cannot continue, or a file that cannot be read as one."""


class UnknownValueError(RehearsalError):
    """Code reads a value that depends on weights or on computed tensors, so that no rehearsal knows it."""


def where() -> str:
    """Return the caller's line: the file with its folder, the line number and the function."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename).as_posix()
        if not any(inner in path for inner in (*_INNER, *_WORDS)):
            return f"{'/'.join(Path(path).parts[-2:])}:{frame.lineno} in {frame.name}"
    return "unknown code"


def raise_unknown(op: str) -> NoReturn:
    """Raise `UnknownValueError` for an operation that reads the numbers of a phantom."""
    if _is_text():
        raise UnknownValueError(
            f"a text is generated here ({where()}), and no rehearsal knows its words. Rehearse with prompt_embeds, or "
            "without the block that generates the text, or give rehearse tokens that stand for it, with their reason: "
            'answers={"file.py:function": ([1, 2, 3], "why")}.'
        )
    raise UnknownValueError(
        f"{op} reads the value of a computed tensor, which a rehearsal does not know ({where()}). Give rehearse the "
        'answer and its reason: answers={"file.py:function": (value, "why")}.'
    )


def _is_text() -> bool:
    """Tell whether the tokens of a text are asked for: it is decoded, or generated."""
    files = [Path(frame.filename).as_posix() for frame in traceback.extract_stack()]
    return any(each in file for file in files for each in (*_WORDS[:2], "/transformers/generation/"))


def raise_read_outside(component: str, path: str, op: str) -> NoReturn:
    """Raise because a weight is read without a call of the component or of a module inside it."""
    raise RehearsalError(
        f"{op} reads the weight {path!r} of {component!r} outside of any call ({where()}); a rehearsal counts weights "
        f"where {component!r} or a module inside it is called: call the module that has the weight."
    )


def raise_cast(op: str, dtype: object) -> NoReturn:
    """Raise because autocast would cast what an operation is given."""
    kind = str(dtype).removeprefix("torch.")
    raise RehearsalError(
        f"autocast to {kind} casts what {op} is given ({where()}), which a rehearsal does not follow: convert the "
        "model to the type that it is to compute in, and rehearse without autocast."
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
