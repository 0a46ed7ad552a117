"""What the toy pipeline is made of: components, stages, and two ways of moving weights.

Everything here advances the toy's clock or hands work to its device, and nothing else happens.

    Pipeline({"vae": Part(work)}).add(Decode(toy), name="decode").conduct(Manager(toy))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from reslab.stages import Kind, Section, Stage, StockStage

if TYPE_CHECKING:
    from reslab.profiler.toy import Toy

GIB = 2**30
MS = 1_000_000
COPY_NS = 40 * MS
PASSES = ("pred_cond", "pred_uncond")
WEIGHT_BYTES = {"text_encoder": 6 * GIB, "transformer": 10 * GIB, "vae": 2 * GIB}


class Part:
    """What the stages library takes for a component: something with parameters and a forward."""

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
    """Moves weights inside the stage that needs them, beside the work of the device, and tells of it."""

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
    """Moves weights when it hears of the stage that needs them, and keeps the host waiting."""

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        if (kind, name) == (Kind.STAGE, "decode"):
            self._toy.clock.advance(COPY_NS)
            self._toy.load("vae")

    def end(self, error: BaseException | None = None) -> None:
        """Do nothing."""
