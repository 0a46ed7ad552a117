"""Component calls, each traced once per distinct shape.

A call's tensors become phantoms, so that the thirtieth denoising step equals the first. If the model reads a number (as
the code of Gemma's masks does), the call is traced again with the known numbers of its arguments, which distinguish
calls of this method from then on. A call with an active LoRA is traced twice, as it runs and with the LoRA merged; a
call of a component that can compute in tiles and does not is traced as it runs and in tiles. A module inside a
component that is called from outside is traced like the component; its path is the method.

    answer = calls.answering(vae, lambda: "vae", "decode")     # stands in for vae.decode
    calls.traced                                               # every distinct call with its segments

Calls inside a component are in `_repeat`, the segments of a call in `_trace`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from reslab.residency._model import _eager, _lora
from reslab.residency._model._storage import Unusual, unusual
from reslab.residency._rehearse._failures import UnknownValueError
from reslab.residency._rehearse._phantom import Phantoms, phantom_like
from reslab.residency._rehearse._repeat import Repeats, settings
from reslab.residency._rehearse._structure import GivenTensors, Template, Unshareable, key, map_tensors, sharing
from reslab.residency._rehearse._trace import Liveness, Segment, Trace
from reslab.residency._rehearse._weightless import raise_unfollowed
from reslab.stages.support import shadowed

#: Methods that some components can compute in tiles.
_IN_TILES = ("encode", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedCall:
    """A distinct component call, with its segments and its bytes."""

    component: str
    method: str
    shapes: str
    lora: str
    segments: list[Segment]
    activation_peak_bytes: int
    workspace_bytes: int
    output_bytes: int


class ComponentCall(NamedTuple):
    """One component call: its traces as it ran, with a merged LoRA and in tiles, its shapes, and bytes alive before."""

    trace: int
    merged_trace: int | None
    tiled_trace: int | None
    shapes: str
    live_bytes: int


class _Method(NamedTuple):
    """A method of a component or of a module inside it, and the layers inside that carry a LoRA."""

    owner: torch.nn.Module
    name: str
    original: Callable[..., Any]
    parameters: inspect.Signature
    adapted: list[Any]
    switches: list[Any]
    weights: Unusual | None

    @property
    def lora(self) -> frozenset[Any]:
        """Return the adapters that are on."""
        return _lora.active(self.switches)


class _Known(NamedTuple):
    """The traces and shapes of a call that was traced before, and its result."""

    trace: int
    merged_trace: int | None
    tiled_trace: int | None
    shapes: str
    result: Template | None  # None: the result cannot be made again


class CallTracer:
    """Answers component calls with phantoms.

    Args:
        phantoms: The mode that runs operations.
        liveness: The bytes alive, inside and outside components.
        share: Whether equal blocks are traced once.
        listed: Called with each component call.
    """

    def __init__(
        self, phantoms: Phantoms, liveness: Liveness, *, share: bool, listed: Callable[[ComponentCall], None]
    ) -> None:
        self.phantoms, self.liveness, self.listed = phantoms, liveness, listed
        self.repeats = Repeats(phantoms, share=share)
        self.traced: list[TracedCall] = []
        self._known: dict[Any, _Known] = {}
        self._by_value: set[Any] = set()
        self._tracing = False

    def answering(
        self,
        owner: torch.nn.Module,
        name: Callable[[], str],
        method: str,
        weights: Unusual | None = None,
        path: str = "",
    ) -> Callable[..., Any]:
        """Return a function that stands in for a component's method, with the same signature.

        Args:
            owner: The component, or a module inside it.
            name: Returns the name under which the component is called.
            method: The method's name.
            weights: The weights of `owner` that are not plain, if it has any.
            path: The path of `owner` in its component.
        """
        component, original = _eager.original(owner), _eager.method(owner, method)
        parameters, adapted = inspect.signature(getattr(component, method)), _lora.adapted_layers(component)
        switches = _lora.representatives(adapted)
        about = _Method(component, path or method, original, parameters, adapted, switches, weights)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._tracing:
                return original(*args, **kwargs)
            if weights is not None and not weights.followed:
                raise_unfollowed(name(), weights)
            live = self.liveness.now
            known, result = self._answer(about, name(), args, kwargs)
            self.listed(ComponentCall(known.trace, known.merged_trace, known.tiled_trace, known.shapes, live))
            return result

        call.__signature__ = parameters  # type: ignore[attr-defined]
        call.__wrapped__ = original  # type: ignore[attr-defined]
        return call

    def answering_part(self, part: torch.nn.Module, name: Callable[[], str], path: str) -> Callable[..., Any]:
        """Make what stands for the forward of a module inside a component, where it is called from outside."""
        original = part.forward
        made: list[Callable[..., Any]] = []

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._tracing:
                return original(*args, **kwargs)
            if not made:  # at the first call: of thousands of modules few are ever called
                weights = unusual(part)
                weights = weights and weights._replace(path=f"{path}.{weights.path}")
                with shadowed(part, "forward", original):
                    made.append(self.answering(part, name, "forward", weights, path))
            return made[0](*args, **kwargs)

        call.__wrapped__ = original  # type: ignore[attr-defined]
        return call

    def _answer(self, about: _Method, name: str, args: Any, kwargs: Any) -> tuple[_Known, Any]:
        place = (id(about.owner), about.name)
        given = (args, kwargs) if place in self._by_value else self._unknown((args, kwargs))
        same = self._key(place, about, given)
        if known := self._known.get(same):
            assert known.result is not None
            return known, self._again(known.result, given)
        shapes = shapes_of(about.parameters, args, kwargs)
        try:
            known, result = self._trace(about, name, shapes, given)
        except UnknownValueError:
            if place in self._by_value:
                raise
            self._by_value.add(place)
        except (NotImplementedError, RuntimeError, TypeError, AttributeError) as error:
            if about.weights is None:
                raise
            raise_unfollowed(name, about.weights, f" ({type(error).__name__}: {error})")
        else:
            if same is not None and known.result is not None:
                self._known[same] = known
            return known, result
        return self._answer(about, name, args, kwargs)

    def _trace(self, about: _Method, name: str, shapes: str, given: Any) -> tuple[_Known, Any]:
        merged, lora = None, about.lora
        if lora:
            with _lora.switched_off(about.adapted):
                self._traced(about, name, shapes, "merged", given)
            merged = len(self.traced) - 1
        tiled = self._in_tiles(about, name, shapes, given)
        before = GivenTensors(given)
        result = self._traced(about, name, shapes, "dynamic" if lora else "none", given)
        number = len(self.traced) - 1
        if tiled is not None and self.traced[tiled].segments == self.traced[number].segments:
            del self.traced[tiled]
            number, tiled = number - 1, None
        return _Known(number, merged, tiled, shapes, self._template(result, before)), result

    def _in_tiles(self, about: _Method, name: str, shapes: str, given: Any) -> int | None:
        """Trace a call in tiles and return the trace's number; None if it cannot be tiled or is tiled already."""
        if about.name not in _IN_TILES or getattr(about.owner, "use_tiling", None) is not False:
            return None
        try:
            with shadowed(about.owner, "use_tiling", True):
                self._traced(about, name, shapes, "none", given)
        except Exception:  # the run itself has no tiles, so a model that fails with them can still be rehearsed
            return None
        return len(self.traced) - 1

    def _template(self, result: Any, before: GivenTensors) -> Template | None:
        with self.phantoms.paused():
            try:
                return Template(result, before, self.phantoms)
            except Unshareable:
                return None

    def _traced(self, about: _Method, name: str, shapes: str, lora: str, given: Any) -> Any:
        outside, trace = self.phantoms.record, Trace(self.liveness)
        weights, self.phantoms.weights = self.phantoms.weights, None
        self.phantoms.record, self._tracing = trace, True
        try:
            with self.repeats.tracing(trace, about.lora):
                result = about.original(*given[0], **given[1])
        finally:
            self.phantoms.record, self._tracing = outside, False
            self.phantoms.weights = weights
        trace.close()
        self.traced.append(
            TracedCall(
                component=name,
                method=about.name,
                shapes=shapes,
                lora=lora,
                segments=trace.segments,
                activation_peak_bytes=trace.activation_peak_bytes,
                workspace_bytes=trace.workspace_bytes,
                output_bytes=self.liveness.now - trace.start_bytes,
            )
        )
        return result

    def _again(self, template: Template, given: Any) -> Any:
        with self.phantoms.paused():
            result, fresh = template.build(GivenTensors(given))
        for tensor in fresh:
            self.liveness.add(tensor)
        return result

    def _unknown(self, given: Any) -> Any:
        made: dict[int, torch.Tensor] = {}

        def blank(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if tensor.is_meta else made.setdefault(id(tensor), phantom_like(tensor))

        with self.phantoms.paused():
            return map_tensors(given, blank)

    def _key(self, place: Any, about: _Method, given: Any) -> Any:
        with self.phantoms.paused():
            try:
                asked = settings(about.owner, private=False), about.lora, key(given, self.phantoms), sharing(given)
            except Unshareable:
                return None
        return place, asked


def shapes_of(parameters: inspect.Signature, args: Any, kwargs: Any) -> str:
    """Return the shapes of a call's tensors as text, by the names of the parameters.

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
