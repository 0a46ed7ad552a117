"""The storage of a weight: the tensors stored for it, and whether a rehearsal can follow its arithmetic.

A plain weight is stored as its own elements. A tensor subclass with `__tensor_flatten__`, as torchao and quanto have
them, is stored as the tensors that it names: packed values, scales, zero points. A packed weight (GGUF) is bytes that
torch's own operations unpack. Other kinds (bitsandbytes) compute in kernels of their own: `stored_bytes` adds the
tensors in attributes of the weight and of its layer, and `followed` is false.

    stored_bytes(weight, layer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

USUAL = frozenset((torch.nn.Parameter, torch.nn.Buffer, torch.Tensor))
#: Attributes that a subclass of Parameter may define and still be a plain one.
_HARMLESS = frozenset(
    ("__new__", "__init__", "__repr__", "__str__", "__doc__", "__module__", "__qualname__", "__dict__", "__weakref__")
)
#: Weights that are bytes with a few attributes, unpacked by torch's own operations: diffusers' GGUF.
_PACKED = frozenset(("GGUFParameter",))
#: How deep attributes are searched: a weight's quantisation state has a state of its own for its scales.
_DEPTH = 4


def is_plain(weight: torch.Tensor) -> bool:
    """Tell whether a weight is stored as its own elements, and torch's own kernels compute with it."""
    if weight.is_quantized or weight.layout is not torch.strided:
        return False
    if type(weight) in USUAL:
        return True
    own = (vars(kind) for kind in type(weight).__mro__ if kind not in torch.nn.Parameter.__mro__)
    changed = set().union(*own) - _HARMLESS
    return weight.is_floating_point() and changed.isdisjoint(dir(torch.Tensor))


def is_composed(weight: torch.Tensor) -> bool:
    """Tell whether a weight is a tensor subclass that can be rebuilt from the tensors that it names."""
    return names_parts(weight) and hasattr(type(weight), "__tensor_unflatten__")


def names_parts(weight: torch.Tensor) -> bool:
    """Tell whether a weight is a tensor subclass that names the tensors it is made of, so that bytes can be counted."""
    return hasattr(type(weight), "__tensor_flatten__")


def followed(weight: torch.Tensor) -> bool:
    """Tell whether a rehearsal can follow the arithmetic with a weight."""
    return is_plain(weight) or is_composed(weight) or is_packed(weight)


def is_packed(weight: torch.Tensor) -> bool:
    """Tell whether a weight is bytes that torch's own operations unpack."""
    return type(weight).__name__ in _PACKED


def parts(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the plain tensors that a weight is made of; a weight that names none yields itself."""
    if is_plain(weight) or not names_parts(weight):
        yield weight
        return
    for name in weight.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
        yield from parts(getattr(weight, name))


def rebuilt(weight: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return a weight of the same kind, made from changed parts."""
    if is_packed(weight):
        same: torch.Tensor = torch.Tensor._make_subclass(type(weight), change(weight))
        vars(same).update(vars(weight))
        return same
    if not is_composed(weight):
        return change(weight)
    names, context = weight.__tensor_flatten__()  # type: ignore[attr-defined]
    inner = {name: rebuilt(getattr(weight, name), change) for name in names}
    make: Any = type(weight).__tensor_unflatten__  # type: ignore[attr-defined]
    made: torch.Tensor = make(inner, context, weight.shape, weight.stride())
    return made


def stored_bytes(weight: torch.Tensor, layer: torch.nn.Module | None = None) -> int:
    """Return the bytes that are stored for a weight.

    >>> stored_bytes(torch.nn.Parameter(torch.empty(4, 8, dtype=torch.bfloat16)))
    64

    Args:
        weight: The weight.
        layer: The module that owns it; bitsandbytes keeps scales there once it has computed.
    """
    if is_plain(weight):
        return weight.nbytes
    if weight.layout is not torch.strided:
        return sum(each.nbytes for each in _of_sparse(weight))
    if names_parts(weight):
        return sum(each.nbytes for each in parts(weight))
    found: dict[int, int] = {}
    for tensor in (weight, *_held(vars(weight)), *_held(vars(layer) if layer is not None else {})):
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def elements(weight: torch.Tensor) -> int:
    """Return how many numbers a weight stands for; a packed weight stores fewer or more elements than that."""
    packed_from = getattr(weight, "quant_shape", None) or getattr(getattr(weight, "quant_state", None), "shape", None)
    return torch.Size(packed_from or weight.shape).numel()


class Unusual(NamedTuple):
    """The weights of a component that are not plain.

    Attributes:
        path: Path of the first one; one that a rehearsal cannot follow comes before others.
        kind: Its class, as a text.
        total: How many there are.
        nbytes: Bytes of all weights of the component.
        followed: Whether a rehearsal can follow all of them.
    """

    path: str
    kind: str
    total: int
    nbytes: int
    followed: bool


def all_plain(modules: Iterable[torch.nn.Module]) -> bool:
    """Tell whether all weights that these modules own directly are plain."""
    return all(is_plain(each) for module in modules for each in module._parameters.values() if each is not None)


def unusual(component: torch.nn.Module) -> Unusual | None:
    """Return the weights of a component that are not plain; None where all are."""
    found = [(path, weight) for path, weight in component.named_parameters() if not is_plain(weight)]
    if not found:
        return None
    path, first = min(found, key=lambda each: followed(each[1]))
    kind = f"{type(first).__module__.partition('.')[0]}'s {type(first).__name__}"
    return Unusual(path, kind, len(found), component_bytes(component), followed(first))


def component_bytes(component: torch.nn.Module) -> int:
    """Return the bytes that are stored for all weights of a component; tied weights count once."""
    seen: dict[int, int] = {}
    for module in component.modules():
        for weight in module._parameters.values():
            if weight is not None and id(weight) not in seen:
                seen[id(weight)] = stored_bytes(weight, module)
    return sum(seen.values())


def _of_sparse(weight: torch.Tensor) -> list[torch.Tensor]:
    if weight.layout is torch.sparse_coo:
        return [weight._indices(), weight._values()]
    if weight.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [weight.crow_indices(), weight.col_indices(), weight.values()]
    if weight.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [weight.ccol_indices(), weight.row_indices(), weight.values()]
    return [weight]


def _held(value: Any, depth: int = _DEPTH) -> Iterator[torch.Tensor]:
    """Yield the tensors in attributes, also in attributes of objects there, without parameters and modules."""
    if isinstance(value, torch.Tensor):
        if not isinstance(value, torch.nn.Parameter):
            yield value
    elif depth and not isinstance(value, (torch.nn.Module, type)) and not callable(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
        for each in vars(value).values() if inner is None and hasattr(value, "__dict__") else inner or ():
            yield from _held(each, depth - 1)
