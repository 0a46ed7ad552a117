"""The stages of one pipeline: their order, what they are called, and which of them is running.

    registry = Registry(profile_names="registered")
    registry.insert(Halve(), name="halve")
    registry.stages["halve"].profile_name

A pipeline has one, and each of its stages holds it: renaming a stage needs the others' names, and what measurements
are filed under depends on all of them. It leads to no component and no value, so a stage that outlives its
pipeline keeps no weights alive. Profile names are settled when a run begins
and stay until it ends, except for sections that the run finds.
"""

from __future__ import annotations

from reslab.stages import _names
from reslab.stages._names import Names, PipelineError
from reslab.stages._stage import Stage, join, names_of
from reslab.stages._stages import Stages


class Registry:
    """Keeps the stages of one pipeline, settles their profile names, and says which one is running.

    Args:
        profile_names: The naming rule, see `ProfileNames`.

    Raises:
        PipelineError: There is no such rule.
    """

    __slots__ = ("_held", "_inserted", "_rule", "_settled", "current", "version")

    def __init__(self, profile_names: str) -> None:
        self._rule = _names.naming_rule(profile_names)
        self._inserted: list[Stage] = []
        self._settled: dict[int, str] | None = None
        self._held: dict[int, str] | None = None
        #: Counts changes of stages and names, so that what was made from them can be made anew.
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
        """The stages as they are shown, in order; a stock pipeline's are the sections of its call."""
        return Stages([shown for stage in self._inserted for shown in stage.sections()])

    def names(self) -> list[Names]:
        """Return the names of all stages, in order."""
        return [names_of(stage) for stage in self.stages]

    def others(self, stage: Stage) -> list[Names]:
        """Return the names of all stages but one."""
        return [names_of(other) for other in self.stages if other is not stage]

    def insert(self, stage: Stage, *, name: str | None, before: str | None = None) -> None:
        """Insert a stage, and give it a registered name if there is one; it comes last, or before another.

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
        """Take up a section that a run has found, and settle its name."""
        join(section, self)
        self.changed()
        if self._held is not None:
            self._held[id(section)] = self.settled()[id(section)]

    def changed(self) -> None:
        """Note that stages or their names have changed."""
        self.version += 1
        self._settled = None

    def settled(self) -> dict[int, str]:
        """Return the profile names of all stages, by id; a stock pipeline's whole call goes by its registered name."""
        if self._settled is None:
            filed = _names.profile_names(self.names(), self._rule)
            whole = {id(stage): stage.registered_name for stage in self._inserted}
            self._settled = whole | {id(stage): name for stage, name in zip(self.stages, filed, strict=True)}
        return self._settled

    def hold(self) -> None:
        """Keep the profile names as they are now, for a run that begins."""
        self._held = self.settled()  # a change makes a new one

    def release(self) -> None:
        """Let profile names follow changes again: the run is over, and no stage is running."""
        self._held = self.current = None

    def profile_name(self, stage: Stage) -> str:
        """Return what a stage's measurements are filed under: in a run, as settled when it began."""
        return (self._held or self.settled())[id(stage)]

    def _place(self, name: str) -> int:
        for place, stage in enumerate(self._inserted):
            if any(shown.registered_name == name for shown in stage.sections()):
                return place
        names = [stage.registered_name for stage in self.stages]
        raise PipelineError(f"no stage is registered as {name!r}; {_names.nearest(name, names)}")
