"""Models without their weights: built in a second at any size, without memory for parameters.

    with weightless():
        transformer = LTX2VideoTransformer3DModel(**released)      # 35 GiB of parameters, all on meta

Small tensors that a module computes when it is made (rotary frequencies, filters) keep their numbers. `without_weights`
serves existing models: within its block their parameters are phantoms, afterwards the same objects as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from reslab.residency._model._storage import USUAL, Unusual, followed, is_plain, parts, rebuilt
from reslab.residency._rehearse._failures import RehearsalError
from reslab.residency._rehearse._phantom import OperationRow, PhantomFunctions, Phantoms, phantom_like


class IgnoreOperations:
    """A recorder that ignores operations."""

    def __call__(self, row: OperationRow, fresh: list[torch.Tensor], workspace_bytes: int = 0) -> None:
        """Ignore an operation."""

    def touch(self, extra_bytes: int) -> None:
        """Ignore a kernel's own memory."""


@contextmanager
def weightless(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Put the large tensors of modules that are made within the block on meta.

    >>> with weightless():
    ...     layer = torch.nn.Linear(4096, 16384)
    >>> layer.weight.device, layer.weight.nbytes
    (device(type='meta'), 268435456)

    Args:
        dtype: The default dtype within the block; None keeps the current one.
    """
    phantoms, before = Phantoms(IgnoreOperations()), torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        with phantoms, PhantomFunctions(phantoms), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def stored(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, dict[str, Any], str]]:
    """Yield the tensors that a checkpoint stores: owner, its dictionary of parameters or buffers, and name."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield part, part._parameters, name
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                yield part, part._buffers, name


def parameters_to_meta(module: torch.nn.Module) -> torch.nn.Module:
    """Put the parameters of a module that have memory on meta, and return the module; tied parameters stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = made.setdefault(id(parameter), _blank(parameter))
    return module


def _blank(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    if parameter.is_meta:
        return parameter
    return torch.nn.Parameter(phantom_like(parameter), requires_grad=parameter.requires_grad)


@contextmanager
def without_weights(modules: Iterable[torch.nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Exchange parameters for phantoms within the block; afterwards each is the same object with the same type.

    Buffers stay, and so do weights whose arithmetic no rehearsal can follow; both are restored afterwards.

    Args:
        modules: All modules of the models, those inside others included.

    Yields:
        The plain tensors that the weights and buffers now consist of.
    """
    made: dict[int, torch.Tensor] = {}
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    blank: list[tuple[torch.nn.Parameter, torch.dtype]] = []
    try:
        for own in (own for module in modules for own in (module._parameters, module._buffers) if own):
            before.append((own, dict(own)))
            for name, weight in own.items():
                if isinstance(weight, torch.nn.Parameter):
                    if type(weight) is torch.nn.Parameter and weight.is_meta:
                        blank.append((weight, weight.dtype))
                    else:
                        own[name] = made.setdefault(id(weight), _phantom(weight))  # type: ignore[assignment]
        weights = [each for own, _ in before for each in own.values() if each is not None]
        yield [part for each in weights for part in ((each,) if type(each) in USUAL else parts(each))]
    finally:
        for own, tensors in before:
            own.clear()
            own.update(tensors)
        for parameter, dtype in blank:
            if parameter.dtype is not dtype:
                parameter.data = parameter.data.to(dtype)


def _phantom(parameter: torch.nn.Parameter) -> torch.Tensor:
    if is_plain(parameter):
        return torch.nn.Parameter(phantom_like(parameter), requires_grad=parameter.requires_grad)
    if not followed(parameter):
        return parameter
    made = rebuilt(parameter, phantom_like)
    if isinstance(made, torch.nn.Parameter):
        return made
    return torch.nn.Parameter(made, requires_grad=parameter.requires_grad)


def raise_unfollowed(component: str, weights: Unusual, why: str = "") -> NoReturn:
    """Raise `RehearsalError` for a component whose weights are of a kind that a rehearsal cannot follow."""
    others = f" and {weights.total - 1} more of its weights are" if weights.total > 1 else " is"
    raise RehearsalError(
        f"{component!r} cannot be rehearsed as it is quantised: {weights.path} ({weights.kind}){others} no plain "
        f"tensors{why}. Rehearse the same model without quantisation, such as its blank (residency.blank, ltx2.blank); "
        f"stored are {weights.nbytes:,} bytes."
    ) from None
