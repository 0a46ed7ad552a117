"""The profiler: it observes a pipeline and `with` blocks of the user, and returns a `Profile`.

    with Profiler(pipeline) as prof:
        pipeline.run(prompt="a heron over a weir", seed=7)
        pipeline.run(prompt="a heron over a weir", seed=8)      # one profile holds both
    prof.profile.stages()

It never alters the run, and it costs about a microsecond a span. The record is kept whatever ends the run, an error or
an interrupt: the stage that failed is a row with its error. It needs an `Observable`: a name, stages, the request, the
names of text settings, and `observe`. `reslab.stages.Pipeline` is one, and any other object with these can be profiled.

Read on in `_record` (recording), `_decode` (from logs to frames) and `_model/_schema` (the columns).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, Self

from reslab.profiler._model._meta import profile_meta, request_facts
from reslab.profiler._profile import Profile
from reslab.profiler._record._decode import decode
from reslab.profiler._record._device_time import TimeBase, resolve
from reslab.profiler._record._instruments import Clock, Counters, DeviceTimer, MemoryReader
from reslab.profiler._record._memory import process_memory
from reslab.profiler._record._overhead import measure_costs
from reslab.profiler._record._record import NameTable, Recorder, SpanBlock, StageNames
from reslab.profiler._record._torch import accelerator
from reslab.stages import Observer


class StageRecord(Protocol):
    """The names of a pipeline's stage, read when a run begins."""

    @property
    def registered_name(self) -> str: ...
    @property
    def profile_name(self) -> str: ...
    @property
    def stage_class(self) -> str: ...


class Observable(Protocol):
    """A pipeline that can be observed and profiled."""

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
    """Records the spans of a pipeline's runs and of the user's `span` blocks.

    >>> from reslab.profiler.testing import FakeClock
    >>> clock = FakeClock()
    >>> with Profiler(clock=clock, memory=None) as prof, prof.span("load"):
    ...     clock.advance(1_500)
    >>> prof.profile.spans.select("name", "start_ns", "host_ns").rows()
    [('load', 0, 1500)]

    Args:
        pipeline: The pipeline to observe between `start` and `stop`. For a pipeline that runs inside one of its stages,
            add `with inner.observe(prof)`.
        clock: Returns integer nanoseconds.
        memory: One or several readers, read at the borders of runs and stages. The readings of the first are columns of
            the spans, the readings of all are samples. By default torch's accelerator, if there is one, and the
            resident bytes of this process; None reads no memory.
        counters: The counters of a manager of memory, read where memory is read.
        device: The timer of an asynchronous device. By default torch's accelerator, if torch is loaded and has one.
            With None, or with a clock other than the default, which no real device follows, no device is timed.
    """

    # An observer's callbacks, which no user calls. They are attributes of each profiler and not of its class, because
    # IPython completes the attributes of the class whatever `__dir__` returns.
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
        self._base: TimeBase | None = None
        self._listening: AbstractContextManager[Any] | None = None
        self._blocks: dict[str, SpanBlock] = {}
        self._profile: Profile | None = None

    @property
    def recording(self) -> bool:
        """Whether the profiler is between `start` and `stop`."""
        return self._listening is not None

    def start(self) -> Self:
        """Begin to record, or continue to record into the same profile.

        Raises:
            ValueError: The profiler is recording already.
        """
        if self.recording:
            raise ValueError("this profiler is recording already; call stop() before start()")
        self._profile = None
        if self._origin_ns is None and self._real:
            costs = measure_costs(memory=self._memory, counters=self._counters, device=self._device)
            self._facts["overhead"] = {cost: round(ns) for cost, ns in costs.items()}
        if self._device is not None:
            self._base = TimeBase.of(self._device, self._clock)
        if self._origin_ns is None:
            self._origin_ns = self._clock()
        self._listening = self._pipeline.observe(self._recorder) if self._pipeline is not None else _OFF
        return self

    def stop(self) -> Profile:
        """Stop recording and return the profile; open spans end now, with the error "unfinished"."""
        if self._listening is not None:
            self._listening.__exit__(None, None, None)
            self._listening = None
            self._until_ns = self._clock()
            self._recorder.close()
        return self.profile

    def span(self, name: str) -> AbstractContextManager[None]:
        """Return a `with` block that is recorded as a span called `name`; it does nothing while recording is off.

        Args:
            name: The name of the span. It may be used again: each block is a row of its own.
        """
        if self._listening is None:
            return _OFF
        return self._blocks.get(name) or self._blocks.setdefault(name, SpanBlock(self._recorder, name))

    def note(self, **facts: Any) -> None:
        """Add to the profile's meta, for example the plan that was applied.

        Args:
            facts: Values that JSON can hold, by name.
        """
        self._profile = None
        self._facts |= facts

    @property
    def profile(self) -> Profile:
        """The profile of everything recorded so far; while recording, a snapshot of this moment."""
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
        return Profile(
            spans=spans, memory=memory, meta=profile_meta(spans, self._recorder.requests, facts | self._facts)
        )

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
    """A recorder that keeps the requests of a pipeline's runs, and the profile names of its stages."""

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
