"""A pipeline for video whose every duration is known, on a simulated asynchronous device.

A text encoder, a transformer and a decoder take the times below, on the simulated device of `testing`. Nothing is
computed and no real time passes, so a run of 170 ms is over at once and every number about it is exact. The right
reading of every timer is known, so a wrong one shows.

    toy = Toy()
    with Profiler(toy.pipeline, clock=toy.clock, device=toy.device, memory=toy.memory, counters=toy) as prof:
        toy.pipeline.run(steps=4)
    prof.profile.timeline()             # or in short: toy.profile(steps=4).timeline()

On the device encoding takes 20 ms, a guidance pass 10 ms, the very first one 40 ms more, decoding 30 ms. On the host
each of them takes 1 or 2 ms, to hand the work over; then decoding waits for the frames. At first the decoder's weights
are not on the device: copying them takes 40 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Any

from reslab.profiler._profile import Profile
from reslab.profiler._record._profiler import Profiler
from reslab.profiler._units import GIB
from reslab.profiler.testing import FakeClock, FakeMemory, SimulatedDevice
from reslab.stages import Kind, Pipeline, Section, Stage, StockStage
from reslab.stages.support import Described

__all__ = ["MEMORY_BYTES", "Offload", "Toy"]

MS = 1_000_000
COPY_NS = 40 * MS
PASSES = ("pred_cond", "pred_uncond")
WEIGHT_BYTES = {"text_encoder": 6 * GIB, "transformer": 10 * GIB, "vae": 2 * GIB}
MEMORY_BYTES = 24 * GIB

_ENCODE_NS, _DECODE_NS = 20 * MS, 30 * MS


class Offload(Described):
    """Who copies the decoder's weights to the device, and when.

    >>> Offload("hook").doc
    'A hook copies before the stage: the host waits, and observers get no event, as from other libraries.'
    """

    CONDUCTOR = "conductor", "A conductor copies inside the stage, beside the device's work; observers get its events."
    HOOK = (
        "hook",
        "A hook copies before the stage: the host waits, and observers get no event, as from other libraries.",
    )


class Toy:
    """The pipeline `pipeline`, its `clock`, `device` and `memory`.

    >>> Toy().profile(steps=4).stages().select("stage", "host_ms", "device_ms").rows()
    [('encode', 2.0, 20.0), ('denoise', 12.0, 120.0), ('decode', 156.0, 30.0), ('unattributed', 0.0, None)]

    Args:
        offload: Who copies the decoder's weights to the device, an `Offload`: "conductor" or "hook".
        synchronize: Wait for the device after every stage, as careful timers do.
        warm_up_ms: How much longer the very first guidance pass takes.
        pass_ms: How long a guidance pass takes.
        noise: Largest relative deviation of each time on the device.
        seed: The seed of the deviations.

    Raises:
        ValueError: There is no such `offload`.
    """

    def __init__(
        self,
        *,
        offload: str = Offload.CONDUCTOR,
        synchronize: bool = False,
        warm_up_ms: float = 40,
        pass_ms: float = 10,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.clock = FakeClock()
        self.device = SimulatedDevice(self.clock, memory_bytes=MEMORY_BYTES)
        self.memory = FakeMemory()
        self.pass_ns, self.noise, self.synchronize = round(pass_ms * MS), noise, synchronize
        self._cold_ns = round(warm_up_ms * MS)
        self._random = Random(seed)
        self._resident: dict[str, int] = {}
        self.load("text_encoder", "transformer")
        parts = {"text_encoder": Part(self._encode), "transformer": Part(self._pass), "vae": Part(self._decode)}
        self.pipeline = Pipeline(parts, name="toy")
        for name, stage in {"encode": Encode(), "denoise": Denoise(self), "decode": Decode(self)}.items():
            self.pipeline.add(stage, name=name)
        if Offload.of(offload, "offload") is Offload.CONDUCTOR:
            self.pipeline.conduct(Manager(self))
        else:
            self.pipeline.observe(Hook(self))

    def profile(self, *, runs: int = 1, steps: int = 4) -> Profile:
        """Record some runs.

        Args:
            runs: How many, one after the other.
            steps: Denoising steps of each.
        """
        with Profiler(self.pipeline, clock=self.clock, device=self.device, memory=self.memory, counters=self) as prof:
            for _ in range(runs):
                self.pipeline.run(steps=steps)
        return prof.profile

    def counters(self) -> Mapping[str, int]:
        """Return the device bytes of each component's weights, as "device/component"."""
        return {f"device/{name}": nbytes for name, nbytes in self._resident.items()}

    def load(self, *components: str) -> None:
        """Put the weights of these components on the device."""
        for name in components:
            self.memory.allocate(WEIGHT_BYTES[name] - self._resident.get(name, 0))
            self._resident[name] = WEIGHT_BYTES[name]

    def drop(self, component: str) -> None:
        """Release a component's weights on the device."""
        self.memory.allocate(-self._resident[component])
        self._resident[component] = 0

    def _encode(self) -> None:
        self._hand_over(_ENCODE_NS, host_ns=2 * MS, activation_bytes=GIB)

    def _pass(self) -> None:
        cold_ns, self._cold_ns = self._cold_ns, 0
        self._hand_over(self.pass_ns + cold_ns, host_ns=MS, activation_bytes=3 * GIB)

    def _decode(self) -> None:
        self._hand_over(_DECODE_NS, host_ns=2 * MS, activation_bytes=4 * GIB)

    def _hand_over(self, device_ns: int, *, host_ns: int, activation_bytes: int) -> None:
        """Launch work on the device, which needs memory while it runs."""
        self.device.launch(round(device_ns * self._random.uniform(1 - self.noise, 1 + self.noise)))
        self.clock.advance(host_ns)
        self.memory.allocate(activation_bytes)
        self.memory.allocate(-activation_bytes)


class Part:
    """A component as `reslab.stages` recognises one: an object with parameters and a forward."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def named_parameters(self) -> Iterator[Any]:
        return iter(())

    def forward(self) -> None:
        self._work()

    def decode(self) -> None:
        self._work()

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


class Encode(Stage):
    """Encodes the prompt."""

    def run(self, text_encoder: Part) -> None:
        text_encoder.forward()


class Denoise(Stage):
    """Makes the steps, two guidance passes each."""

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def watched(self) -> tuple[Any, ...]:
        return (self,)

    def run(self, transformer: Part, steps: int) -> None:
        for step in range(steps):
            self.loop_step(transformer, i=step)

    def loop_step(self, transformer: Part, *, i: int) -> None:
        for name in PASSES:
            with transformer.cache_context(name):
                transformer.forward()
        self._toy.clock.advance(MS)


class Decode(Stage):
    """Makes the frames, and waits for them."""

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def run(self, vae: Part) -> None:
        vae.decode()
        self._toy.device.synchronize()  # the frames are wanted on the host


class Manager:
    """Moves weights inside the stage that needs them, beside the work of the device, and tells observers."""

    execution_device = None
    may_retry = False

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def stage(self, stage: Stage, call: Callable[[], None]) -> None:
        toy, tell, device = self._toy, self._toy.pipeline.tell, self._toy.device
        if stage.registered_name == "decode":
            with device.lane("copy"):
                tell.begin(Kind.TRANSFER, "vae", nbytes=WEIGHT_BYTES["vae"])
                device.launch(COPY_NS)
                arrived = device.record()
                tell.end()
            toy.load("vae")
            tell.begin(Kind.WAIT, "vae")
            device.wait(arrived)
            tell.end()
        call()
        if stage.registered_name == "encode":
            toy.drop("text_encoder")
        if toy.synchronize:
            device.synchronize()

    def sections(self, stock: StockStage, call: Callable[[], None]) -> None:
        call()

    def section(self, stage: Section) -> AbstractContextManager[None]:
        return nullcontext()

    def component_call(self, component: str, method: str, call: Callable[[], Any]) -> Any:
        return call()


class Hook:
    """Moves weights when the stage that needs them begins, and keeps the host waiting."""

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        if (kind, name) == (Kind.STAGE, "decode"):
            self._toy.clock.advance(COPY_NS)
            self._toy.load("vae")

    def end(self, error: BaseException | None = None) -> None:
        """Do nothing."""
