"""What a weight consists of: the tensors that are stored for it, and whether a rehearsal can follow its arithmetic.

A plain weight is its own bytes. A tensor subclass that says what it is made of (`__tensor_flatten__`, as torchao's and
quanto's do) is the sum of that: one value a byte, scales, zero points, and not the size of what it stands for. A packed
weight (GGUF) is bytes that torch's own operations unpack. Other kinds (bitsandbytes) compute in kernels of their own;
their bytes are counted with what they keep in attributes of the weight and of its layer, and `followed` says no.

    stored_bytes(weight, layer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

USUAL = frozenset((torch.nn.Parameter, torch.nn.Buffer, torch.Tensor))
#: What a subclass of Parameter may define and still be a plain one.
_HARMLESS = frozenset(
    ("__new__", "__init__", "__repr__", "__str__", "__doc__", "__module__", "__qualname__", "__dict__", "__weakref__")
)
#: Weights that are bytes with a few attributes, unpacked by torch's own operations: diffusers' GGUF.
_PACKED = frozenset(("GGUFParameter",))
#: How deep attributes are searched: a weight's quantisation state has a state of its own for its scales.
_DEPTH = 4


def is_plain(weight: torch.Tensor) -> bool:
    """Whether a weight is stored as its own elements and computed with by torch's own kernels."""
    if weight.is_quantized or weight.layout is not torch.strided:
        return False
    if type(weight) in USUAL:
        return True
    own = (vars(kind) for kind in type(weight).__mro__ if kind not in torch.nn.Parameter.__mro__)
    changed = set().union(*own) - _HARMLESS
    return weight.is_floating_point() and changed.isdisjoint(dir(torch.Tensor))


def is_composed(weight: torch.Tensor) -> bool:
    """Whether a weight is a tensor subclass that says which tensors it is made of."""
    return hasattr(weight, "__tensor_flatten__") and hasattr(type(weight), "__tensor_unflatten__")


def followed(weight: torch.Tensor) -> bool:
    """Whether a rehearsal can follow what is computed with a weight."""
    return is_plain(weight) or is_composed(weight) or is_packed(weight)


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight is bytes that torch's own operations unpack."""
    return type(weight).__name__ in _PACKED


def parts(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the plain tensors that a weight is made of; of one that does not say so, itself."""
    if is_plain(weight) or not is_composed(weight):
        yield weight
        return
    for name in weight.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
        yield from parts(getattr(weight, name))


def rebuilt(weight: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Make a weight of the same kind from changed parts."""
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
        layer: The module that has it, where bitsandbytes keeps scales once it has computed.
    """
    if is_plain(weight):
        return weight.nbytes
    if weight.layout is not torch.strided:
        return sum(each.nbytes for each in _of_sparse(weight))
    if is_composed(weight):
        return sum(each.nbytes for each in parts(weight))
    found: dict[int, int] = {}
    for tensor in (weight, *_held(vars(weight)), *_held(vars(layer) if layer is not None else {})):
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def elements(weight: torch.Tensor) -> int:
    """Return how many numbers a weight stands for, which packing makes fewer or more than it has."""
    packed_from = getattr(weight, "quant_shape", None) or getattr(getattr(weight, "quant_state", None), "shape", None)
    return torch.Size(packed_from or weight.shape).numel()


class Unusual(NamedTuple):
    """The weights of a component that are not plain: path and kind of the first, and how many there are.

    `nbytes` are those of all weights of the component.
    """

    path: str
    kind: str
    total: int
    nbytes: int
    followed: bool  # whether a rehearsal can try to follow all of them


def all_plain(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether all weights that these modules have themselves are plain."""
    return all(is_plain(each) for module in modules for each in module._parameters.values() if each is not None)


def unusual(component: torch.nn.Module) -> Unusual | None:
    """Find the weights of a component that are not plain; None where all are."""
    found = [(path, weight) for path, weight in component.named_parameters() if not is_plain(weight)]
    if not found:
        return None
    # what cannot be followed is named before what can
    path, first = min(found, key=lambda each: followed(each[1]))
    kind = f"{type(first).__module__.partition('.')[0]}'s {type(first).__name__}"
    seen: dict[int, int] = {}
    for module in component.modules():
        for weight in module._parameters.values():
            if weight is not None and id(weight) not in seen:
                seen[id(weight)] = stored_bytes(weight, module)
    return Unusual(path, kind, len(found), sum(seen.values()), followed(first))


def _of_sparse(weight: torch.Tensor) -> list[torch.Tensor]:
    if weight.layout is torch.sparse_coo:
        return [weight._indices(), weight._values()]
    if weight.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [weight.crow_indices(), weight.col_indices(), weight.values()]
    if weight.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [weight.ccol_indices(), weight.row_indices(), weight.values()]
    return [weight]


def _held(value: Any, depth: int = _DEPTH) -> Iterator[torch.Tensor]:
    """Yield the tensors in attributes, and in those of objects there; parameters and modules are counted elsewhere."""
    if isinstance(value, torch.Tensor):
        if not isinstance(value, torch.nn.Parameter):
            yield value
    elif depth and not isinstance(value, (torch.nn.Module, type)) and not callable(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
        for each in vars(value).values() if inner is None and hasattr(value, "__dict__") else inner or ():
            yield from _held(each, depth - 1)
