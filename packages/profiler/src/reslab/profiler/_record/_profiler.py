"""What the profiler needs of a pipeline: a name, stages, the request, which texts are settings, and to be told.

`reslab.stages.Pipeline` has it.

Anything else that has it can be profiled just as well.

The profiler: it listens to a pipeline, and to `with` blocks of your own, and hands back a `Profile`.

    with Profiler(pipeline) as prof:
        pipeline.run(prompt="a heron over a weir", seed=7)
        pipeline.run(prompt="a heron over a weir", seed=8)      # one profile holds both
    prof.profile.stages()

It never alters the run, and it costs about a microsecond a span. The record is kept whatever ends the run, an error
or an interrupt: the stage that failed is a row with its error. How it records is told in `_record`, what the rows
hold in `_schema`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, Self

from reslab.profiler._profile._meta import describe, request_facts
from reslab.profiler._profile._profile import Profile
from reslab.profiler._record._clock import Clock, Counters, DeviceTimer, MemoryReader
from reslab.profiler._record._decode import decode
from reslab.profiler._record._device_time import Base, resolve
from reslab.profiler._record._memory import process_memory
from reslab.profiler._record._overhead import measure_costs
from reslab.profiler._record._record import NameTable, Recorder, SpanBlock, StageNames
from reslab.profiler._record._torch import accelerator
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


_OFF = nullcontext()


class Profiler:
    """Records the spans of a pipeline's runs and of your own `span` blocks.

    >>> from reslab.profiler.testing import FakeClock
    >>> clock = FakeClock()
    >>> with Profiler(clock=clock, memory=None) as prof, prof.span("load"):
    ...     clock.advance(1_500)
    >>> prof.profile.spans.select("name", "start_ns", "host_ns").rows()
    [('load', 0, 1500)]

    Args:
        pipeline: The pipeline to listen to between `start` and `stop`. A pipeline that runs inside one of its stages is
            heard too with `with inner.observe(prof)`.
        clock: Returns integer nanoseconds.
        memory: Read at the borders of runs and stages; the first one's readings are the columns of the spans, all are
            samples. By default the memory of torch's accelerator, if there is one, and the resident bytes of this
            process; None for nothing.
        counters: A manager's books, read where memory is.
        device: Times what is asynchronous. By default torch's accelerator, if torch is loaded and there is one; with a
            clock other than the default, which no real device runs by, and with None there is none.
    """

    # An observer's callbacks. They are attributes of each profiler and not of its class: IPython completes with what
    # either has, `__dir__` or not, and no user calls them.
    begin: Callable[..., None]
    end: Callable[..., None]

    def __init__(
        self,
        pipeline: Observable | None = None,
        *,
        clock: Clock = time.perf_counter_ns,
        memory: MemoryReader | Sequence[MemoryReader] | Literal["auto"] | None = "auto",
        counters: Counters | None = None,
        device: DeviceTimer | Literal["auto"] | None = "auto",
    ) -> None:
        self._real = clock is time.perf_counter_ns
        timer, readers = accelerator() if self._real and "auto" in (device, memory) else (None, ())
        self._clock, self._counters, self._device = clock, counters, timer if device == "auto" else device
        self._memory = [*readers, *_readers(process_memory())] if memory == "auto" else _readers(memory)
        self._pipeline = pipeline
        self._recorder = _Listener(pipeline, clock, self._memory, counters, self._device)
        self.begin, self.end = self._recorder.begin, self._recorder.end
        self._facts: dict[str, Any] = {}
        self._origin_ns: int | None = None
        self._until_ns = 0
        self._base: Base | None = None
        self._listening: AbstractContextManager[Any] | None = None
        self._blocks: dict[str, SpanBlock] = {}
        self._profile: Profile | None = None

    @property
    def recording(self) -> bool:
        """Whether it is between `start` and `stop`."""
        return self._listening is not None

    def start(self) -> Self:
        """Begin to record, or go on recording into the same profile.

        Raises:
            ValueError: If it is recording already.
        """
        if self.recording:
            raise ValueError("this profiler is recording already; call stop() before start()")
        self._profile = None
        if self._origin_ns is None and self._real:
            costs = measure_costs(memory=self._memory, counters=self._counters, device=self._device)
            self._facts["overhead"] = {cost: round(ns) for cost, ns in costs.items()}
        if self._device is not None:
            self._base = Base.of(self._device, self._clock)
        if self._origin_ns is None:
            self._origin_ns = self._clock()
        self._listening = self._pipeline.observe(self._recorder) if self._pipeline is not None else _OFF
        return self

    def stop(self) -> Profile:
        """Stop recording and return the profile; what is still open is closed now, with the error "unfinished"."""
        if self._listening is not None:
            self._listening.__exit__(None, None, None)
            self._listening = None
            self._until_ns = self._clock()
            self._recorder.close()
        return self.profile

    def span(self, name: str) -> AbstractContextManager[None]:
        """Return a `with` block that is recorded as a span called `name`; while nothing is recorded it does nothing.

        Args:
            name: What to file it under; as often as you like, each block is a row of its own.
        """
        if self._listening is None:
            return _OFF
        return self._blocks.get(name) or self._blocks.setdefault(name, SpanBlock(self._recorder, name))

    def note(self, **facts: Any) -> None:
        """Add to the profile's meta, for example the plan that was applied.

        Args:
            facts: Anything that JSON can hold, by name.
        """
        self._profile = None
        self._facts |= facts

    @property
    def profile(self) -> Profile:
        """What has been recorded so far; a picture of this moment while recording."""
        if self._profile is None or self.recording:
            self._profile = self._read()
        return self._profile

    def _read(self) -> Profile:
        until_ns = self._clock() if self.recording else self._until_ns
        logs = self._recorder.logs()
        if self._device is not None and self._base is not None:
            resolve(logs, self._device, self._base)
        spans, memory = decode(
            logs,
            origin_ns=self._origin_ns or 0,
            until_ns=until_ns,
            pools=[reader.pool for reader in self._memory],
        )
        device = self._device
        facts = {"device": {"kind": device.name, "memory_bytes": device.memory_bytes}} if device is not None else {}
        return Profile(spans=spans, memory=memory, meta=describe(spans, self._recorder.requests, facts | self._facts))

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in Profiler.__annotations__]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "recording" if self.recording else "stopped" if self._origin_ns is not None else "not started"
        of = f"{self._pipeline.name!r}, " if self._pipeline is not None else ""
        return f"Profiler({of}{state})"

    def _repr_html_(self) -> str:
        return self.profile._repr_html_()


class _Listener(Recorder):
    """A recorder that keeps the requests of a pipeline's runs, and what its stages are filed under."""

    def __init__(
        self,
        pipeline: Observable | None,
        clock: Clock,
        memory: Sequence[MemoryReader],
        counters: Counters | None,
        device: DeviceTimer | None,
    ) -> None:
        super().__init__(clock, memory, counters, device)
        self.requests: list[dict[str, Any]] = []
        self._pipeline = pipeline
        self._names: dict[str, StageNames] = {}

    def _run_begins(self, pipeline_name: str) -> NameTable:
        if self._pipeline is None or self._pipeline.name != pipeline_name:
            return {}
        self.requests.append(request_facts(self._pipeline.request, text_settings=self._pipeline.text_settings))
        self._names = _table(self._pipeline)
        return self._names

    def _stage_begins(self, name: str) -> None:
        if self._pipeline is not None and name not in self._names:
            self._names |= _table(self._pipeline)


def _table(pipeline: Observable) -> dict[str, StageNames]:
    return {s.registered_name: StageNames(s.profile_name, s.stage_class) for s in pipeline.stages}


def _readers(memory: MemoryReader | Sequence[MemoryReader] | None) -> list[MemoryReader]:
    if memory is None:
        return []
    return list(memory) if isinstance(memory, Sequence) else [memory]
