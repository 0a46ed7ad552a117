"""Compiled models and functions, run as they were written before compilation.

A rehearsal compiles nothing and leaves torch's counts of the user's own compilations alone: a compiled module stands
for its original, `Module.compile` is set aside, and compiled functions run as they were written.

    with uncompiled(model.modules()):
        model(x)                     # eager
    original(compiled), method(compiled, "forward")
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
    """Return the path that a module has in the uncompiled model.

    >>> plain("mid_block._orig_mod.attentions.0")
    'mid_block.attentions.0'
    """
    return path.replace(f"{_INNER}.", "").removesuffix(f".{_INNER}")


def method(module: torch.nn.Module, name: str) -> Callable[..., Any]:
    """Return a module's method before compilation; for a compiled module, its original's call with the hooks."""
    inner = original(module)
    if inner is not module and name == "forward":
        return inner.__call__
    found: Any = getattr(module, name)
    # a wrapper made around a compiled function copies its attributes, the id included, which is then another's
    while getattr(found, "_torchdynamo_wrapper_id", None) == id(found):
        found = found._torchdynamo_orig_callable
    return found


@contextmanager
def uncompiled(parts: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Run modules and functions without their compiled versions within the block.

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
