"""A managed component: its units, the hooks that watch over them, and what of it has changed since it was last seen.

Its parameters may change while it is managed: a LoRA adds some, and takes them away again. `refresh` notices, gives
the units concerned back, and makes them anew; the others stay where they are.

Weights without values: what stands in their place while a residency brings the values from files.

A parameter on meta cannot be given memory. So another parameter stands in its place in the module, absent until its
value is fetched, and leaving puts the one on meta back. A buffer is never absent: it is read from the files at once.

    stand_ins = StandIns(device)
    stand_ins.install(module, checkpoint)
    stand_ins.unknown                       # the parameters on meta, by the identity of those that stand in for them
    stand_ins.put_back()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from reslab.residency._engine import _guards
from reslab.residency._engine._checkpoint import Checkpoint, names
from reslab.residency._engine._layout import boundary, lay_out, memory_key
from reslab.residency._engine._unit import Shared, Unit
from reslab.residency._model._anatomy import entries, find_blocks
from reslab.residency._model._eager import plain
from reslab.residency._model._lora import Adapted
from reslab.residency._plan._workload import ComponentSize
from reslab.residency._schedule._kept_units import OUTSIDE
from reslab.stages import Subscription, is_seen

#: Stands for the component itself.
WHOLE = -2

#: Called before a block runs, (OUTSIDE) a module that owns weights outside the blocks, or (WHOLE) the component.
#: The text is the path of a module that is called from outside the component and whose call follows, else empty.
Watcher = Callable[["Component", int, str], None]


class Component:
    """One module of a pipeline, in units.

    Args:
        name: In the pipeline; the first, where it has several.
        module: The module itself.
        device: Where it computes.
        watcher: Asked before a unit is used.
        blocks: Names of its blocks, see `find_blocks`; None finds them.
        merges: Whether a LoRA is merged into a copy: then what it adds is not managed, and what it reaches comes first.
        checkpoint: What its files hold, for what of it has no values; None for no files.
    """

    #: Whether it stays as it is, unseen: see `Kept`.
    is_kept = False

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        *,
        device: torch.device,
        watcher: Watcher,
        blocks: str | Sequence[str] | None = None,
        merges: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.name, self.module, self._device, self.watcher, self._merges = name, module, device, watcher, merges
        #: The component whose parameters these are, and as what its calls are seen now: itself, or a merged copy.
        self.base: Component = self
        self.face: Component = self
        #: Counts how often units were made anew.
        self.version = 0
        self.lora = Adapted(None)
        found = find_blocks(module, blocks)
        self._paths, self.blocks = list(found), list(found.values())
        self.units: dict[int, Unit] = {}
        self._known: tuple[tuple[int, ...], int] = (), 0
        self._own: dict[int, tuple[int, ...]] = {}
        self._unit_of: dict[int, Unit] = {}
        self._watches: list[Subscription] = []
        self._checkpoint, self._stand_ins = checkpoint, StandIns(device)

    @property
    def size(self) -> ComponentSize:
        """Return the bytes of its units."""
        return ComponentSize(
            outside_bytes=self.units[OUTSIDE].nbytes,
            block_bytes=tuple(self.units[number].nbytes for number in range(len(self.blocks))),
        )

    def slot_bytes(self, blocks: Iterable[int]) -> int:
        """Return the bytes of a slot through which some of its blocks stream: of the largest, as it lies in memory.

        The account in `_footprint` says the same of the weights alone, without the gaps between them.
        """
        return max((self.units[number].layout.nbytes for number in blocks), default=0)

    @property
    def names(self) -> Mapping[int, tuple[str, ...]]:
        """Return the names of its parameters, all that each has, by their identity."""
        return names(self.module)

    @property
    def _writes(self) -> int:
        return sum(unit.writes for unit in self.units.values())

    def refresh(self, put_back: Callable[[Iterable[Unit]], None], shared: dict[object, Shared]) -> bool:
        """See which parameters it has now, and tell whether units were made anew.

        Args:
            put_back: Gives units back before they are forgotten.
            shared: Sources by what memory the weights are; for modules that share it.
        """
        if self._checkpoint is not None:
            self._stand_ins.install(self.module, self._checkpoint)
        parameters = tuple(map(id, self.module.parameters()))
        if self._known == (parameters, self._writes):
            return False
        inside = dict(self.module.named_modules(remove_duplicate=False))
        self.blocks = [inside[path] for path in self._paths if path in inside]  # some may have been replaced
        self.lora = Adapted(self.module if self._merges else None)
        everything = self._owned()
        owned = {number: self._managed(parameters) for number, parameters in everything.items()}
        own = {number: tuple(map(id, parameters)) for number, parameters in owned.items()}
        changed = [number for number in own if own[number] != self._own.get(number)]
        put_back([self.units[number] for number in changed if number in self.units])
        for number in changed:
            self.units[number] = self._unit(number, owned[number], shared)
        for number, unit in self.units.items():
            unit.note_beside(each for each in everything[number] if id(each) in self.lora.added)
        self._known, self._own, self.version = (parameters, self._writes), own, self.version + 1
        self._unit_of = {key: unit for unit in self.units.values() for key in unit.by_parameter}
        self._watch()
        return True

    def step_back(self) -> None:
        """Be in nobody's place; only a merged copy ever is."""

    def close(self) -> None:
        """Remove every hook and attribute, and leave without values what came without."""
        self._unwatch()
        self._stand_ins.put_back()

    def _unwatch(self) -> None:
        while self._watches:
            self._watches.pop().close()

    def _owned(self) -> dict[int, list[torch.nn.Parameter]]:
        """Return the parameters of each unit; those of two blocks, or of a block and what is outside, lie outside."""
        inside = [list(block.parameters()) for block in self.blocks]
        blocks_of: dict[int, set[int]] = {}
        for number, parameters in enumerate(inside):
            for parameter in parameters:
                blocks_of.setdefault(id(parameter), set()).add(number)
        for module in self._outer_modules():
            for each in module._parameters.values():
                blocks_of.setdefault(id(each), set()).add(OUTSIDE)
        outside = [each for each in self.module.parameters() if not _is_inside(blocks_of[id(each)])]
        own = {
            number: [each for each in parameters if blocks_of[id(each)] == {number}]
            for number, parameters in enumerate(inside)
        }
        return {OUTSIDE: outside, **own}

    def _managed(self, parameters: Sequence[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
        kept = [each for each in parameters if id(each) not in self.lora.added]
        return sorted(kept, key=lambda each: id(each) not in self.lora.reached)

    def _outer_modules(self) -> list[torch.nn.Module]:
        inner = {id(module) for block in self.blocks for entry in entries(block) for module in entry.modules()}
        return [module for module in self.module.modules() if id(module) not in inner]

    def _unit(self, number: int, parameters: Sequence[torch.nn.Parameter], shared: dict[object, Shared]) -> Unit:
        key = tuple(map(memory_key, parameters))
        layout = lay_out(parameters, boundary=boundary(self._device), unknown=self._stand_ins.unknown)
        return Unit(self.name, number, layout, shared.setdefault(key, Shared()) if key else Shared(), self._device)

    def _watch(self) -> None:
        self._unwatch()
        paths = {id(module): plain(path) for path, module in self.module.named_modules()}
        for number, block in enumerate(self.blocks):
            for entry in entries(block):
                inner = [module for module in entry.modules() if module is not entry and _owns(module)]
                self._watches.append(_guards.watch_calls(entry, self._before(number, entry, paths[id(entry)])))
                self._watches.extend(
                    _guards.watch_calls(module, self._inside(number, module, paths[id(module)])) for module in inner
                )
        self._watches.append(_guards.watch_calls(self.module, self._before(WHOLE, self.module)))
        for module in self._outer_modules():
            if module is not self.module and _owns(module):
                self._watches.append(_guards.watch_calls(module, self._before(OUTSIDE, module, paths[id(module)])))
        for module in filter(_owns, self.module.modules()):
            self._watches.append(_guards.give_whole(module, self._find))
            self._watches.append(_guards.refuse_loading(module, self._find))
        for path, module in self.module.named_modules():
            if next(module.parameters(), None) is not None:
                self._watches.append(_guards.refuse_writing(module, f"{self.name}.{path}" if path else self.name))

    def _find(self, parameter: torch.nn.Parameter) -> Unit | None:
        return self._unit_of.get(id(parameter))

    def _before(self, number: int, module: torch.nn.Module, path: str = "") -> Callable[[], None]:
        return lambda: self.watcher(self.face, number, path if is_seen(module) else "")

    def _inside(self, number: int, module: torch.nn.Module, path: str) -> Callable[[], None]:
        """Return what watches a part of a block, for who uses the part without the block."""

        def watch() -> None:
            if not self.face.units[number].is_here or is_seen(module):
                self.watcher(self.face, number, path if is_seen(module) else "")

        return watch

    def block_of(self, method: str) -> int | None:
        """Return the block that a called module is or lies in, by its path; None for all else that is called."""
        inside = (number for number, path in enumerate(self._paths) if f"{method}.".startswith(f"{plain(path)}."))
        return next(inside, None)

    def __repr__(self) -> str:
        return f"Component({self.name!r}, {len(self.blocks)} blocks)"


def _owns(module: torch.nn.Module) -> bool:
    return any(each is not None for each in module._parameters.values())


def _is_inside(blocks: set[int]) -> bool:
    """Tell whether a parameter belongs to one block and to nothing else."""
    return len(blocks) == 1 and OUTSIDE not in blocks


class StandIns:
    """Stands in for the parameters and buffers of one component that have no values.

    Args:
        device: Where it computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        self._stands: dict[int, torch.Tensor] = {}
        #: The parameters on meta, by the identity of those that stand in for them.
        self.unknown: dict[int, torch.nn.Parameter] = {}

    def install(self, module: torch.nn.Module, checkpoint: Checkpoint) -> None:
        """Stand in for what is on meta; what stands in already is left."""
        own = names(module)
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_meta:
                        self._replaced.append((tensors, name, tensor))
                        tensors[name] = self._stand(tensor, own[id(tensor)], checkpoint)

    def put_back(self) -> None:
        """Put the tensors on meta back, where something else has not taken their place."""
        while self._replaced:
            tensors, name, tensor = self._replaced[-1]
            if tensors.get(name) is self._stands.get(id(tensor)):
                tensors[name] = tensor
            self._replaced.pop()
        self._stands.clear()
        self.unknown.clear()

    def _stand(self, tensor: torch.Tensor, own: tuple[str, ...], checkpoint: Checkpoint) -> Any:
        """Return what stands in for a tensor, the same wherever that is."""
        if id(tensor) not in self._stands:
            if isinstance(tensor, torch.nn.Parameter):
                stand: torch.Tensor = self._parameter(tensor)
            else:
                key = checkpoint.key(own)
                assert key is not None, own
                stand = checkpoint.mapped(key).clone()
            self._stands[id(tensor)] = stand
        return self._stands[id(tensor)]

    def _parameter(self, tensor: torch.nn.Parameter) -> torch.nn.Parameter:
        with torch.inference_mode(False):
            stand = torch.nn.Parameter(_guards.empty(tensor.dtype, self._device), requires_grad=tensor.requires_grad)
        vars(stand).update(vars(tensor))
        self.unknown[id(stand)] = tensor
        return stand
