"""What torch refuses on meta, answered for phantoms: contexts of autocast, and flex attention.

Code that asks a phantom for its device hears "meta", and torch has neither autocast nor flex attention for that.

    with substituted(phantoms):
        torch.autocast("meta", enabled=False)      # changes nothing
        flex_attention(query, key, value)          # recorded as one fused operation

Autocast that is on casts operation by operation. A rehearsal does not repeat that: what autocast leaves as it is counts
as it is, and what it would cast is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from reslab.residency._rehearse._phantom import META, Phantoms

_NAME = "flex_attention"
_PLACE = "torch.nn.attention.flex_attention"
_ASKED = "_reslab_asked"


@contextmanager
def substituted(phantoms: Phantoms) -> Iterator[None]:
    """Answer within the block what torch has not on meta."""
    with ExitStack() as stack:
        kind = torch.amp.autocast_mode.autocast
        for name, value in _autocast(kind, phantoms).items():
            stack.enter_context(_replaced(kind, name, value))
        for name, function in _questions(phantoms).items():
            stack.enter_context(_replaced(torch, name, function))
        flex = getattr(sys.modules.get(_PLACE), _NAME, None)
        if flex is not None:
            ours = _flex(flex, phantoms)
            # modules that import the function have it under their own names
            for module in [each for each in list(sys.modules.values()) if vars(each).get(_NAME) is flex]:
                stack.enter_context(_replaced(module, _NAME, ours))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _autocast(kind: Any, phantoms: Phantoms) -> dict[str, Callable[..., Any]]:
    """Return the methods of autocast's class that know of meta and note to which type they cast."""
    make, enter, leave = kind.__init__, kind.__enter__, kind.__exit__

    def init(
        self: Any,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        asked = (dtype or torch.get_autocast_dtype(device_type)) if enabled else None
        if device_type == META.type:
            self.device, self._enabled, self.fast_dtype = device_type, enabled, dtype
        else:
            make(self, device_type, dtype, enabled, cache_enabled)
        setattr(self, _ASKED, asked)

    def begin(self: Any) -> Any:
        phantoms.casts.append(getattr(self, _ASKED, self.fast_dtype if self._enabled else None))
        return self if self.device == META.type else enter(self)

    def end(self: Any, *error: Any) -> Any:
        phantoms.casts.pop()
        return False if self.device == META.type else leave(self, *error)

    return {"__init__": init, "__enter__": begin, "__exit__": end}


def _questions(phantoms: Phantoms) -> dict[str, Callable[..., Any]]:
    """Return torch's questions about autocast, answered for meta too."""
    is_enabled, dtype_of = torch.is_autocast_enabled, torch.get_autocast_dtype

    def is_autocast_enabled(*device_type: str) -> bool:
        return phantoms.cast_to is not None if device_type == (META.type,) else is_enabled(*device_type)

    def get_autocast_dtype(device_type: str) -> torch.dtype:
        return phantoms.cast_to or torch.bfloat16 if device_type == META.type else dtype_of(device_type)

    return {"is_autocast_enabled": is_autocast_enabled, "get_autocast_dtype": get_autocast_dtype}


def _flex(original: Callable[..., Any], phantoms: Phantoms) -> Callable[..., Any]:
    """Return flex attention that records one operation for phantoms."""

    def flex_attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        score_mod: Any = None,
        block_mask: Any = None,
        *more: Any,
        return_lse: bool = False,
        **named: Any,
    ) -> Any:
        if not any(phantoms.is_phantom(each) for each in (query, key, value)):
            return original(query, key, value, score_mod, block_mask, *more, return_lse=return_lse, **named)
        out = phantoms.flex_attention(query, key, value, block_mask)
        if not return_lse:
            return out
        with phantoms.paused():
            return out, torch.empty(query.shape[:-1], dtype=torch.float32, device=META)

    return flex_attention
