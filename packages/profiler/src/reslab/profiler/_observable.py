"""What the profiler needs of a pipeline: a name, stages, the request, which texts are settings, and to be told.

`reslab.stages.Pipeline` has it.

Anything else that has it can be profiled just as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from reslab.stages import Observer


class StageRecord(Protocol):
    """What the profiler reads of a pipeline's stage, once names are settled."""

    @property
    def registered_name(self) -> str: ...
    @property
    def profile_name(self) -> str: ...
    @property
    def stage_class(self) -> str: ...


class Observable(Protocol):
    """A pipeline that can be listened to."""

    @property
    def name(self) -> str: ...
    @property
    def stages(self) -> Sequence[StageRecord]: ...
    @property
    def request(self) -> Mapping[str, Any]: ...
    @property
    def text_settings(self) -> Collection[str]: ...
    def observe(self, observer: Observer) -> AbstractContextManager[Any]: ...
