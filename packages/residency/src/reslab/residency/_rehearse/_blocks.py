"""What a component's weights are: how many bytes, which repeated blocks, what of them is a LoRA.

Blocks are what layerwise placement moves one by one: members of a list of modules of one class, most of them of equal
shapes, where the list holds at least a tenth of the component's weights and all such lists together at least half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

_LEAST_LIST, _LEAST_TOGETHER = 0.1, 0.5
_LORA = ".lora_"


class Bytes(NamedTuple):
    """Bytes of weights, and of the LoRA beside them."""

    weights: int
    lora: int


def weight_bytes(module: torch.nn.Module) -> Bytes:
    """Count the bytes of a module's parameters, tied ones once."""
    named = [(name, parameter.nbytes) for name, parameter in module.named_parameters()]
    lora = sum(size for name, size in named if _LORA in f".{name}")
    return Bytes(sum(size for _name, size in named) - lora, lora)


def block_lists(component: torch.nn.Module) -> dict[str, torch.nn.ModuleList]:
    """The lists of repeated blocks of a component, by path; none where blocks are not most of it."""
    total = weight_bytes(component).weights
    found = {path: blocks for path, blocks in _outermost(component) if _share(blocks, total) >= _LEAST_LIST}
    return found if sum(_share(blocks, total) for blocks in found.values()) >= _LEAST_TOGETHER else {}


def blocks_of(component: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The repeated blocks of a component in order, by path."""
    lists = block_lists(component)
    return {f"{path}.{place}": block for path, blocks in lists.items() for place, block in enumerate(blocks)}


def component_row(name: str, component: torch.nn.Module) -> tuple[Any, ...]:
    """A row of the frame `components`."""
    size, blocks = weight_bytes(component), blocks_of(component)
    buffers = sum(buffer.nbytes for buffer in component.buffers())
    own = [(path, weight) for path, weight in component.named_parameters() if _LORA not in f".{path}"]
    dtypes = Counter[str]()
    for _path, weight in own:
        dtypes[str(weight.dtype).removeprefix("torch.")] += weight.nbytes
    return (
        name,
        type(component).__name__,
        dtypes.most_common(1)[0][0] if dtypes else "",
        sum(weight.numel() for _path, weight in own),
        size.weights,
        buffers,
        size.lora,
        len(blocks),
        ", ".join(block_lists(component)),
        size.weights - sum(weight_bytes(block).weights for block in blocks.values()),
    )


def block_rows(name: str, component: torch.nn.Module) -> Iterator[tuple[Any, ...]]:
    """The rows of the frame `blocks` for one component."""
    for index, (path, block) in enumerate(blocks_of(component).items()):
        size = weight_bytes(block)
        yield name, index, path, size.weights, size.lora


def _outermost(module: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.ModuleList]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, torch.nn.ModuleList) and _repeats(child):
            yield path, child
        else:
            yield from _outermost(child, f"{path}.")


def _repeats(members: torch.nn.ModuleList) -> bool:
    """Whether a list holds at least two blocks of one class, most of them of equal shapes."""
    if len(members) < 2 or len({type(member) for member in members}) > 1:
        return False
    shapes = Counter(
        tuple((name, weight.shape) for name, weight in member.named_parameters() if _LORA not in f".{name}")
        for member in members
    )
    return shapes.most_common(1)[0][1] > len(members) / 2


def _share(blocks: torch.nn.ModuleList, total: int) -> float:
    return weight_bytes(blocks).weights / max(total, 1)
