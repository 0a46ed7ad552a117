"""Finding the repeated blocks of a component: those that a rehearsal counts, else by class, else as they are named.

The numbers of blocks in a plan, a rehearsal and the engine are the same: where the rehearsal's rule finds blocks, they
are the ones. That rule leaves out what would not pay on a real card; a smaller model has blocks too, so where it finds
none, every outermost list of at least two modules of one class is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from reslab.residency._anatomy import Anatomy
from reslab.residency._engine._errors import ResidencyError
from reslab.stages import nearest


def find_blocks(component: torch.nn.Module, named: str | Sequence[str] | None = None) -> dict[str, torch.nn.Module]:
    """Return the blocks of a component in order, by path.

    >>> model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))})
    >>> list(find_blocks(model)), list(find_blocks(model, "Linear"))
    (['blocks.0', 'blocks.1', 'blocks.2'], ['blocks.0', 'blocks.1', 'blocks.2'])

    Args:
        component: Any module.
        named: Paths of lists or of blocks, or the name of their class; none for no blocks; None finds them.

    Raises:
        ResidencyError: For a name that is neither, or a block inside another.
    """
    if named is None:
        return Anatomy(component).blocks or dict(_repeated(component))
    names = [named] if isinstance(named, str) else named
    blocks = {path: block for name in names for path, block in _named(component, name)}
    for path in blocks:
        if outer := next((other for other in blocks if path != other and f"{path}.".startswith(f"{other}.")), None):
            raise ResidencyError(f"the block {path!r} lies inside the block {outer!r}; name one of them")
    return blocks


def entries(block: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules whose forward is how a block is entered: itself, or what a mere container holds.

    >>> pair = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2))])
    >>> entries(pair[1]) == [pair[1]], entries(pair) == [*pair]
    (True, True)
    """
    if type(block).forward is not torch.nn.Module.forward or "forward" in vars(block):
        return [block]
    return [entry for child in block.children() for entry in entries(child)]


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
