"""The anatomy of a component: the bytes of its weights and LoRA, and its repeated blocks.

Layerwise placement moves blocks one by one. A rehearsal counts as blocks the members of a list of at least eight
modules of one class, most of equal shapes, if the list holds at least a tenth of the component's weights, and all such
lists together at least half. That rule leaves out lists that would not pay on a real card. A smaller model has blocks
too: where the rule finds none, `find_blocks` takes every outermost list of at least two modules of one class. Plan,
rehearsal and engine number the blocks alike.

    anatomy = Anatomy(transformer)
    anatomy.blocks              # {"transformer_blocks.0": …, …}
    find_blocks(transformer)    # the same blocks; of a small model those of its lists
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from reslab.residency._errors import ResidencyError
from reslab.residency._model._eager import original, plain
from reslab.residency._model._storage import USUAL, elements, parts, stored_bytes
from reslab.stages.support import nearest

_LEAST_MEMBERS, _LEAST_LIST, _LEAST_TOGETHER = 8, 0.1, 0.5
_LORA = "lora_"


class ModuleBytes(NamedTuple):
    """Bytes of a module's own weights, and of the LoRA beside them."""

    weights: int
    lora: int


class Anatomy:
    """The weights of one component, and the repeated blocks among them."""

    def __init__(self, component: torch.nn.Module) -> None:
        self.component = component = original(component)
        self._bytes: dict[int, ModuleBytes] = {}
        self._counted: set[int] = set()
        self.total = self._count(component, in_lora=False)
        self.lists = self._block_lists()
        #: The repeated blocks in order, by path.
        self.blocks = {
            f"{path}.{place}": block for path, each in self.lists.items() for place, block in enumerate(each)
        }

    def _count(self, module: torch.nn.Module, *, in_lora: bool) -> ModuleBytes:
        """Return the bytes of a module, and record those of every module inside; tied weights count once."""
        own = 0
        for weight in module._parameters.values():
            if weight is not None and id(weight) not in self._counted:
                self._counted.add(id(weight))
                own += stored_bytes(weight, module)
        weights, lora = (0, own) if in_lora else (own, 0)
        for name, child in module._modules.items():
            if child is not None and id(child) not in self._bytes:
                inner = self._count(child, in_lora=in_lora or name.startswith(_LORA))
                weights, lora = weights + inner.weights, lora + inner.lora
        self._bytes[id(module)] = ModuleBytes(weights, lora)
        return self._bytes[id(module)]

    def _block_lists(self) -> dict[str, torch.nn.ModuleList]:
        found = {path: each for path, each in _outermost(self.component) if self._share(each) >= _LEAST_LIST}
        return found if sum(map(self._share, found.values())) >= _LEAST_TOGETHER else {}

    def _share(self, module: torch.nn.Module) -> float:
        return self._bytes[id(module)].weights / max(self.total.weights, 1)

    def row(self, name: str) -> tuple[Any, ...]:
        """Return the component's row of the frame `components`."""
        own = [weight for path, weight in self.component.named_parameters() if f".{_LORA}" not in f".{path}"]
        dtypes: Counter[str] = Counter()
        for part in (part for weight in own for part in ((weight,) if type(weight) in USUAL else parts(weight))):
            dtypes[str(part.dtype).removeprefix("torch.")] += part.nbytes
        return (
            name,
            type(self.component).__name__,
            dtypes.most_common(1)[0][0] if dtypes else "",
            sum(weight.numel() if type(weight) in USUAL else elements(weight) for weight in own),
            self.total.weights,
            sum(stored_bytes(buffer) for buffer in self.component.buffers()),
            self.total.lora,
            len(self.blocks),
            ", ".join(self.lists),
            self.total.weights - sum(self._bytes[id(block)].weights for block in self.blocks.values()),
        )

    def block_rows(self, name: str) -> Iterator[tuple[Any, ...]]:
        """Yield the component's rows of the frame `blocks`."""
        for index, (path, block) in enumerate(self.blocks.items()):
            yield name, index, path, *self._bytes[id(block)]


def _outermost(module: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.ModuleList]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, torch.nn.ModuleList) and _repeats(child):
            yield plain(path), child
        else:
            yield from _outermost(child, f"{path}.")


def _repeats(members: torch.nn.ModuleList) -> bool:
    """Tell whether a list holds at least eight blocks of one class, most of them of equal shapes."""
    if len(members) < _LEAST_MEMBERS or len({type(original(member)) for member in members}) > 1:
        return False
    shapes = Counter(tuple(weight.shape for weight in member.parameters()) for member in members)
    return shapes.most_common(1)[0][1] > len(members) / 2


def find_blocks(component: torch.nn.Module, named: str | Sequence[str] | None = None) -> dict[str, torch.nn.Module]:
    """Return the blocks of a component in order, by path.

    >>> model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))})
    >>> list(find_blocks(model)), list(find_blocks(model, "Linear"))
    (['blocks.0', 'blocks.1', 'blocks.2'], ['blocks.0', 'blocks.1', 'blocks.2'])

    Args:
        component: Any module.
        named: Paths of lists or of blocks, or the name of their class; an empty sequence for no blocks. By default the
            blocks are found.

    Raises:
        ResidencyError: For a name that is no path and no class, or a block inside another.
    """
    if named is None:
        return Anatomy(component).blocks or dict(_repeated(component))
    names = [named] if isinstance(named, str) else named
    blocks = {path: block for name in names for path, block in _named(component, name)}
    for path in blocks:
        if outer := next((other for other in blocks if path != other and f"{path}.".startswith(f"{other}.")), None):
            raise ResidencyError(f"the block {path!r} lies inside the block {outer!r}; name one of them")
    return blocks


def entry_modules(block: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules whose forward enters a block: the block itself, or the members of a container without forward.

    >>> pair = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2))])
    >>> entry_modules(pair[1]) == [pair[1]], entry_modules(pair) == [*pair]
    (True, True)
    """
    if type(block).forward is not torch.nn.Module.forward or "forward" in vars(block):
        return [block]
    return [entry for child in block.children() for entry in entry_modules(child)]


def _named(component: torch.nn.Module, name: str) -> list[tuple[str, torch.nn.Module]]:
    modules = dict(component.named_modules())
    if name and name in modules:
        found = modules[name]
        members = found if isinstance(found, torch.nn.ModuleList) else None
        return [(name, found)] if members is None else [(f"{name}.{i}", block) for i, block in enumerate(members)]
    by_class = [(path, module) for path, module in modules.items() if type(module).__name__ == name and path]
    if not by_class:
        known = [*filter(None, modules), *{type(part).__name__ for path, part in modules.items() if path}]
        raise ResidencyError(f"{type(component).__name__} has no module or class {name!r}; {nearest(name, known)}")
    return by_class


def _repeated(module: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, torch.nn.ModuleList) and len(child) > 1 and len({type(each) for each in child}) == 1:
            yield from (
                (f"{path}.{place}", block)
                for place, block in enumerate(child)
                if next(block.parameters(), None) is not None
            )
        else:
            yield from _repeated(child, f"{path}.")
