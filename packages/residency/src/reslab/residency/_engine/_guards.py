"""Guards of managed weights: hooks before each use of them, refusals of calls that would break them, notice of writes.

An absent weight is an empty tensor of its type on its device, so nearly every use of it raises by itself. A hook runs
before each module that owns one, so that the engine can fetch it first. `state_dict`, and with it every
`save_pretrained`, gets whole weights; loading, copying, pickling, converting and fusing raise `ResidencyError`.

A unit that leaves the device copies nothing back, so writes into its weights have to be noticed. Autograd counts the
changes of each parameter, and a tensor put in a weight's place lies in other memory. An in-place change of
`weight.data` escapes both. The same counters tell autograd that the memory behind a weight holds other values.

    guard = watch_calls(block, before)         # guard.close() removes the hook
    before = marks(layout)
    written_places(layout, before)             # places of the parameters that were written since
    mark_outdated(layout)                      # a backward pass through their former values is an error now
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import torch

from reslab.residency._engine._layout import BufferLayout, Piece
from reslab.residency._errors import ResidencyError
from reslab.stages import Subscription

#: Methods that write into weights or move them, of components that have them.
WRITING = ("_apply", "fuse_lora", "unfuse_lora", "fuse_qkv_projections", "dequantize", "share_memory")
#: Methods of a parameter that copying and pickling call.
_COPYING = ("__deepcopy__", "__reduce_ex__")
_WORDS = {"__deepcopy__": "copying", "__reduce_ex__": "pickling", "_apply": "moving or converting"}


class GuardedUnit(Protocol):
    """A unit of weights, as far as guards need it."""

    @property
    def is_managed(self) -> bool:
        """Tell whether its parameters hold other tensors than before the residency."""

    def whole(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """Return the whole of a weight that is absent; None for one that is not."""


def absent_tensor(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the tensor that takes the place of an absent weight."""
    return torch.empty(0, dtype=dtype, device=device)


def watch_calls(module: torch.nn.Module, before: Callable[[], None]) -> Subscription:
    """Call `before` ahead of each forward of a module, but not of a copy of the module that inherited the hook."""

    def hook(called: torch.nn.Module, _arguments: Any) -> None:
        if called is module:
            before()

    handle = module.register_forward_pre_hook(hook, prepend=True)
    return Subscription(handle.remove)


def save_whole(module: torch.nn.Module, unit_of: Callable[[torch.nn.Parameter], GuardedUnit | None]) -> Subscription:
    """Put whole weights into the state dictionary of a module, alone or as part of another."""

    def hook(called: torch.nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
        if called is not module:
            return
        for name, parameter in called._parameters.items():
            unit = unit_of(parameter) if parameter is not None else None
            whole = unit.whole(parameter) if unit is not None and parameter is not None else None
            if whole is not None and prefix + name in state:
                state[prefix + name] = whole

    handle = module.register_state_dict_post_hook(hook)
    return Subscription(handle.remove)


def refuse_loading(
    module: torch.nn.Module, unit_of: Callable[[torch.nn.Parameter], GuardedUnit | None]
) -> Subscription:
    """Refuse a state dictionary that would overwrite managed weights; one that adds weights, such as a LoRA, loads."""

    def hook(called: torch.nn.Module, state: dict[str, Any], prefix: str, *_arguments: Any) -> None:
        for name, parameter in called._parameters.items() if called is module else ():
            unit = unit_of(parameter) if parameter is not None and prefix + name in state else None
            if unit is not None and unit.is_managed:
                raise ResidencyError(_managed_text(f"loading {prefix + name!r}"))

    handle = module.register_load_state_dict_pre_hook(hook)
    return Subscription(handle.remove)


def refuse_writing(module: torch.nn.Module, name: str) -> Subscription:
    """Refuse calls that would write into managed weights, move or copy them, on a component or a part of it."""
    # a part must refuse too: converting a block whose weights are absent would convert nothing
    shadowed = [method for method in WRITING if callable(getattr(module, method, None))] + [*_COPYING]
    before = {method: module.__dict__[method] for method in shadowed if method in module.__dict__}
    for method in shadowed:  # on the instance, since its class may have other, unmanaged instances
        module.__dict__[method] = _refusal(f"{_WORDS.get(method, method)} {name!r}")
    module.__dict__["_apply"] = _unless_nothing_changes(module, module.__dict__["_apply"])

    def restore() -> None:
        for method in shadowed:
            module.__dict__.pop(method, None)
        module.__dict__.update(before)

    return Subscription(restore)


def is_managed(module: torch.nn.Module) -> bool:
    """Tell whether a module refuses to be written into."""
    return "_apply" in module.__dict__


def _unless_nothing_changes(module: torch.nn.Module, refuse: Callable[..., NoReturn]) -> Callable[..., torch.nn.Module]:
    """Allow a conversion that changes no weight, such as the `to(dtype=None)` before a LoRA is saved."""

    def apply(convert: Callable[[torch.Tensor], torch.Tensor], *_arguments: Any, **_named: Any) -> torch.nn.Module:
        # empty tensors of every type and device show what the conversion does, whatever the module holds now
        probes = [absent_tensor(*kind) for kind in {(each.dtype, each.device) for each in module.parameters()}]
        return module if all(convert(probe) is probe for probe in probes) else refuse()

    return apply


def refuse_copying(parameter: torch.nn.Parameter, name: str) -> None:
    """Refuse to copy or pickle a managed weight, also as part of any module that contains it."""
    for method in _COPYING:
        parameter.__dict__[method] = _refusal(f"{_WORDS[method]} {name!r}")


def allow_copying(parameter: torch.nn.Parameter) -> None:
    """Undo `refuse_copying`."""
    for method in _COPYING:
        parameter.__dict__.pop(method, None)


def _refusal(what: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
        raise ResidencyError(_managed_text(what))

    return refuse


def _managed_text(what: str) -> str:
    return (
        f"{what}: a residency manages these weights, and the module may hold a slot or nothing now; "
        "leave its `with` block first"
    )


#: The count of a parameter's changes (None in inference mode, which does not count), and its address.
WriteMark = tuple[int | None, int]


def marks(layout: BufferLayout) -> tuple[WriteMark, ...]:
    """Return a mark of each parameter's present state."""
    return tuple(_mark(piece.parameter) for piece in layout.pieces)


def written_places(layout: BufferLayout, before: tuple[WriteMark, ...]) -> list[int]:
    """Return the places of the parameters that were written, or given other memory, since they were marked.

    >>> from reslab.residency._engine._layout import lay_out
    >>> layout = lay_out([torch.nn.Parameter(torch.ones(2)) for _ in range(3)], boundary=64)
    >>> before = marks(layout)
    >>> with torch.no_grad():
    ...     _ = layout.pieces[1].parameter.mul_(2)
    >>> layout.pieces[2].parameter.data = torch.zeros(2)
    >>> written_places(layout, before)
    [1, 2]
    """
    pairs = zip(layout.pieces, before, strict=True)
    return [place for place, (piece, mark) in enumerate(pairs) if piece.elements and _mark(piece.parameter) != mark]


def fits(piece: Piece) -> bool:
    """Tell whether the tensor in a parameter has the shape and type of its piece."""
    held = piece.parameter.data
    return (held.shape, held.dtype) == (piece.size, piece.dtype)


def mark_outdated(layout: BufferLayout) -> None:
    """Tell autograd that the memory behind the parameters holds other values from now on."""
    torch.autograd.graph.increment_version(
        [piece.parameter for piece in layout.pieces if not piece.parameter.is_inference()]
    )


def explain_outdated(error: BaseException) -> None:
    """Add the cause, and the remedy, to autograd's error about outdated memory."""
    if isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error):
        error.add_note(
            "weights that stream through slots are absent when a backward pass reaches them: place components that "
            "gradients go through as 'resident' or 'swap'"
        )


def _mark(parameter: torch.nn.Parameter) -> WriteMark:
    # the address too: `parameter.data = …` keeps the version
    return None if parameter.is_inference() else parameter._version, parameter.data_ptr()
