"""A managed component: its units, the hooks on its modules, and stand-ins for its weights without values.

The parameters of a component may change while it is managed: a LoRA adds some, and takes them away again. `refresh`
notices that, restores the units concerned, and makes them anew; the other units stay where they are.

    component.refresh(mover.restore, shared={})      # True if units were made anew
    component.units[7], component.units[OUTSIDE]

A parameter on meta cannot be given memory. So `StandIns` puts another parameter in its place in the module, absent
until its value is fetched from a file; leaving puts the parameter on meta back. A buffer is never absent: its value is
read from the files at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from reslab.residency._engine import _guards
from reslab.residency._engine._layout import boundary, lay_out, memory_key
from reslab.residency._engine._unit import SharedSource, Unit
from reslab.residency._engine._weight_files import WeightFiles, names
from reslab.residency._model._anatomy import entry_modules, find_blocks
from reslab.residency._model._eager import plain
from reslab.residency._model._lora import ComponentLora
from reslab.residency._plan._workload import ComponentSize
from reslab.residency._schedule._kept_units import OUTSIDE
from reslab.stages import Subscription
from reslab.stages.support import is_seen

#: Number by which a watcher knows the component itself.
WHOLE = -2

#: Called before a block runs, a module that owns weights outside the blocks (OUTSIDE), or the component (WHOLE). The
#: text is the path of a module inside that is called from outside the component and whose call follows, else empty.
Watcher = Callable[["Component", int, str], None]


class Component:
    """One module of a pipeline, in units.

    Args:
        name: Its name in the pipeline; the first of several.
        module: The module itself.
        device: The device that computes.
        watcher: Called before a unit is used.
        blocks: Names of its blocks, see `find_blocks`; None finds them.
        merges: Whether a LoRA is merged into a copy: then the weights that the LoRA adds are not managed, and those
            that it changes come first in each unit.
        files: Its files, for weights without values; None for no files.
    """

    #: Whether it stays as it is, without hooks: see `UnmovedComponent`.
    is_unmoved = False

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        *,
        device: torch.device,
        watcher: Watcher,
        blocks: str | Sequence[str] | None = None,
        merges: bool = False,
        files: WeightFiles | None = None,
    ) -> None:
        self.name, self.module, self._device, self.watcher, self._merges = name, module, device, watcher, merges
        #: `base` owns the parameters; `face` receives the calls: the component itself, or its merged copy.
        self.base: Component = self
        self.face: Component = self
        #: Number of times that units were made anew.
        self.version = 0
        self.lora = ComponentLora(None)
        found = find_blocks(module, blocks)
        self._paths, self.blocks = list(found), list(found.values())
        self.units: dict[int, Unit] = {}
        self._known: tuple[tuple[int, ...], int] = (), 0
        self._own: dict[int, tuple[int, ...]] = {}
        self._unit_of: dict[int, Unit] = {}
        self._watches: list[Subscription] = []
        self._files, self._stand_ins = files, StandIns(device)

    @property
    def size(self) -> ComponentSize:
        """Return the bytes of its units."""
        return ComponentSize(
            outside_bytes=self.units[OUTSIDE].nbytes,
            block_bytes=tuple(self.units[number].nbytes for number in range(len(self.blocks))),
        )

    def slot_bytes(self, blocks: Iterable[int]) -> int:
        """Return the bytes of a slot for some of its blocks: those of the largest, gaps between weights included.

        The account in `_schedule/_footprint` counts the weights alone, without the gaps.
        """
        return max((self.units[number].layout.nbytes for number in blocks), default=0)

    @property
    def names(self) -> Mapping[int, tuple[str, ...]]:
        """Return all names of each of its parameters, by identity."""
        return names(self.module)

    @property
    def _writes(self) -> int:
        return sum(unit.writes for unit in self.units.values())

    def refresh(self, restore: Callable[[Iterable[Unit]], None], shared: dict[object, SharedSource]) -> bool:
        """Take its present parameters, and tell whether units were made anew.

        Args:
            restore: Restores units before they are dropped.
            shared: Sources by the memory of their weights, for modules that share memory.
        """
        if self._files is not None:
            self._stand_ins.install(self.module, self._files)
        parameters = tuple(map(id, self.module.parameters()))
        if self._known == (parameters, self._writes):
            return False
        inside = dict(self.module.named_modules(remove_duplicate=False))
        self.blocks = [inside[path] for path in self._paths if path in inside]  # some may have been replaced
        self.lora = ComponentLora(self.module if self._merges else None)
        everything = self._owned()
        owned = {number: self._managed(parameters) for number, parameters in everything.items()}
        own = {number: tuple(map(id, parameters)) for number, parameters in owned.items()}
        changed = [number for number in own if own[number] != self._own.get(number)]
        restore([self.units[number] for number in changed if number in self.units])
        for number in changed:
            self.units[number] = self._unit(number, owned[number], shared)
        for number, unit in self.units.items():
            unit.note_beside(each for each in everything[number] if id(each) in self.lora.added)
        self._known, self._own, self.version = (parameters, self._writes), own, self.version + 1
        self._unit_of = {key: unit for unit in self.units.values() for key in unit.by_parameter}
        self._watch()
        return True

    def deactivate(self) -> None:
        """Do nothing; only `MergedCopy` replaces another component."""

    def close(self) -> None:
        """Remove every hook, attribute and stand-in."""
        self._unwatch()
        self._stand_ins.restore()

    def _unwatch(self) -> None:
        while self._watches:
            self._watches.pop().close()

    def _owned(self) -> dict[int, list[torch.nn.Parameter]]:
        """Return the parameters of each unit; one of two blocks, or of a block and a module outside, lies outside."""
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
        inner = {id(module) for block in self.blocks for entry in entry_modules(block) for module in entry.modules()}
        return [module for module in self.module.modules() if id(module) not in inner]

    def _unit(self, number: int, parameters: Sequence[torch.nn.Parameter], shared: dict[object, SharedSource]) -> Unit:
        key = tuple(map(memory_key, parameters))
        layout = lay_out(parameters, boundary=boundary(self._device), unknown=self._stand_ins.unknown)
        return Unit(
            self.name, number, layout, shared.setdefault(key, SharedSource()) if key else SharedSource(), self._device
        )

    def _watch(self) -> None:
        self._unwatch()
        paths = {id(module): plain(path) for path, module in self.module.named_modules()}
        for number, block in enumerate(self.blocks):
            for entry in entry_modules(block):
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
            self._watches.append(_guards.save_whole(module, self._find))
            self._watches.append(_guards.refuse_loading(module, self._find))
        for path, module in self.module.named_modules():
            if next(module.parameters(), None) is not None:
                self._watches.append(_guards.refuse_writing(module, f"{self.name}.{path}" if path else self.name))

    def _find(self, parameter: torch.nn.Parameter) -> Unit | None:
        return self._unit_of.get(id(parameter))

    def _before(self, number: int, module: torch.nn.Module, path: str = "") -> Callable[[], None]:
        return lambda: self.watcher(self.face, number, path if is_seen(module) else "")

    def _inside(self, number: int, module: torch.nn.Module, path: str) -> Callable[[], None]:
        """Return the hook of a part of a block, for callers that use the part without the block."""

        def watch() -> None:
            if not self.face.units[number].is_on_device or is_seen(module):
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
    """Tell whether a parameter belongs to one block and to no module outside."""
    return len(blocks) == 1 and OUTSIDE not in blocks


class StandIns:
    """Stand-ins for the parameters and buffers of one component that have no values.

        stand_ins = StandIns(device)
        stand_ins.install(module, files)
        stand_ins.restore()

    Args:
        device: The device that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        self._stands: dict[int, torch.Tensor] = {}
        #: The parameters on meta, by the identity of their stand-ins.
        self.unknown: dict[int, torch.nn.Parameter] = {}

    def install(self, module: torch.nn.Module, files: WeightFiles) -> None:
        """Put a stand-in in the place of every tensor on meta."""
        own = names(module)
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_meta:
                        self._replaced.append((tensors, name, tensor))
                        tensors[name] = self._stand(tensor, own[id(tensor)], files)

    def restore(self) -> None:
        """Put the tensors on meta back, except where another tensor has replaced the stand-in."""
        while self._replaced:
            tensors, name, tensor = self._replaced[-1]
            if tensors.get(name) is self._stands.get(id(tensor)):
                tensors[name] = tensor
            self._replaced.pop()
        self._stands.clear()
        self.unknown.clear()

    def _stand(self, tensor: torch.Tensor, own: tuple[str, ...], files: WeightFiles) -> Any:
        """Return the stand-in of a tensor, the same in every place of the tensor."""
        if id(tensor) not in self._stands:
            if isinstance(tensor, torch.nn.Parameter):
                stand: torch.Tensor = self._parameter(tensor)
            else:
                key = files.key(own)
                assert key is not None, own
                stand = files.mapped(key).clone()
            self._stands[id(tensor)] = stand
        return self._stands[id(tensor)]

    def _parameter(self, tensor: torch.nn.Parameter) -> torch.nn.Parameter:
        with torch.inference_mode(False):
            stand = torch.nn.Parameter(
                _guards.absent_tensor(tensor.dtype, self._device), requires_grad=tensor.requires_grad
            )
        vars(stand).update(vars(tensor))
        self.unknown[id(stand)] = tensor
        return stand
