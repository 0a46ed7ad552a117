"""Weights that are not there: what stands in their place, and who watches over it.

An absent weight is an empty tensor of its type on its device: nearly every use of it raises by itself. Before each
module that owns one stands a hook that sees to it first, and raises `WeightsAbsent` where nothing can be done. What
reads weights without computing goes through the manager: `state_dict`, and with it every `save_pretrained`, gets the
whole weights; copying, pickling, converting and fusing are refused with a sentence.

    guard = Guard("transformer", unit_of=…, needed=…)
    guard.install(transformer)
    guard.remove()                  # every hook and attribute as it was

Weights that somebody writes while they are managed, and gradients through weights that have left.

Leaving re-points, it copies nothing back; so what was written has to be noticed. Autograd counts the changes of each
parameter, and a tensor put in a weight's place lies in other memory. What goes past both, an in-place change of
`weight.data`, nobody can see. The same counters tell autograd that the memory behind a weight has been used again.

    before = marks(layout)
    written(layout, before)          # places of the parameters that are not as they were then
    outdate(layout)                  # from now on a backward pass through what they held is an error
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import torch

from reslab.residency._engine._layout import Layout, Piece
from reslab.residency._errors import ResidencyError
from reslab.stages import Subscription

#: Methods of a component, where it has them, that write into weights or move them.
WRITING = ("_apply", "fuse_lora", "unfuse_lora", "fuse_qkv_projections", "dequantize", "share_memory")
#: What copying and pickling ask of a parameter.
_COPYING = ("__deepcopy__", "__reduce_ex__")
_WORDS = {"__deepcopy__": "copying", "__reduce_ex__": "pickling", "_apply": "moving or converting"}


class Unit(Protocol):
    """What moves in one piece, as far as guards need it."""

    @property
    def is_managed(self) -> bool:
        """Tell whether its parameters hold something else than they held before."""

    def whole(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """Return the whole of a weight that is absent, None where it is not."""


def empty(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return what an absent weight is."""
    return torch.empty(0, dtype=dtype, device=device)


def watch_calls(module: torch.nn.Module, before: Callable[[], None]) -> Subscription:
    """Call `before` ahead of each forward of a module, but not of a copy of it that took the hook along."""

    def hook(called: torch.nn.Module, _arguments: Any) -> None:
        if called is module:
            before()

    handle = module.register_forward_pre_hook(hook, prepend=True)
    return Subscription(handle.remove)


def give_whole(module: torch.nn.Module, unit_of: Callable[[torch.nn.Parameter], Unit | None]) -> Subscription:
    """Let the state dictionary of a module, alone or as part of another, hold whole weights."""

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


def refuse_loading(module: torch.nn.Module, unit_of: Callable[[torch.nn.Parameter], Unit | None]) -> Subscription:
    """Refuse a state dictionary that would overwrite managed weights; what it adds, such as a LoRA, is let in."""

    def hook(called: torch.nn.Module, state: dict[str, Any], prefix: str, *_arguments: Any) -> None:
        for name, parameter in called._parameters.items() if called is module else ():
            unit = unit_of(parameter) if parameter is not None and prefix + name in state else None
            if unit is not None and unit.is_managed:
                raise ResidencyError(_told(f"loading {prefix + name!r}"))

    handle = module.register_load_state_dict_pre_hook(hook)
    return Subscription(handle.remove)


def refuse_writing(module: torch.nn.Module, name: str) -> Subscription:
    """Refuse what would write into managed weights, move or copy them, on a component or a part of it.

    A part of its own accord has to refuse too: converting a block whose weights are absent would convert nothing, and
    the weights that arrive would be as they were.
    """
    shadowed = [method for method in WRITING if callable(getattr(module, method, None))] + [*_COPYING]
    before = {method: module.__dict__[method] for method in shadowed if method in module.__dict__}
    for method in shadowed:
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
    """Let a conversion pass that leaves every weight as it is, such as the `to(dtype=None)` before a LoRA is saved."""

    def apply(convert: Callable[[torch.Tensor], torch.Tensor], *_arguments: Any, **_named: Any) -> torch.nn.Module:
        probes = [empty(*kind) for kind in {(each.dtype, each.device) for each in module.parameters()}]
        return module if all(convert(probe) is probe for probe in probes) else refuse()

    return apply


def refuse_copying(parameter: torch.nn.Parameter, name: str) -> None:
    """Refuse to copy or pickle a managed weight, at whatever level of modules it is tried."""
    for method in _COPYING:
        parameter.__dict__[method] = _refusal(f"{_WORDS[method]} {name!r}")


def allow_copying(parameter: torch.nn.Parameter) -> None:
    """Undo `refuse_copying`."""
    for method in _COPYING:
        parameter.__dict__.pop(method, None)


def _refusal(what: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
        raise ResidencyError(_told(what))

    return refuse


def _told(what: str) -> str:
    return (
        f"{what}: a residency manages these weights, and what is in the module now may be a slot or nothing; "
        "leave its `with` block first"
    )


#: The count of a parameter's changes (None in inference mode, which does not count), and where its memory is.
Mark = tuple[int | None, int]


def marks(layout: Layout) -> tuple[Mark, ...]:
    """Return a mark for each parameter as it is now."""
    return tuple(_mark(piece.parameter) for piece in layout.pieces)


def written(layout: Layout, before: tuple[Mark, ...]) -> list[int]:
    """Return the places of the parameters that were changed, or given other memory, since they were marked.

    >>> from reslab.residency._engine._layout import lay_out
    >>> layout = lay_out([torch.nn.Parameter(torch.ones(2)) for _ in range(3)], boundary=64)
    >>> before = marks(layout)
    >>> with torch.no_grad():
    ...     _ = layout.pieces[1].parameter.mul_(2)
    >>> layout.pieces[2].parameter.data = torch.zeros(2)
    >>> written(layout, before)
    [1, 2]
    """
    pairs = zip(layout.pieces, before, strict=True)
    return [place for place, (piece, mark) in enumerate(pairs) if piece.elements and _mark(piece.parameter) != mark]


def fits(piece: Piece) -> bool:
    """Tell whether what a parameter holds now can lie in its place."""
    held = piece.parameter.data
    return (held.shape, held.dtype) == (piece.size, piece.dtype)


def outdate(layout: Layout) -> None:
    """Have autograd know that the memory behind the parameters holds something else from now on."""
    torch.autograd.graph.increment_version(
        [piece.parameter for piece in layout.pieces if not piece.parameter.is_inference()]
    )


def explain(error: BaseException) -> None:
    """Say beside autograd's error about outdated memory what it comes from here, and what to do."""
    if isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error):
        error.add_note(
            "weights that stream through slots are gone when a backward pass comes to them: place components that "
            "gradients go through as 'resident' or 'swap'"
        )


def _mark(parameter: torch.nn.Parameter) -> Mark:
    return None if parameter.is_inference() else parameter._version, parameter.data_ptr()
