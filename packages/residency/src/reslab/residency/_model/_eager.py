"""Compiled models and functions, rehearsed by what they were compiled from.

Nothing is compiled by a rehearsal, and what torch counts of the user's own compiling stays as it is: a compiled module
stands for its original, `Module.compile` is set aside, and compiled functions run as they were written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_CALL, _INNER = "_compiled_call_impl", "_orig_mod"


def original(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module that `torch.compile` was given, or the module itself where it is not compiled."""
    while type(module).__name__ == "OptimizedModule" and _INNER in module._modules:
        inner = module._modules[_INNER]
        assert inner is not None
        module = inner
    return module


def plain(path: str) -> str:
    """Return a path as it is where nothing is compiled.

    >>> plain("mid_block._orig_mod.attentions.0")
    'mid_block.attentions.0'
    """
    return path.replace(f"{_INNER}.", "").removesuffix(f".{_INNER}")


def method(module: torch.nn.Module, name: str) -> Callable[..., Any]:
    """Return a module's method as it was written; of a compiled module its original, with the hooks around it."""
    inner = original(module)
    if inner is not module and name == "forward":
        return inner.__call__
    found: Any = getattr(module, name)
    # a wrapper that was made of a compiled function has its marks, but for the right number
    while getattr(found, "_torchdynamo_wrapper_id", None) == id(found):
        found = found._torchdynamo_orig_callable
    return found


@contextmanager
def uncompiled(parts: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Let modules and functions compute as they were written within the block; then they are compiled as before.

    Args:
        parts: All modules inside the models.
    """
    if "torch._dynamo" not in sys.modules:  # nothing was compiled yet
        yield
        return
    before = [(attributes, call) for each in parts if (call := (attributes := vars(each)).get(_CALL)) is not None]
    try:
        for attributes, _call in before:
            attributes[_CALL] = None
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for attributes, call in before:
            attributes[_CALL] = call
