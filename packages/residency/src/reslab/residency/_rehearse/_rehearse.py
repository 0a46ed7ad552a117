"""Rehearsing a pipeline: its real code runs on tensors without numbers.

    rehearsal = rehearse(pipeline, prompt="a heron over a weir", width=1536, height=1024, num_frames=121)

Components keep their code and lose their weights during the rehearsal: a call is traced once for each distinct shape,
and answered with phantoms. Code between components computes with real numbers while tensors are small. No weight is
moved, no device is used, and the pipeline is restored afterwards.

Read on in `_calls` (a component call), `_repeat` (equal blocks), `_phantom` (an operation) and `_frames` (the result).
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import torch

from reslab.profiler import request_facts
from reslab.residency._model._anatomy import Anatomy
from reslab.residency._model._eager import uncompiled
from reslab.residency._model._storage import all_plain, followed, parts, unusual
from reslab.residency._rehearse import _frames
from reslab.residency._rehearse._calls import CallTracer
from reslab.residency._rehearse._conductor import RehearsalConductor
from reslab.residency._rehearse._failures import Answers, Costs
from reslab.residency._rehearse._phantom import META, PhantomFunctions, Phantoms
from reslab.residency._rehearse._rehearsal import Rehearsal
from reslab.residency._rehearse._schema import SCHEMA_VERSION
from reslab.residency._rehearse._substitutes import substituted
from reslab.residency._rehearse._trace import Liveness
from reslab.residency._rehearse._weightless import IgnoreOperations, without_weights
from reslab.stages import Pipeline, Section
from reslab.stages.support import keep_attributes, parts_with_weights, shadowed

#: Methods of a component whose calls are traced; as `reslab.stages` observes them.
METHODS = ("forward", "encode", "decode")
_PRIVATE = ("prompt", "path", "image", "generator")


def rehearse(
    pipeline: Pipeline,
    *,
    share_blocks: bool = True,
    answers: Answers | None = None,
    costs: Costs | None = None,
    **request: Any,
) -> Rehearsal:
    """Run a pipeline without weights, results or device, and record what it computes, moves and keeps alive.

    Args:
        pipeline: Any pipeline; its components may be on meta (`blank`) or hold weights, which stay unchanged.
        share_blocks: Whether equal blocks and tiles are traced once; False gives the same totals and takes far longer.
        answers: Values for code that reads what no rehearsal knows: "file.py:function" → (value, reason).
        costs: FLOPs of operations that torch's registry lacks: name → function of (arguments, result).
        **request: The request, as for `pipeline.run`.

    Raises:
        PipelineError: The request cannot run, or the pipeline has a conductor.
        UnknownValueError: Code reads a number that depends on weights or computed tensors.
        RehearsalError: Operations have no cost formula (each is listed with its share of the bytes), a weight is read
            outside of any call, or autocast casts.
    """
    _load_meta_kernels()
    liveness = Liveness()
    phantoms = Phantoms(IgnoreOperations(), answers=answers, costs=costs)
    conductor = RehearsalConductor(phantoms, liveness)
    calls = CallTracer(phantoms, liveness, share=share_blocks, listed=conductor.list_call)
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    anatomies = {id(module): Anatomy(module) for module in modules.values()}
    with (
        _prepared(pipeline, modules, anatomies, calls, conductor),
        torch.no_grad(),
        phantoms,
        PhantomFunctions(phantoms),
    ):
        pipeline.run(**request | _results_as_tensors(pipeline, request))
    named = _named(modules, anatomies)
    _frames.check_costs(named, calls.traced, conductor)
    return Rehearsal(**_frames.frames(named, calls.traced, conductor), meta=_meta(pipeline, request))


def _load_meta_kernels() -> None:
    """Use torch's meta kernels once, before bytes are counted."""
    # the first use imports them, and the import keeps the frames of its callers, with all their tensors, in a cycle of
    # references: the first rehearsal of a process would count tensors as alive that were released long before
    torch.empty(1, device=META).mul(1)


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch off the collection of cyclic garbage within the block."""
    # a collection walks every module of a 22 B pipeline, which takes longer than the rehearsal of a video decoder; and
    # the bytes counted as alive would depend on when it runs
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _prepared(
    pipeline: Pipeline,
    modules: Mapping[str, torch.nn.Module],
    anatomies: Mapping[int, Anatomy],
    calls: CallTracer,
    conductor: RehearsalConductor,
) -> Iterator[None]:
    """Let the components answer with phantoms within the block; afterwards everything is restored."""
    progress, distinct = pipeline.progress, {id(module): module for module in modules.values()}
    inside = [part for module in distinct.values() for part in module.modules()]
    weights = {key: unusual(anatomies[key].component) for key in distinct} if not all_plain(inside) else {}
    with ExitStack() as stack:
        stack.enter_context(uncollected())
        stack.callback(setattr, pipeline, "progress", progress)
        pipeline.progress = False
        for component in pipeline.components.values():
            if hasattr(component, "set_timesteps"):
                stack.callback(keep_attributes(component))
        stack.enter_context(pipeline.conduct(conductor))
        stack.enter_context(pipeline.observe(conductor))
        stack.enter_context(uncompiled(inside))
        for weight in stack.enter_context(without_weights(inside)):
            calls.liveness.hold(weight)
        calls.phantoms.weights = stack.enter_context(_storages(modules))
        stack.enter_context(substituted(calls.phantoms))
        for module in distinct.values():
            anatomy = anatomies[id(module)]
            blocks = {path: index for index, path in enumerate(anatomy.blocks)}
            stack.enter_context(calls.repeats.watching(anatomy.component, blocks))
            parts_inside = parts_with_weights(anatomy.component).items()
            answers = [
                (vars(part), calls.answering_part(part, lambda: conductor.component, path))
                for path, part in parts_inside
                if id(part) not in distinct
            ]
            stack.enter_context(_answered(answers))
            for method in METHODS:
                if callable(getattr(module, method, None)):
                    answer = calls.answering(module, lambda: conductor.component, method, weights.get(id(module)))
                    stack.enter_context(shadowed(module, method, answer))
        yield


@contextmanager
def _answered(answers: Sequence[tuple[dict[str, Any], Any]]) -> Iterator[None]:
    """Put answers in place of the forwards of thousands of modules within the block, in one context for all."""
    own = [(attributes, attributes["forward"]) for attributes, _answer in answers if "forward" in attributes]
    for attributes, answer in answers:
        attributes["forward"] = answer
    try:
        yield
    finally:
        for attributes, _answer in answers:
            del attributes["forward"]
        for attributes, before in own:
            attributes["forward"] = before


@contextmanager
def _storages(modules: Mapping[str, torch.nn.Module]) -> Iterator[dict[int, tuple[str, str]]]:
    """Yield the storages of all weights, each with its component and path, for as long as the weight is there."""
    found: dict[int, tuple[str, str]] = {}
    ends = list(_watched(modules, found))
    try:
        yield found
    finally:
        for end in ends:
            end.detach()


def _watched(
    modules: Mapping[str, torch.nn.Module], found: dict[int, tuple[str, str]]
) -> Iterator[weakref.finalize[Any, Any]]:
    """Enter the storages of all weights, and yield what takes each out again when it is released."""
    for name, module in modules.items():
        for path, weight in module.named_parameters():
            for part in parts(weight) if followed(weight) else ():
                storage = part.untyped_storage()
                found[storage._cdata] = name, path
                # a converted weight is gone, and another tensor may have its address
                yield weakref.finalize(storage, found.pop, storage._cdata, None)


def _named(modules: Mapping[str, torch.nn.Module], anatomies: Mapping[int, Anatomy]) -> dict[str, Anatomy]:
    """Return the anatomies by component name; a component with several names is listed under its first."""
    first = {id(module): name for name, module in reversed(list(modules.items()))}
    return {name: anatomies[id(module)] for name, module in modules.items() if first[id(module)] == name}


def _results_as_tensors(pipeline: Pipeline, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request for tensors as output: a stock pipeline makes pictures on the host, not on the device."""
    first = next(iter(pipeline.stages), None)
    stock = isinstance(first, Section) and "output_type" in first.signature().reads
    return {"output_type": "pt"} if stock and "output_type" not in request else {}


def _meta(pipeline: Pipeline, request: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        name: value for name, value in request.items() if value is None or isinstance(value, (bool, int, float, str))
    }
    declared = pipeline.text_settings
    kept = {
        name: each for name, each in plain.items() if name in declared or not any(word in name for word in _PRIVATE)
    }
    facts = request_facts(kept, text_settings=declared)
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {
        "schema_version": SCHEMA_VERSION,
        "pipeline": pipeline.name,
        "settings": _plain(pipeline.settings),
        "request": facts,
        "image": request.get("image") is not None,
        "versions": versions,
    }


def _plain(value: Any) -> Any:
    """Return settings as they are after saving and loading: mappings, lists, numbers and text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)
