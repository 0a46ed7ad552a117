"""A stock diffusers pipeline: one call, whose sections are stages.

`StockStage` makes the call. Its sections are found from the component calls as they happen (`_section_finder`). Before
the first run, the components suggest the sections. A run that is observed or conducted corrects them: it adds the
sections that it finds, and puts all in the order in which they ran.

    Pipeline.from_diffusers(flux).stages        # Stages(encode, denoise, decode)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from reslab.stages._names import free_name
from reslab.stages._roles import Role, is_module, role_of
from reslab.stages._stage import REQUIRED, Binding, Signature, Stage


class Section(Stage):
    """One stage of a stock pipeline: a section of its call, known by the components that it calls.

    Attributes:
        role: A `Role`, or the name of a component of another role.
        number: The number of the section among those of its role in a run, from 1.
        used: The names of the components that the section calls, as suggested or found by a run.
    """

    def __init__(self, stock: StockStage, role: str, number: int, name: str) -> None:
        self.stock, self.role, self.number = stock, str(role), number
        self.used: tuple[str, ...] = ()
        self._registered_name = name

    @property
    def stage_class(self) -> str:
        """The role."""
        return self.role

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a section runs inside the call of its pipeline."""
        raise TypeError(f"{self.registered_name!r} runs inside the call of {self.stock.stage_class}: pipeline.run(…)")

    def signature(self, available: Collection[str] = ()) -> Signature:
        """Return the signature: the first section reads the inputs of the call, the last one writes `output`."""
        first, last = self is self.stock.sections()[0], self is self.stock.sections()[-1]
        reads = self.stock.signature().reads if first else {}
        return Signature(components=self.used, reads=reads, writes=StockStage.writes if last else ())


class StockStage(Stage):
    """Runs a whole `DiffusionPipeline`; it reads the arguments of the pipeline's `__call__` and writes `output`.

    Its sections are the stages of the pipeline that it is added to. If it is added under a name, the names of its
    sections begin with it: "base.denoise".
    """

    writes = ("output",)

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._prefix = ""
        self._touched: Callable[[str], None] | None = None
        self._sections: list[Section] = []
        last = None
        for role, used in suggested(stock_components(pipe)):
            last = self.section(role, self.count(role) + 1, after=last)
            last.used = used

    @property
    def stage_class(self) -> str:
        return type(self.pipe).__name__

    def sections(self) -> tuple[Section, ...]:
        """Return the sections of its call that are known so far."""
        return tuple(self._sections)

    def count(self, role: str) -> int:
        """Count the sections of a role."""
        return sum(section.role == role for section in self._sections)

    def section(self, role: str, number: int, *, after: Section | None = None) -> Section:
        """Return the section of a role and number, made if there is none, and move it behind `after` if needed."""
        found = next((each for each in self._sections if (each.role, each.number) == (role, number)), None)
        if found is None:
            found = Section(self, role, number, self._name(role, number))
            self._sections.insert(self._behind(after), found)
            if self._registry is not None:
                self._registry.found(found)
        elif after is not None and self._sections.index(found) < self._sections.index(after):
            self._sections.remove(found)
            self._sections.insert(self._behind(after), found)
            self._renamed()
        return found

    def touch(self, component: str) -> None:
        """Begin the section that a component suggests, if a part of the component is used while no section is open."""
        if self._touched is not None:
            self._touched(component)

    def begin_names_with(self, name: str) -> None:
        """Put a name in front of the names of the sections."""
        self._prefix = f"{name}."
        for section in self._sections:
            section._registered_name = self._name(section.role, section.number)

    def _name(self, role: str, number: int) -> str:
        name = self._prefix + role + (f"_{number}" if number > 1 else "")
        taken = {other.registered for other in self._others()} | {each.registered_name for each in self._sections}
        return free_name(name, taken) if self._registry is not None and name in taken else name

    def _behind(self, after: Section | None) -> int:
        return 0 if after is None else self._sections.index(after) + 1

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline."""
        return self.pipe(*args, **kwargs)

    def signature(self, available: Collection[str] = ()) -> Signature:
        parameters = inspect.signature(self.pipe.__call__).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        defaults = {p.name: REQUIRED if p.default is p.empty else p.default for p in named}
        return Signature(components=tuple(stock_components(self.pipe)), reads=defaults, writes=self.writes)

    def prepare(self, bind: Binding) -> Callable[[Any], None]:
        read = [(name, bind.value(name)) for name in self.signature().reads]

        def call(values: Any) -> None:
            kwargs = {name: values[source] for name, source in read if source in values} | dict(bind.given)
            values[bind.value("output")] = self.pipe(**kwargs)

        return call


def stock_components(pipe: Any) -> dict[str, Any]:
    """Return the components of a stock pipeline that are not None, by name."""
    return {name: component for name, component in pipe.components.items() if component is not None}


def suggested(components: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the sections that a pipeline of these components probably has, each with the components that it calls.

    Models that are numbered, such as "transformer" and "transformer_2", are experts that denoise in turn.
    """
    modules = {name: component for name, component in components.items() if is_module(component)}
    roles = {name: role_of(name, component, "forward") for name, component in modules.items()}
    of_role = {role: [name for name in roles if roles[name] == role] for role in Role}
    others = [name for name, role in roles.items() if role not in (Role.ENCODE, Role.DENOISE)]
    decoding = [name for name in others if callable(getattr(modules[name], "decode", None))]
    sections: list[tuple[str, Sequence[str]]] = [(Role.ENCODE, of_role[Role.ENCODE])]
    sections += [(Role.DENOISE, experts) for experts in _in_turn(of_role[Role.DENOISE])]
    sections += [(Role.UPSCALE, of_role[Role.UPSCALE]), (Role.DECODE, [*decoding, *of_role[Role.DECODE]])]
    return [(str(role), tuple(dict.fromkeys(used))) for role, used in sections if used] or [("run", tuple(modules))]


def _in_turn(denoisers: Sequence[str]) -> list[list[str]]:
    """Return denoisers by section: each numbered one after its namesake in its own, all others together.

    >>> _in_turn(["controlnet", "transformer", "transformer_2"])
    [['controlnet', 'transformer'], ['transformer_2']]
    """
    later = [name for name in denoisers if name.rpartition("_")[0] in denoisers and name.rpartition("_")[2].isdigit()]
    together = [name for name in denoisers if name not in later]
    return [each for each in (together, *([name] for name in later)) if each]
