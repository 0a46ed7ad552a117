"""Tracing equal calls once: blocks of a transformer, tiles of a VAE.

Two calls are equal if the modules have the same classes, the same parameter shapes and the same settings, the arguments
the same shapes, and all other arguments are equal; what is known of a tensor's numbers counts as well, so the block
that spatio-temporal guidance perturbs is not equal to its neighbours. An argument that is an object, such as a cache,
may be changed by the call, and hooks inside may collect what passes: then every call is traced.

What is looked at: members of lists of modules, direct children of the component (a VAE's decoder is called for each
tile), and the methods that blend tiles.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from reslab.residency._rehearse._phantom import Phantoms, Row
from reslab.residency._rehearse._structure import Template, Unshareable, key
from reslab.residency._rehearse._trace import OUTSIDE, Trace

#: How diffusers' VAEs call what joins two tiles: loops over rows and columns, thousands of small operations.
_BLEND = "blend_"
#: Settings that only tell blocks apart: the slot of a cache (a call with a cache is not shared), the place of a LoRA.
_COUNTERS = ("layer_idx", "target_name")
#: What every module has for itself, what `watching` shadows, and PEFT's switches, which a trace's `state` stands for.
_NOT_SETTINGS = frozenset(vars(torch.nn.Module())) | {*_COUNTERS, "forward", "_disable_adapters", "_active_adapter"}
#: Settings that are told by their value, with their type: 1, 1.0 and True are equal in Python.
_PLAIN_OR_DERIVED = (bool, int, float, str, type(None), torch.dtype)
_PLAIN = frozenset(_PLAIN_OR_DERIVED)


class Memory(NamedTuple):
    """What is remembered of a call: its operations, what it had alive beyond its start, and how to make its result."""

    rows: list[Row]
    peak_bytes: int
    workspace_bytes: int
    result: Template


class Repeats:
    """Remembers the calls made in traces and answers equal ones without tracing them again."""

    def __init__(self, phantoms: Phantoms, *, share: bool = True) -> None:
        self.phantoms, self.share = phantoms, share
        self.trace: Trace | None = None
        self._memories: dict[Any, Memory] = {}
        self._kinds: dict[Any, int] = {}
        self._state: Any = None
        self._kind_of: dict[int, int] = {}
        self._hooks: dict[int, list[Any]] = {}
        self._inside: dict[int, list[tuple[str, torch.nn.Module]]] = {}

    @contextmanager
    def tracing(self, trace: Trace, state: Any = None) -> Iterator[None]:
        """Watch the calls made in this trace; `state` is what may differ in a module between two traces."""
        self.trace, self._state = trace, state
        try:
            yield
        finally:
            self.trace = None

    @contextmanager
    def watching(self, component: torch.nn.Module, blocks: dict[str, int]) -> Iterator[None]:
        """Shadow the methods of a component that may be called again and again; exactly restored.

        Args:
            component: The component.
            blocks: Its repeated blocks, path → index; each call of one is a segment. Without, each direct child is.
        """
        with ExitStack() as stack:
            for path, module in candidates(component):
                ends = path in blocks or not blocks
                watched = self._watched(module, module.forward, blocks.get(path, OUTSIDE), path, ends)
                stack.enter_context(shadowed(module, "forward", watched))
            for name in dir(type(component)):
                if name.startswith(_BLEND):
                    watched = self._watched(component, getattr(component, name), OUTSIDE, name, ends=True)
                    stack.enter_context(shadowed(component, name, watched))
            yield

    def _watched(self, owner: Any, original: Callable[..., Any], block: int, path: str, ends: bool) -> Any:
        method = original.__func__ if hasattr(original, "__func__") else original

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            trace = self.trace
            if trace is None:
                return original(*args, **kwargs)
            if ends:
                trace.begin()
            try:
                return self._shared(trace, owner, method, original, args, kwargs)
            finally:
                if ends:
                    trace.end(block, path)

        return call

    def _shared(self, trace: Trace, owner: Any, method: Any, original: Any, args: Any, kwargs: Any) -> Any:
        if not self.share or any(self._hooks_inside(owner)):
            return original(*args, **kwargs)
        self.phantoms.paused = True
        try:
            same = (method, self._kind(owner), self._state, key(args, self.phantoms), key(kwargs, self.phantoms))
        except Unshareable:
            same = None
        finally:
            self.phantoms.paused = False
        if same is None:
            return original(*args, **kwargs)
        inputs = list(_flat((args, kwargs)))
        if same in self._memories:
            return self._replay(trace, self._memories[same], inputs)
        return self._remember(trace, same, original, args, kwargs, inputs)

    def _replay(self, trace: Trace, memory: Memory, inputs: list[torch.Tensor]) -> Any:
        trace.extend(memory.rows)
        trace.touch(memory.peak_bytes)
        trace.workspace_peak = max(trace.workspace_peak, trace.liveness.now + memory.workspace_bytes)
        self.phantoms.paused = True
        result, fresh = memory.result.build(inputs)
        self.phantoms.paused = False
        for tensor in fresh:
            trace.liveness.add(tensor)
        return result

    def _remember(self, trace: Trace, same: Any, original: Any, args: Any, kwargs: Any, inputs: list[Any]) -> Any:
        live, first = trace.liveness, len(trace.rows)
        start, peak, workspace = live.now, live.peak, trace.workspace_peak
        live.peak = trace.workspace_peak = start
        result = original(*args, **kwargs)
        above, work = live.peak - start, trace.workspace_peak - start
        rows = trace.rows if trace.is_outermost else trace.rows[first:]
        self._memories[same] = Memory(rows, above, work, Template(result, inputs))
        live.peak, trace.workspace_peak = max(peak, live.peak), max(workspace, trace.workspace_peak)
        return result

    def _hooks_inside(self, owner: torch.nn.Module) -> list[Any]:
        """The forward hooks of modules inside: a call that is not made would leave out what they do."""
        if id(owner) not in self._hooks:
            inside = [part for _path, part in self._parts(owner)[1:]]
            self._hooks[id(owner)] = [
                each for part in inside for each in (part._forward_hooks, part._forward_pre_hooks)
            ]
        return self._hooks[id(owner)]

    def _parts(self, owner: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
        """The modules inside one, itself the first, by path."""
        if id(owner) not in self._inside:
            self._inside[id(owner)] = list(owner.named_modules())
        return self._inside[id(owner)]

    def _kind(self, owner: torch.nn.Module) -> int:
        """A number that equal modules have in common."""
        if id(owner) not in self._kind_of:
            self._kind_of[id(owner)] = self._kinds.setdefault(signature(self._parts(owner)), len(self._kinds))
        return self._kind_of[id(owner)]


def candidates(component: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Modules inside a component of which equal ones may be called: by path, outermost first."""
    children = {id(child) for child in component.children()}
    members: dict[int, int] = {}
    inside = list(component.named_modules())
    for _path, module in inside:
        if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)):
            kinds = Counter(type(member) for member in module)
            members |= {id(member): kinds[type(member)] for member in module}
    for path, module in inside:
        repeated = members.get(id(module), 0) > 1 or id(module) in children
        if path and repeated and any(True for _ in module.children()) and _has_forward(module):
            yield path, module


def _has_forward(module: torch.nn.Module) -> bool:
    return not isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterList))


def signature(parts: Sequence[tuple[str, torch.nn.Module]]) -> Any:
    """What equal modules have in common: classes, parameter shapes and settings of all that is inside."""
    return tuple((path, type(part), settings(part), _shapes(part)) for path, part in parts)


def _shapes(module: torch.nn.Module) -> Any:
    tensors = {**module._parameters, **module._buffers}
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items() if tensor is not None)


def settings(module: torch.nn.Module, *, private: bool = True) -> Any:
    """What a module is set to, apart from its weights: flags, sizes, strengths."""
    told: list[tuple[str, type, Any]] = []
    for name, value in vars(module).items():  # of every module of every block: what is plain is told without a call
        if name not in _NOT_SETTINGS and (private or not name.startswith("_")):
            kind = type(value)
            told.append((name, kind, value if kind in _PLAIN else _setting(value)))
    return tuple(told)


def _setting(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple((type(each), _setting(each)) for each in value)
    if isinstance(value, dict):
        return tuple((str(name), type(each), _setting(each)) for name, each in value.items() if name not in _COUNTERS)
    if isinstance(value, _PLAIN_OR_DERIVED):
        return value
    return type(value)


def _flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        yield from _flat(tuple(value.values()))


@contextmanager
def shadowed(owner: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Let `owner.name` be `method` within the block, then exactly what it was."""
    absent = object()
    before = owner.__dict__.get(name, absent)
    owner.__dict__[name] = method
    try:
        yield
    finally:
        if before is absent:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before
