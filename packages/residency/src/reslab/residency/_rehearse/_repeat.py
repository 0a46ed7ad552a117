"""Tracing equal calls once: blocks of a transformer, tiles of a VAE.

    with repeats.watching(transformer, blocks), repeats.tracing(trace):
        transformer(**phantoms)        # of equal blocks the first is traced, the others are replayed

Two calls are equal if the modules have equal classes, parameter shapes and settings, tensors among the arguments have
equal shapes, and all other arguments are equal. Known numbers of a tensor count as well, so the block that
spatio-temporal guidance perturbs is not equal to its neighbours.

Every call is traced if an argument is an object that the call may change, such as a cache, or if a module inside has
hooks, which may collect values. Every call is also traced if it leaves more than its result: bytes that stay alive
elsewhere, changed settings of the module, or lists with other members. Only numbers that a call writes into a list are
written again when it is replayed.

Watched are members of lists of modules, direct children of the component (a VAE's decoder is called for each tile), and
the methods that blend tiles.
"""

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, NamedTuple

import torch

from reslab.residency._model._eager import method, original, plain
from reslab.residency._model._storage import USUAL, parts
from reslab.residency._rehearse._phantom import Phantoms
from reslab.residency._rehearse._structure import GivenTensors, Template, Unshareable, containers, key, sharing
from reslab.residency._rehearse._trace import OUTSIDE, Segment, Trace
from reslab.stages.support import shadowed

#: Prefix of the methods of diffusers' VAEs that join two tiles: loops with thousands of small operations.
_BLEND = "blend_"
#: Settings that only number blocks: the slot of a cache (a call with a cache is not shared), the target of a LoRA.
_COUNTERS = ("layer_idx", "target_name")
#: Attributes that every module has, those that `watching` shadows, and PEFT's switches, which a trace's `state` covers.
_NOT_SETTINGS = frozenset(vars(torch.nn.Module())) | {*_COUNTERS, "forward", "_disable_adapters", "_active_adapter"}
#: Types of settings that are compared by value; their type is compared too, since 1, 1.0 and True are equal.
_PLAIN_OR_DERIVED = (bool, int, float, str, type(None), torch.dtype)
_PLAIN = frozenset(_PLAIN_OR_DERIVED)


class CallMemo(NamedTuple):
    """The record of a call: its segments, the bytes alive beyond its start, and the template of its result.

    Paths of segments begin after the module's own path; the last segment has the operations after all blocks. `numbers`
    are those that the call writes into lists and mappings among its arguments: container, place, number.
    """

    segments: list[Segment]
    peak_bytes: int
    workspace_bytes: int
    result: Template
    numbers: list[tuple[int, Any, Any]]


class WatchedMethod(NamedTuple):
    """A method that may be called repeatedly."""

    owner: torch.nn.Module
    written: Callable[..., Any]  # the method as it is without torch.compile
    function: Any  # the function that equal modules share
    path: str
    prefix: str  # before the paths of what is inside
    blocks: Mapping[str, int]  # of the component, path → index
    inside: tuple[str, ...]  # paths of the blocks inside, after the prefix
    ends: bool  # whether each call is a segment

    def end(self, trace: Trace) -> None:
        """End the segment of a call."""
        trace.end(self.blocks.get(self.path, OUTSIDE), self.path)


class Repeats:
    """Remembers calls made in traces, and replays equal calls without tracing them again."""

    def __init__(self, phantoms: Phantoms, *, share: bool = True) -> None:
        self.phantoms, self.share = phantoms, share
        self.trace: Trace | None = None
        self._memories: dict[Any, CallMemo] = {}
        self._changing: set[int] = set()  # kinds of modules whose calls change more than their result
        self._kinds: dict[Any, int] = {}
        self._state: Any = None
        self._kind_of: dict[int, int] = {}
        self._settings_of: dict[int, Any] = {}
        self._hooks: dict[int, list[Any]] = {}
        self._inside: dict[int, list[tuple[str, torch.nn.Module]]] = {}

    @contextmanager
    def tracing(self, trace: Trace, state: Any = None) -> Iterator[None]:
        """Watch the calls made in a trace; `state` is the state of modules that may differ between two traces."""
        self.trace, self._state = trace, state
        try:
            yield
        finally:
            self.trace = None

    @contextmanager
    def watching(self, component: torch.nn.Module, blocks: dict[str, int]) -> Iterator[None]:
        """Shadow the methods of a component that may be called repeatedly; restore them exactly.

        Args:
            component: The component.
            blocks: Its repeated blocks, path → index; each call of a block is a segment. If there are none, each call
                of a direct child is a segment.
        """
        with ExitStack() as stack:
            for path, module in candidates(component):
                ends, prefix = path in blocks or not blocks, f"{path}."
                watched = _watched(module, "forward", path, prefix, blocks, ends=ends)
                stack.enter_context(shadowed(module, "forward", self._watching(watched)))
            for name in dir(type(component)):
                if name.startswith(_BLEND):
                    watched = _watched(component, name, name, "", blocks, ends=True)
                    stack.enter_context(shadowed(component, name, self._watching(watched)))
            yield

    def _watching(self, watched: WatchedMethod) -> Any:
        @functools.wraps(watched.written)
        def call(*args: Any, **kwargs: Any) -> Any:
            trace = self.trace
            if trace is None:
                return watched.written(*args, **kwargs)
            if not watched.ends:
                return self._shared(trace, watched, args, kwargs)
            trace.begin()
            try:
                return self._shared(trace, watched, args, kwargs)
            finally:
                watched.end(trace)

        return call

    def _shared(self, trace: Trace, watched: WatchedMethod, args: Any, kwargs: Any) -> Any:
        same = self._same(trace, watched, args, kwargs)
        if same is None:
            return watched.written(*args, **kwargs)
        if same in self._memories:
            return self._replay(trace, watched, self._memories[same], (args, kwargs))
        return self._remember(trace, same, watched, args, kwargs)

    def _same(self, trace: Trace, watched: WatchedMethod, args: Any, kwargs: Any) -> Any:
        """Return the key that equal calls share; None if no other call is known to be equal."""
        if not self.share or any(self._hooks_inside(watched.owner)):
            return None
        kind, given = self._kind(watched.owner), (args, kwargs)
        if kind in self._changing:
            return None
        segments = () if trace.is_open else watched.inside
        with self.phantoms.paused():
            try:
                about = key(given, self.phantoms), sharing(given)
            except Unshareable:
                return None
        return watched.function, kind, segments, self._state, about

    def _replay(self, trace: Trace, watched: WatchedMethod, memory: CallMemo, arguments: Any) -> Any:
        *ended, last = memory.segments
        for segment in ended:
            _again(trace, watched, segment)
        trace.extend(last.rows, shared=watched.ends and trace.is_fresh)
        trace.touch(memory.peak_bytes)
        trace.workspace_peak = max(trace.workspace_peak, trace.liveness.now + memory.workspace_bytes)
        for container, place, number in memory.numbers:
            _containers(*arguments)[container][place] = number
        with self.phantoms.paused():
            result, fresh = memory.result.build(GivenTensors(arguments))
        for tensor in fresh:
            trace.liveness.add(tensor)
        return result

    def _remember(self, trace: Trace, same: Any, watched: WatchedMethod, args: Any, kwargs: Any) -> Any:
        live, mark, shared = trace.liveness, trace.mark(), watched.ends and trace.is_fresh
        start, peak, workspace = live.now, live.peak, trace.workspace_peak
        with self.phantoms.paused():
            before = Arguments(args, kwargs, self.phantoms)
        live.peak = trace.workspace_peak = start
        try:
            result = watched.written(*args, **kwargs)
        finally:
            above, work = live.peak - start, trace.workspace_peak - start
            live.peak, trace.workspace_peak = max(peak, live.peak), max(workspace, trace.workspace_peak)
        with self.phantoms.paused():
            made = self._made(watched, before, result, live.now - start)
        segments, prefix = trace.since(mark, shared=shared), watched.prefix
        if made is not None and all(segment.path.startswith(prefix) for segment in segments if segment.path):
            inside = [segment._replace(path=segment.path.removeprefix(prefix)) for segment in segments]
            self._memories[same] = CallMemo(inside, above, work, *made)
        return result

    def _made(self, watched: WatchedMethod, before: Arguments, result: Any, kept_bytes: int) -> Any:
        """Return the template of a result and the numbers written; None if the call changes more than these."""
        try:
            template = Template(result, before.given, self.phantoms)
            numbers = before.numbers(result)
        except Unshareable:
            return None
        kind = self._kind(watched.owner)
        if kept_bytes != template.own_bytes or not self._is_as_before(kind, watched.owner):
            self._changing.add(kind)
            return None
        return template, numbers

    def _hooks_inside(self, owner: torch.nn.Module) -> list[Any]:
        """Return the forward hooks of modules inside; a replayed call would not run them."""
        if id(owner) not in self._hooks:
            inside = [part for _path, part in self._parts(owner)[1:]]
            self._hooks[id(owner)] = [
                each for part in inside for each in (part._forward_hooks, part._forward_pre_hooks)
            ]
        return self._hooks[id(owner)]

    def _parts(self, owner: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
        """Return a module and the modules inside it, by path."""
        if id(owner) not in self._inside:
            self._inside[id(owner)] = list(owner.named_modules())
        return self._inside[id(owner)]

    def _kind(self, owner: torch.nn.Module) -> int:
        """Return the number that equal modules share."""
        if id(owner) not in self._kind_of:
            settled, shapes = self._settings(owner), tuple([_shapes(part) for _path, part in self._parts(owner)])
            known = len(self._kinds)
            kind = self._kind_of[id(owner)] = self._kinds.setdefault((settled, shapes), known)
            if kind == known:
                self._settings_of[kind] = settled
        return self._kind_of[id(owner)]

    def _is_as_before(self, kind: int, owner: torch.nn.Module) -> bool:
        """Return whether a call left the settings of a module unchanged."""
        # looked at once per kind: equal modules given equal arguments change alike
        if kind in self._settings_of:
            return self._settings_of.pop(kind) == self._settings(owner)
        return True

    def _settings(self, owner: torch.nn.Module) -> Any:
        """Return the classes and settings of a module and of all modules inside it."""
        return tuple([(path, type(part), settings(part)) for path, part in self._parts(owner)])


class Arguments:
    """The arguments of a call, kept to find afterwards what the call wrote into them."""

    def __init__(self, args: Any, kwargs: Any, phantoms: Phantoms) -> None:
        self.given, self._phantoms = GivenTensors((args, kwargs)), phantoms
        self._containers = _containers(args, kwargs)
        self._before = [self._contents(each) for each in self._containers]

    def _contents(self, container: Any) -> dict[Any, Any]:
        members = container.items() if isinstance(container, dict) else enumerate(container)
        return {place: self._member(each) for place, each in members}

    def _member(self, value: Any) -> Any:
        """Return the key of a member of a list or mapping."""
        # nested lists and mappings have contents of their own in `_before`
        return id(value) if isinstance(value, (list, dict)) else key(value, self._phantoms)

    def numbers(self, result: Any) -> list[tuple[int, Any, Any]]:
        """Return the numbers that the call wrote into lists and mappings.

        A tensor that replaced one of equal shape does not count as a change, if as many bytes were released.

        Raises:
            Unshareable: The call wrote more than plain numbers, or returns a list that is an argument.
        """
        known = {id(each) for each in self._containers}
        if any(id(each) in known for each in containers(result)):
            raise Unshareable("a list that is an argument, too")
        written = []
        for number, (container, before) in enumerate(zip(self._containers, self._before, strict=True)):
            after = self._contents(container)
            for place in (place for place in after if after[place] != before.get(place)):
                if after.keys() != before.keys() or not isinstance(container[place], _PLAIN_OR_DERIVED):
                    raise Unshareable("a list with other members")
                written.append((number, place, container[place]))
        return written


def _containers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments, and the lists and mappings in them."""
    return [args, *containers(args), *containers(kwargs)]


def _watched(owner: Any, name: str, path: str, prefix: str, blocks: Mapping[str, int], *, ends: bool) -> WatchedMethod:
    written = method(owner, name)
    inside = tuple([each.removeprefix(prefix) for each in blocks if each.startswith(prefix)])
    return WatchedMethod(owner, written, getattr(written, "__func__", written), path, prefix, blocks, inside, ends)


def _again(trace: Trace, watched: WatchedMethod, segment: Segment) -> None:
    """Append a segment of an equal module, traced before, under the paths of this module."""
    if segment.block == OUTSIDE:
        trace.extend(segment.rows)
        return
    path = watched.prefix + segment.path
    trace.begin()
    trace.extend(segment.rows, shared=True)
    trace.end(watched.blocks[path], path)


def candidates(component: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the modules inside a component that may have equals, by path, outermost first."""
    children = {id(child) for child in component.children()}
    members: dict[int, int] = {}
    inside = list(component.named_modules())
    for _path, module in inside:
        if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)):
            kinds = Counter(type(original(member)) for member in module)
            members |= {id(member): kinds[type(original(member))] for member in module}
    for path, module in inside:
        repeated = members.get(id(module), 0) > 1 or id(module) in children
        if path and repeated and any(True for _ in module.children()) and _has_forward(module):
            yield plain(path), module


def _has_forward(module: torch.nn.Module) -> bool:
    return not isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterList))


def _shapes(module: torch.nn.Module) -> Any:
    tensors = {**module._parameters, **module._buffers}
    return tuple(
        (name, type(tensor), tensor.shape, tensor.dtype, () if type(tensor) in USUAL else _inner(tensor))
        for name, tensor in tensors.items()
        if tensor is not None
    )


def _inner(tensor: torch.Tensor) -> Any:
    return tuple((part.shape, part.dtype) for part in parts(tensor))


def settings(module: torch.nn.Module, *, private: bool = True) -> Any:
    """Return the settings of a module besides its weights: flags, sizes, strengths."""
    found: list[tuple[str, type, Any]] = []
    for name, value in vars(module).items():  # hot: every module of every block, so plain values need no function call
        if name not in _NOT_SETTINGS and (private or not name.startswith("_")):
            kind = type(value)
            found.append((name, kind, value if kind in _PLAIN else _setting(value)))
    return tuple(found)


def _setting(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple((type(each), _setting(each)) for each in value)
    if isinstance(value, dict):
        return tuple((str(name), type(each), _setting(each)) for name, each in value.items() if name not in _COUNTERS)
    if isinstance(value, (set, frozenset)):
        return frozenset((type(each), _setting(each)) for each in value)
    if isinstance(value, (*_PLAIN_OR_DERIVED, enum.Enum, FunctionType)):
        return value
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    return (type(value), tuple(_own(value))) if callable(value) else type(value)


def _own(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain settings of an object that a module holds, such as the processor of an attention layer."""
    for name, each in getattr(value, "__dict__", {}).items():
        if name not in _COUNTERS and type(each) in _PLAIN:
            yield name, (type(each), each)
