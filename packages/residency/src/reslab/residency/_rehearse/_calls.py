"""Component calls, each traced once per distinct shape.

A call's tensors are taken as phantoms, so that the thirtieth denoising step is the first one again. Where the model reads
a number (Gemma's masks do), the call is traced again with what is known of its arguments, and told apart by it from
then on. A call with an active LoRA is traced twice, as it runs and with the LoRA merged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from reslab.residency._rehearse import _lora
from reslab.residency._rehearse._errors import UnknownValueError
from reslab.residency._rehearse._liveness import Liveness
from reslab.residency._rehearse._phantom import Phantoms, phantom_like
from reslab.residency._rehearse._repeat import Repeats, settings
from reslab.residency._rehearse._structure import Template, Unshareable, key, map_tensors
from reslab.residency._rehearse._trace import Segment, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A distinct component call."""

    component: str
    method: str
    shapes: str
    lora: str
    segments: list[Segment]
    activation_peak_bytes: int
    workspace_bytes: int
    output_bytes: int


class Call(NamedTuple):
    """One component call: its distinct trace, the one with a merged LoRA, its shapes, and what was alive before."""

    trace: int
    merged_trace: int | None
    shapes: str
    live_bytes: int


class _Known(NamedTuple):
    trace: int
    merged_trace: int | None
    shapes: str
    result: Template


class Calls:
    """Answers component calls with phantoms.

    Args:
        phantoms: What runs the operations.
        liveness: What is alive, inside and outside components.
        share: Whether equal blocks are traced once.
        told: Called with each call made.
    """

    def __init__(self, phantoms: Phantoms, liveness: Liveness, *, share: bool, told: Callable[[Call], None]) -> None:
        self.phantoms, self.liveness, self.told = phantoms, liveness, told
        self.repeats = Repeats(phantoms, share=share)
        self.traced: list[Traced] = []
        self._known: dict[Any, _Known] = {}
        self._by_value: set[Any] = set()
        self._tracing = False

    def answering(self, owner: torch.nn.Module, name: Callable[[], str], method: str) -> Callable[..., Any]:
        """Make what stands for a component's method; its signature is kept."""
        original = getattr(owner, method)
        parameters, adapted = inspect.signature(original), _lora.adapted_layers(owner)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._tracing:
                return original(*args, **kwargs)
            live = self.liveness.now
            known, result = self._answer(owner, name(), method, original, parameters, adapted, args, kwargs)
            self.told(Call(known.trace, known.merged_trace, known.shapes, live))
            return result

        call.__signature__ = parameters  # type: ignore[attr-defined]
        call.__wrapped__ = original  # type: ignore[attr-defined]
        return call

    def _answer(
        self, owner: Any, name: str, method: str, original: Any, parameters: Any, adapted: Any, args: Any, kwargs: Any
    ) -> tuple[_Known, Any]:
        place = (id(owner), method)
        given = (args, kwargs)
        if place not in self._by_value:
            given = self._unknown(given)
        same = self._key(place, owner, _lora.active(adapted), given)
        known = self._known.get(same) if same is not None else None
        inputs = self._tensors(given)
        if known is not None:
            return known, self._again(known, inputs)
        shapes = shapes_of(parameters, args, kwargs)
        try:
            known, result = self._trace(name, method, shapes, original, adapted, given, inputs)
        except UnknownValueError:
            if place in self._by_value:
                raise
            self._by_value.add(place)
            known = None
        if known is None:
            return self._answer(owner, name, method, original, parameters, adapted, args, kwargs)
        if same is not None:
            self._known[same] = known
        return known, result

    def _trace(
        self, name: str, method: str, shapes: str, original: Any, adapted: Any, given: Any, inputs: Any
    ) -> tuple[_Known, Any]:
        merged = None
        if _lora.active(adapted):
            with _lora.switched_off(adapted):
                self._traced(name, method, shapes, "merged", original, given, state=frozenset())
            merged = len(self.traced) - 1
        state = _lora.active(adapted)
        result = self._traced(name, method, shapes, "dynamic" if state else "none", original, given, state=state)
        self.phantoms.paused = True
        template = Template(result, inputs)
        self.phantoms.paused = False
        return _Known(len(self.traced) - 1, merged, shapes, template), result

    def _traced(
        self, name: str, method: str, shapes: str, lora: str, original: Any, given: Any, *, state: Any
    ) -> Any:
        outside, trace = self.phantoms.record, Trace(self.liveness)
        self.phantoms.record, self._tracing = trace, True
        try:
            with self.repeats.tracing(trace, state):
                result = original(*given[0], **given[1])
        finally:
            self.phantoms.record, self._tracing = outside, False
        trace.close()
        self.traced.append(
            Traced(
                component=name,
                method=method,
                shapes=shapes,
                lora=lora,
                segments=trace.segments,
                activation_peak_bytes=trace.activation_peak_bytes,
                workspace_bytes=trace.workspace_bytes,
                output_bytes=self.liveness.now - trace.start_bytes,
            )
        )
        return result

    def _again(self, known: _Known, inputs: list[torch.Tensor]) -> Any:
        self.phantoms.paused = True
        result, fresh = known.result.build(inputs)
        self.phantoms.paused = False
        for tensor in fresh:
            self.liveness.add(tensor)
        return result

    def _unknown(self, given: Any) -> Any:
        self.phantoms.paused = True
        made: dict[int, torch.Tensor] = {}

        def blank(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if tensor.is_meta else made.setdefault(id(tensor), phantom_like(tensor))

        unknown = map_tensors(given, blank)
        self.phantoms.paused = False
        return unknown

    def _key(self, place: Any, owner: Any, lora: Any, given: Any) -> Any:
        self.phantoms.paused = True
        try:
            return place, settings(owner), lora, key(given, self.phantoms)
        except Unshareable:
            return None
        finally:
            self.phantoms.paused = False

    def _tensors(self, given: Any) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        map_tensors(given, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found


def shapes_of(parameters: inspect.Signature, args: Any, kwargs: Any) -> str:
    """Write the shapes of a call's tensors by the names of its parameters.

    >>> def forward(hidden_states, timestep, return_dict=True): ...
    >>> shapes_of(inspect.signature(forward), (torch.empty(1, 6144, 128),), {"timestep": torch.empty(1)})
    'hidden_states 1×6144×128, timestep 1'
    """
    given = parameters.bind_partial(*args, **kwargs).arguments
    named: dict[str, Any] = {}
    for name, value in given.items():
        variadic = parameters.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        named |= value if variadic else {name: value}
    texts = {name: _shape(value) for name, value in named.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items() if text)


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "×".join(str(size) for size in value.shape) or "()"
    if isinstance(value, (list, tuple)):
        inner = [text for text in map(_shape, value) if text]
        return f"[{', '.join(inner)}]" if inner else ""
    return ""

