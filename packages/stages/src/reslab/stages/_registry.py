"""The stages of one pipeline: their order, what they are called, and which of them is running.

    registry = Registry(profile_names="registered")
    registry.insert(Halve(), name="halve")
    registry.stages["halve"].profile_name

A pipeline has one registry, and each of its stages holds it: renaming a stage needs the others' names, and profile
names depend on all of them. The registry refers to no component and no value, so a stage that outlives its pipeline
keeps no weights alive. Profile names are settled when a run begins and stay until it ends, except the names of sections
that the run finds.
"""

from __future__ import annotations

from reslab.stages import _names
from reslab.stages._names import Names, PipelineError
from reslab.stages._stage import Stage, join, names_of
from reslab.stages._stages import Stages


class Registry:
    """Keeps the stages of one pipeline, their profile names, and the stage that is running.

    Args:
        profile_names: The naming rule, a `ProfileNames`.

    Raises:
        PipelineError: There is no such rule.
    """

    __slots__ = ("_held", "_inserted", "_rule", "_settled", "current", "version")

    def __init__(self, profile_names: str) -> None:
        self._rule = _names.naming_rule(profile_names)
        self._inserted: list[Stage] = []
        self._settled: dict[int, str] | None = None
        self._held: dict[int, str] | None = None
        #: Counts changes of stages and names; a program made from an older version is made again.
        self.version = 0
        #: The stage that is running, or None.
        self.current: Stage | None = None

    @property
    def rule(self) -> str:
        """The rule by which stages get their profile names; setting it settles them anew."""
        return self._rule

    @rule.setter
    def rule(self, name: str) -> None:
        self._rule = _names.naming_rule(name)
        self.changed()

    @property
    def inserted(self) -> tuple[Stage, ...]:
        """The stages as they were inserted, in order; a stock pipeline is one."""
        return tuple(self._inserted)

    @property
    def stages(self) -> Stages:
        """The stages that a pipeline shows, in order; those of a stock pipeline are the sections of its call."""
        return Stages([shown for stage in self._inserted for shown in stage.sections()])

    def names(self) -> list[Names]:
        """Return the names of all stages, in order."""
        return [names_of(stage) for stage in self.stages]

    def others(self, stage: Stage) -> list[Names]:
        """Return the names of all stages but one."""
        return [names_of(other) for other in self.stages if other is not stage]

    def insert(self, stage: Stage, *, name: str | None, before: str | None = None) -> None:
        """Insert a stage at the end, or before another stage.

        Args:
            stage: The stage.
            name: Its registered name; None leaves the name that it has.
            before: The registered name of the stage behind it; None inserts it at the end.

        Raises:
            PipelineError: No stage is registered as `before`.
        """
        place = len(self._inserted) if before is None else self._place(before)
        join(stage, self, name=name)
        for section in stage.sections():
            join(section, self)
        self._inserted.insert(place, stage)
        self.changed()

    def found(self, section: Stage) -> None:
        """Add a section that a run has found, and settle its name."""
        join(section, self)
        self.changed()
        if self._held is not None:
            self._held[id(section)] = self.settled()[id(section)]

    def changed(self) -> None:
        """Note that stages or their names have changed."""
        self.version += 1
        self._settled = None

    def settled(self) -> dict[int, str]:
        """Return the profile names of all stages, by id; a stock pipeline's whole call has its registered name."""
        if self._settled is None:
            filed = _names.profile_names(self.names(), self._rule)
            whole = {id(stage): stage.registered_name for stage in self._inserted}
            self._settled = whole | {id(stage): name for stage, name in zip(self.stages, filed, strict=True)}
        return self._settled

    def hold(self) -> None:
        """Fix the profile names for a run that begins."""
        self._held = self.settled()  # `changed` replaces the mapping, so this one stays as it is

    def release(self) -> None:
        """Let profile names follow changes again after a run, and note that no stage is running."""
        self._held = self.current = None

    def profile_name(self, stage: Stage) -> str:
        """Return a stage's profile name: during a run, the name that was settled when it began."""
        return (self._held or self.settled())[id(stage)]

    def _place(self, name: str) -> int:
        for place, stage in enumerate(self._inserted):
            if any(shown.registered_name == name for shown in stage.sections()):
                return place
        names = [stage.registered_name for stage in self.stages]
        raise PipelineError(f"no stage is registered as {name!r}; {_names.nearest(name, names)}")
