"""Tracing equal calls once: blocks of a transformer, tiles of a VAE.

Two calls are equal if the modules have the same classes, the same parameter shapes and the same settings, the arguments
the same shapes, and all other arguments are equal; what is known of a tensor's numbers counts as well, so the block
that spatio-temporal guidance perturbs is not equal to its neighbours. An argument that is an object, such as a cache,
may be changed by the call, and hooks inside may collect what passes: then every call is traced. So it is where a call
leaves more than its result: bytes that stay alive elsewhere, settings of the module that are others than before, lists
with other members. Only numbers that it writes into a list are written again.

What is looked at: members of lists of modules, direct children of the component (a VAE's decoder is called for each
tile), and the methods that blend tiles.
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
from reslab.stages import shadowed

#: How diffusers' VAEs call what joins two tiles: loops over rows and columns, thousands of small operations.
_BLEND = "blend_"
#: Settings that only tell blocks apart: the slot of a cache (a call with a cache is not shared), the place of a LoRA.
_COUNTERS = ("layer_idx", "target_name")
#: What every module has for itself, what `watching` shadows, and PEFT's switches, which a trace's `state` stands for.
_NOT_SETTINGS = frozenset(vars(torch.nn.Module())) | {*_COUNTERS, "forward", "_disable_adapters", "_active_adapter"}
#: Settings that are told by their value, with their type: 1, 1.0 and True are equal in Python.
_PLAIN_OR_DERIVED = (bool, int, float, str, type(None), torch.dtype)
_PLAIN = frozenset(_PLAIN_OR_DERIVED)


class CallMemo(NamedTuple):
    """What is remembered of a call: its segments, what it had alive beyond its start, and how to make its result.

    Paths of segments begin after the module's own; the last segment is what follows them. `numbers` are what the call
    writes into the lists and mappings that it is given: container, place, number.
    """

    segments: list[Segment]
    peak_bytes: int
    workspace_bytes: int
    result: Template
    numbers: list[tuple[int, Any, Any]]


class WatchedMethod(NamedTuple):
    """A method that may be called again and again."""

    owner: torch.nn.Module
    written: Callable[..., Any]  # the method as it is without torch.compile
    function: Any  # what equal modules have in common of it
    path: str
    prefix: str  # before the paths of what is inside
    blocks: Mapping[str, int]  # of the component, path → index
    inside: tuple[str, ...]  # paths of the blocks inside, after the prefix
    ends: bool  # whether each call is a segment

    def end(self, trace: Trace) -> None:
        """End the segment of a call."""
        trace.end(self.blocks.get(self.path, OUTSIDE), self.path)


class Repeats:
    """Remembers the calls made in traces and answers equal ones without tracing them again."""

    def __init__(self, phantoms: Phantoms, *, share: bool = True) -> None:
        self.phantoms, self.share = phantoms, share
        self.trace: Trace | None = None
        self._memories: dict[Any, CallMemo] = {}
        self._changing: set[int] = set()  # kinds of modules that a call changes
        self._kinds: dict[Any, int] = {}
        self._state: Any = None
        self._kind_of: dict[int, int] = {}
        self._settings_of: dict[int, Any] = {}
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
        """What equal calls have in common; None if no other is known to be equal."""
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
        """How a result is made again, and what else the call leaves; None where it leaves more than can be told."""
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
            settled, shapes = self._settings(owner), tuple([_shapes(part) for _path, part in self._parts(owner)])
            known = len(self._kinds)
            kind = self._kind_of[id(owner)] = self._kinds.setdefault((settled, shapes), known)
            if kind == known:
                self._settings_of[kind] = settled
        return self._kind_of[id(owner)]

    def _is_as_before(self, kind: int, owner: torch.nn.Module) -> bool:
        """Whether a call left the settings of a module as they were; looked at for the first call of each kind."""
        if kind in self._settings_of:
            return self._settings_of.pop(kind) == self._settings(owner)
        return True

    def _settings(self, owner: torch.nn.Module) -> Any:
        """Classes and settings of all that is inside a module."""
        return tuple([(path, type(part), settings(part)) for path, part in self._parts(owner)])


class Arguments:
    """What a call is given, to tell afterwards what it did to it."""

    def __init__(self, args: Any, kwargs: Any, phantoms: Phantoms) -> None:
        self.given, self._phantoms = GivenTensors((args, kwargs)), phantoms
        self._containers = _containers(args, kwargs)
        self._before = [self._contents(each) for each in self._containers]

    def _contents(self, container: Any) -> dict[Any, Any]:
        members = container.items() if isinstance(container, dict) else enumerate(container)
        return {place: self._member(each) for place, each in members}

    def _member(self, value: Any) -> Any:
        """What is known of a member; lists and mappings have contents of their own."""
        return id(value) if isinstance(value, (list, dict)) else key(value, self._phantoms)

    def numbers(self, result: Any) -> list[tuple[int, Any, Any]]:
        """Return what the call wrote into lists and mappings; raises Unshareable for more than plain numbers.

        A tensor that took the place of one of its shape counts as nothing new, if as many bytes were released.
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
    """The arguments, and the lists and mappings among and in them."""
    return [args, *containers(args), *containers(kwargs)]


def _watched(owner: Any, name: str, path: str, prefix: str, blocks: Mapping[str, int], *, ends: bool) -> WatchedMethod:
    written = method(owner, name)
    inside = tuple([each.removeprefix(prefix) for each in blocks if each.startswith(prefix)])
    return WatchedMethod(owner, written, getattr(written, "__func__", written), path, prefix, blocks, inside, ends)


def _again(trace: Trace, watched: WatchedMethod, segment: Segment) -> None:
    """Take a segment that was traced before, of the module that this is the like of."""
    if segment.block == OUTSIDE:
        trace.extend(segment.rows)
        return
    path = watched.prefix + segment.path
    trace.begin()
    trace.extend(segment.rows, shared=True)
    trace.end(watched.blocks[path], path)


def candidates(component: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Modules inside a component of which equal ones may be called: by path, outermost first."""
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
    if isinstance(value, (set, frozenset)):
        return frozenset((type(each), _setting(each)) for each in value)
    if isinstance(value, (*_PLAIN_OR_DERIVED, enum.Enum, FunctionType)):
        return value
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    return (type(value), tuple(_own(value))) if callable(value) else type(value)


def _own(value: Any) -> Iterator[tuple[str, Any]]:
    """The plain settings of an object that a module has, such as the processor of an attention layer."""
    for name, each in getattr(value, "__dict__", {}).items():
        if name not in _COUNTERS and type(each) in _PLAIN:
            yield name, (type(each), each)
