"""The components that a residency manages: the modules of the pipeline, in their present state.

Modules may change while the residency is in force: one takes another's place, a LoRA comes or goes. `update` notices
that at the beginning of every run: it restores components that are no longer managed, and checks and manages new ones.

    managed.update(plan)
    managed.of("refiner")           # the component, also under its second name
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reslab.residency._engine import _accelerator, _guards
from reslab.residency._engine._checks import TilingSwitch, check_choices, check_weights, weights
from reslab.residency._engine._component import Component, Watcher
from reslab.residency._engine._config import EngineConfig, Sources
from reslab.residency._engine._merged_copy import MergedCopy
from reslab.residency._engine._mover import Mover
from reslab.residency._engine._unit import SharedSource
from reslab.residency._engine._unmovable import UnmovedComponent, check_modules
from reslab.residency._errors import ResidencyError
from reslab.residency._plan._numerics import MERGED, Lora
from reslab.residency._plan._plan import Plan
from reslab.stages import Observer, Pipeline


class ManagedComponents:
    """Manages the modules of a pipeline.

    Args:
        pipeline: The pipeline.
        config: The device, and the names of blocks.
        mover: Restores units.
        sources: Takes the names of parameters.
        watcher: Called before a unit is used.
        components: The components by name; filled here.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        config: EngineConfig,
        mover: Mover,
        sources: Sources,
        watcher: Watcher,
        components: dict[str, Component],
    ) -> None:
        self._pipeline, self._config, self._mover, self._sources = pipeline, config, mover, sources
        self._watcher, self._components = watcher, components
        self._aliases: dict[str, str] = {}
        self._tiling = TilingSwitch()
        self._buffers = _accelerator.ModuleBuffers(config.device)

    def update(self, plan: Plan) -> None:
        """Manage the modules of the pipeline in their present state.

        Raises:
            ResidencyError: For a module that cannot be managed, one that the plan places twice, or weights that were
                written while they were away.
            PlanError: For numerics of the plan that cannot be carried out.
        """
        self._keep_writes()  # first, so that a lost write raises before anything changes
        modules = self._modules()
        check_weights(self._pipeline.components, plan)
        _check_aliases(self._aliases, plan)
        unmoved = check_modules(modules, plan, self._config.files)
        for name, module in modules.items():
            # a component that is managed already may have absent weights, which no file agrees with
            known = self._components.get(name)
            self._sources.disk.files(name).check(module, only_unknown=known is not None and known.module is module)
        check_choices(plan, modules)
        # all checks are made: from here on modules change
        for name in [name for name, own in self._components.items() if _is_another(own, modules, unmoved)]:
            self._release(self._components.pop(name))
        for name, module in modules.items():
            self._tiling.switch(module, plan)
            if name not in self._components:
                self._components[name] = self._component(name, module, plan, unmoved.get(name))
        shared: dict[object, SharedSource] = {}  # across components, since two of them may share memory
        for name, component in self._components.items():
            if component.refresh(self._mover.restore, shared):
                self._sources.names[name] = component.names
        for base in [component for component in self._components.values() if component.base is component]:
            self._update_merged(base)
        self._mover.units = [unit for component in self._components.values() for unit in component.units.values()]

    def of(self, name: str) -> Component | None:
        """Return the component under a name of the pipeline's; None for one that is not managed."""
        return self._components.get(self._aliases.get(name, name))

    def in_place_of(self, own: Component | None) -> MergedCopy | None:
        """Return the merged copy that a call runs on: where a LoRA is on, and the call is not inside a call of it."""
        if own is None or own.face is not own or not own.lora.is_on:
            return None
        merged = self._components[own.name + MERGED]
        assert isinstance(merged, MergedCopy)
        return merged

    def bring_buffers(self) -> None:
        """Move unmoved components, and the buffers of all others, to the device."""
        unmoved = [component for component in self._components.values() if isinstance(component, UnmovedComponent)]
        for component in unmoved:
            component.bring()
        for each in self._pipeline.components.values():  # modules of buffers alone are no components of the residency
            if isinstance(each, torch.nn.Module) and not any(component.module is each for component in unmoved):
                self._buffers.bring(each)

    def restore_all(self) -> None:
        """Restore every module to its state before the residency."""
        for component in self._components.values():
            self._release(component)
        self._buffers.restore()
        self._tiling.restore()
        self._components.clear()

    def _keep_writes(self) -> None:
        """Keep the writes into weights since the last run.

        Raises:
            ResidencyError: If a write was lost.
        """
        self._mover.keep_writes(self._mover.units)
        if (lost := self._mover.lost_writes_text()) is not None:
            raise ResidencyError(lost)

    def _modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules that have weights, each under its first name, and record their other names."""
        modules: dict[str, torch.nn.Module] = {}
        self._aliases.clear()
        for name, each in self._pipeline.components.items():
            if next(weights(each), None) is not None:
                first = next((other for other, module in modules.items() if module is each), name)
                self._aliases[name] = first
                modules.setdefault(first, each)
        return modules

    def _component(self, name: str, module: torch.nn.Module, plan: Plan, why: str | None) -> Component:
        if why is not None:
            return UnmovedComponent(name, module, device=self._config.device, watcher=self._watcher, why=why)
        if _guards.is_managed(module):
            raise ResidencyError(f"{name!r} is managed by another residency; leave that one's `with` block first")
        return Component(
            name,
            module,
            device=self._config.device,
            watcher=self._watcher,
            blocks=self._config.blocks.get(name),
            merges=plan.lora is Lora.MERGED,
            files=self._sources.disk.files(name) if name in self._config.files else None,
        )

    def _update_merged(self, base: Component) -> None:
        """Make or drop the merged copy of a component, as it carries a LoRA to be merged or not."""
        name = base.name + MERGED
        if not base.lora.layers:
            if name in self._components:
                self._release(self._components.pop(name))
            return
        if name not in self._components:
            restore = self._mover.restore
            self._components[name] = MergedCopy(base, device=self._config.device, restore=restore, tell=self._tell)
        self._components[name].refresh(self._mover.restore, {})

    def _tell(self) -> Observer:
        return self._pipeline.tell

    def _release(self, component: Component) -> None:
        self._mover.restore(component.units.values())
        component.close()


def _is_another(own: Component, modules: Mapping[str, torch.nn.Module], unmoved: Mapping[str, str]) -> bool:
    """Tell whether the pipeline has another module under the component's name, or the module became (un)movable."""
    is_unmoved = own.base.name in unmoved
    return modules.get(own.base.name) is not own.module or isinstance(own, UnmovedComponent) != is_unmoved


def _check_aliases(aliases: Mapping[str, str], plan: Plan) -> None:
    placed = {component for component, _stage in plan.placements}
    for name, first in aliases.items():
        if name != first and name in placed and plan.placement(name) != plan.placement(first):
            raise ResidencyError(
                f"{name!r} and {first!r} are one module, so they cannot be placed apart; place {first!r} alone"
            )
