"""Modules whose weights cannot be moved: refused where the plan moves them, else left as they are.

A compiled module keeps addresses of weights, layerwise casting exchanges weights, another tool moves them itself. The
plan may leave such a module resident in every stage, and then no hook is placed in it, so that its graphs and hooks
work as before. On an accelerator its own `to` brings it there whole before the first stage, and back at the end.

    check_modules(modules, plan, files)      # {"transformer": "is compiled by torch.compile"}: stays as it is
    unmoved = UnmovedComponent("transformer", module, device=device, watcher=watcher, why="is compiled by …")
    unmoved.bring()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from reslab.residency._engine._component import Component, Watcher
from reslab.residency._engine._layout import BufferLayout
from reslab.residency._engine._unit import SharedSource, SourceProvider, Unit, Where
from reslab.residency._errors import ResidencyError
from reslab.residency._model._lora import adapted_layers
from reslab.residency._model._storage import component_bytes
from reslab.residency._plan._numerics import Lora
from reslab.residency._plan._placement import Place
from reslab.residency._plan._plan import Plan
from reslab.residency._schedule._kept_units import OUTSIDE

_ON_META = "on meta, without values; give the safetensors files that have them as files={…}, or load it first"

#: Problem and remedy for each hook of diffusers that prevents moving weights.
_COMPILED = "torch.compile, which keeps addresses of weights"
_KEEP = "keep it 'resident' in every stage"
_OFFLOADING = ("group_offloading", "lazy_prefetch_group_offloading")
_HOOKS = {
    "layerwise_casting": (
        "is under layerwise casting of diffusers (its hook 'layerwise_casting'), which exchanges weights at every call",
        f"{_KEEP}, or load the model again without enable_layerwise_casting",
    ),
    **dict.fromkeys(
        _OFFLOADING,
        (
            "is moved by group offloading of diffusers already (its hook 'group_offloading')",
            f"{_KEEP}, and it goes on being moved so, or load the model again without group offloading",
        ),
    ),
}


def check_modules(modules: Mapping[str, torch.nn.Module], plan: Plan, files: Mapping[str, Any]) -> dict[str, str]:
    """Return the components whose weights cannot be moved, with the reason of each; the plan leaves them resident.

    Args:
        modules: The pipeline's modules, by name.
        plan: The plan; it decides which ones move.
        files: Files by component; a component with files needs no values.

    Raises:
        ResidencyError: For one that the plan moves, naming the component, the reason, and the remedy.
    """
    _check_shared(modules)
    kept = {}
    for name, module in modules.items():
        _check_values(name, module, files)
        if (found := _first_problem(name, module)) is not None:
            path, problem, advice = found
            if _moves(name, module, plan):
                raise ResidencyError(f"{path} {problem}, so the plan cannot move it: {advice}")
            if any(each.is_meta for each in module.parameters()):
                raise ResidencyError(f"{path} {problem}, so values cannot be brought to what of it is on meta; load it")
            kept[name] = problem
    return kept


def is_moved_by_others(module: torch.nn.Module) -> bool:
    """Tell whether another tool moves the weights of a module itself."""
    return "_hf_hook" in module.__dict__ or not _hooks(module).isdisjoint(_OFFLOADING)


def _moves(name: str, module: torch.nn.Module, plan: Plan) -> bool:
    """Tell whether a plan moves a component, or merges a LoRA into it."""
    places = (placement for (component, _stage), placement in plan.placements.items() if component == name)
    merges = plan.lora is Lora.MERGED and bool(adapted_layers(module))
    return merges or any(placement.kind is not Place.RESIDENT for placement in places)


def _check_values(name: str, module: torch.nn.Module, files: Mapping[str, Any]) -> None:
    for path, part in module.named_modules():
        for what, tensors in (("weight", part._parameters), ("buffer", part._buffers)):
            for own, tensor in tensors.items():
                if tensor is not None and tensor.is_meta and name not in files:
                    raise ResidencyError(f"{_path(name, path)} has a {what} {own!r} {_ON_META}")


def _first_problem(name: str, module: torch.nn.Module) -> tuple[str, str, str] | None:
    for path, part in module.named_modules():
        if (problem := _problem(part)) is not None:
            return _path(name, path), *problem
    return None


def _problem(module: torch.nn.Module) -> tuple[str, str] | None:
    """Return the reason why the weights of a module cannot be moved, and the remedy; None for a plain module."""
    plain = f"{_KEEP}, or use the module uncompiled"
    if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
        return f"is compiled by {_COMPILED}", plain
    if compiled := [name for name, own in vars(module).items() if hasattr(own, "_torchdynamo_orig_callable")]:
        return f"has its {compiled[0]!r} compiled by {_COMPILED}", plain
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled by torch.jit, so that nothing comes before its weights are used", plain
    if getattr(module.__dict__.get("forward"), "__module__", "") == "torch.cuda.graphs":
        return "replays a CUDA graph, which keeps addresses of weights", f"{_KEEP}, or use the module without graphs"
    if "_hf_hook" in module.__dict__:
        advice = f"call remove_all_hooks() on the pipeline first, or {_KEEP}, and it goes on being moved so"
        return "is moved by accelerate already", advice
    if hooks := [name for name in _HOOKS if name in _hooks(module)]:
        return _HOOKS[hooks[0]]
    for name, parameter in module._parameters.items():
        if parameter is not None and (kind := _kind(parameter)) is not None:
            problem = f"has a weight {name!r} that is quantised or otherwise no plain tensor ({kind})"
            return problem, f"{_KEEP}, or load it unquantised"
    return None


def _hooks(module: torch.nn.Module) -> set[str]:
    """Return the names of diffusers' hooks on a module."""
    return set(getattr(module.__dict__.get("_diffusers_hook"), "hooks", ()))


def _kind(parameter: torch.nn.Parameter) -> str | None:
    """Return the class of a weight that is no plain tensor; None for a plain one."""
    quantised: Any = parameter.is_quantized or type(parameter.data) is not torch.Tensor
    if quantised or type(parameter) is not torch.nn.Parameter or parameter.layout is not torch.strided:
        return type(parameter if type(parameter) is not torch.nn.Parameter else parameter.data).__name__
    return None


def _path(name: str, path: str) -> str:
    return f"{name}.{path}" if path else name


def _check_shared(modules: Mapping[str, torch.nn.Module]) -> None:
    owner: dict[int, str] = {}
    for name, module in modules.items():
        for parameter in module.parameters():
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise ResidencyError(
                    f"{other!r} and {name!r} share weights, so they cannot be moved one without the other; "
                    "make them one component, or give each its own"
                )


class UnmovedUnit(Unit):
    """All weights of an unmoved component, always on the device.

    Args:
        component: The component's name.
        nbytes: Bytes of its weights.
        device: The device that computes.
    """

    def __init__(self, component: str, nbytes: int, device: torch.device) -> None:
        super().__init__(
            component, OUTSIDE, BufferLayout((), nbytes, nbytes), SharedSource(), device, where=Where.DEVICE
        )

    @property
    def held_bytes(self) -> int:
        """Return the bytes that it takes on the device."""
        return self.nbytes

    def _point(self) -> None:
        """Do nothing: its parameters are never changed."""

    def renew(self, sources: SourceProvider) -> None:
        """Do nothing: it has no source."""

    def leave(self, sources: SourceProvider) -> None:
        """Do nothing: it stays."""

    def restore(self) -> None:
        """Do nothing: its parameters were never changed."""


class UnmovedComponent(Component):
    """One module of a pipeline that stays as it is.

    Args:
        name: Its name in the pipeline.
        module: The module itself.
        device: The device that computes.
        watcher: As of other components; never called.
        why: The reason why it cannot be moved, as the predicate of a sentence about it.
    """

    is_unmoved = True

    def __init__(self, name: str, module: torch.nn.Module, *, device: torch.device, watcher: Watcher, why: str) -> None:
        super().__init__(name, module, device=device, watcher=watcher, blocks=())
        self.why = why
        self.units = {OUTSIDE: UnmovedUnit(name, component_bytes(module), device)}
        self._home: torch.device | None = None

    def refresh(self, restore: Callable[[Iterable[Unit]], None], shared: dict[object, SharedSource]) -> bool:
        """Do nothing: its parameters may change without the engine."""
        return False

    def bring(self) -> None:
        """Move the module to the device, unless it is there or another tool moves it.

        Raises:
            ResidencyError: If it cannot be moved.
        """
        first = next(self.module.parameters(), None)
        if first is None or _is_on(first.device, self._device) or _moves_itself(self.module):
            return
        self._move(self._device)
        self._home = first.device if first.device.type != "meta" else None

    def close(self) -> None:
        """Move the module back to where it was before."""
        if self._home is not None:
            self._move(self._home)
            self._home = None

    def _move(self, device: torch.device) -> None:
        try:
            self.module.to(device)
        except Exception as error:
            raise ResidencyError(
                f"{self.name!r} {self.why}, and could not be moved to {device} as a whole ({error}); move it there "
                "before applying the plan"
            ) from error


def _is_on(place: torch.device, device: torch.device) -> bool:
    return place.type == device.type and device.index in (None, place.index)


def _moves_itself(module: torch.nn.Module) -> bool:
    return any(is_moved_by_others(part) for part in module.modules())
