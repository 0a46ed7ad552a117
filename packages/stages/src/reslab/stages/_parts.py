"""Calls that enter a component below its root: `text_encoder.model(…)`, `text_encoder.layers[3](…)`.

Some blocks never call their text encoder: they call a module inside it, and its weights have to be there all the same.
Such a call is a component call too; its method is the module's path. It is seen by shadowing the `forward` of every
module inside that has weights. Inside a component's own calls nothing is shadowed, so that these run as they would.

    parts = Parts(parts_with_weights(text_encoder), around=report)
    with parts.seen():              # for the duration of a run
        with parts.unseen():        # around each call of the component
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: How torch.compile calls the module that it was given, which is the component itself.
_COMPILED = "_orig_mod"
#: What stands for the forward of modules that have none, such as lists.
_NO_FORWARD = "_forward_unimplemented"


def parts_with_weights(component: Any) -> dict[str, Any]:
    """Return the modules inside a component that can be called and have weights, by path; none where one is compiled.

    >>> parts_with_weights(object())
    {}
    """
    if not hasattr(component, "named_modules"):
        return {}
    inside = dict(component.named_modules())
    # compiled in place, torch traces the calls of the component through whatever stands in for a forward
    if any(getattr(part, "_compiled_call_impl", None) is not None for part in inside.values()):
        return {}
    weighted: set[str] = set()
    for path, part in inside.items():
        if any(weight is not None for weight in part._parameters.values()):
            while path and path not in weighted:
                weighted.add(path)
                path = path.rpartition(".")[0]
    return {
        path: part
        for path, part in inside.items()
        if path in weighted and not path.endswith(_COMPILED) and _can_be_called(part)
    }


def _can_be_called(part: Any) -> bool:
    return getattr(part.forward, "__name__", "") != _NO_FORWARD


def is_seen(module: Any) -> bool:
    """Return whether a call of this module, made now, is reported as a component call of its own."""
    return getattr(vars(module).get("forward"), "is_part_call", False)


class Parts:
    """Sees calls of the modules inside one component.

    Args:
        modules: The modules by path.
        around: Makes what stands for a part's call, from its path and the call itself.
    """

    def __init__(
        self, modules: Mapping[str, Any], around: Callable[[str, Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._around, self._depth = around, 0
        self._calls = [(vars(part), self._call(path, part)) for path, part in modules.items()]
        self._own: list[tuple[dict[str, Any], Any]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    @contextmanager
    def seen(self) -> Iterator[None]:
        """See the calls made within the block; every module is afterwards as it was."""
        self._shadow()
        try:
            yield
        finally:
            self._restore()

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Let the modules be as they were, while the component computes."""
        self._depth += 1
        if self._depth == 1:
            self._restore()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._shadow()

    def _shadow(self) -> None:
        # once around each component call, for thousands of modules: one operation for nearly each of them
        self._own = []
        for attributes, call in self._calls:
            before = attributes.setdefault("forward", call)
            if before is not call:
                self._own.append((attributes, before))
                attributes["forward"] = call

    def _restore(self) -> None:
        for attributes, _call in self._calls:
            del attributes["forward"]
        for attributes, before in self._own:
            attributes["forward"] = before

    def _call(self, path: str, part: Any) -> Callable[..., Any]:
        reported: list[Callable[..., Any]] = []  # made at the first call: of thousands of modules few are ever called

        def forward(*args: Any, **kwargs: Any) -> Any:
            return part.forward(*args, **kwargs)  # its own again: `call` has removed the shadow

        def call(*args: Any, **kwargs: Any) -> Any:
            if not reported:
                reported.append(self._around(path.replace(f"{_COMPILED}.", ""), forward))
            with self.unseen():
                return reported[0](*args, **kwargs)

        call.__wrapped__ = part.forward  # type: ignore[attr-defined]  # callers read the signature
        call.is_part_call = True  # type: ignore[attr-defined]
        return call
