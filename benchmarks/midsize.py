"""A mid-size random transformer under plans: what `layerwise` and `placements` time, and how they time it."""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from reslab.residency import Plan, Workload, apply
from reslab.stages import Pipeline, stage

WIDTH, BLOCKS, TOKENS, CALLS = 768, 12, 192, 4
REPEATS = 2  # runs of one way in one round


class Transformer(torch.nn.Module):
    """Torch's own encoder layers, one after the other: 340 MB in float32."""

    def __init__(self):
        super().__init__()
        layers = (
            torch.nn.TransformerEncoderLayer(
                WIDTH, nhead=12, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(BLOCKS)
        )
        self.blocks = torch.nn.ModuleList(layers)

    def forward(self, x):
        """Return x, (batch, tokens, WIDTH), after all blocks."""
        for block in self.blocks:
            x = block(x)
        return x


@stage(writes="y")
def denoise(transformer, x):
    """Call the transformer as a denoising loop does."""
    for _ in range(CALLS):
        x = transformer(x)
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A pipeline of one stage, its input, what it calls, and how long it computes when nothing moves."""

    pipeline: Pipeline
    x: torch.Tensor
    known: Workload
    compute_s: float

    @property
    def streamed_bytes(self) -> int:
        """The bytes of all blocks, once a call."""
        return CALLS * sum(self.known.components["transformer"].block_bytes)

    def rate(self, ratio: float) -> int:
        """Return the bytes a second at which copying every block takes `ratio` times what computing takes."""
        return int(self.streamed_bytes / (ratio * self.compute_s))

    def seconds(self) -> float:
        """Return how long a run of the pipeline takes, managed or not."""
        start = time.perf_counter()
        with torch.no_grad():
            self.pipeline.run(x=self.x)
        return time.perf_counter() - start

    def best(self) -> float:
        """Return the fastest of a few runs in a row."""
        return min(self.seconds() for _ in range(REPEATS))

    def managed(self, plan: Plan, rate: int | None = None) -> tuple[float, int, int]:
        """Return what a run under a plan takes once the weights are where they wait: seconds, bytes, peak bytes."""
        with apply(self.pipeline, plan, device="cpu", known=self.known, link=rate) as residency:
            self.seconds()
            took = self.best()
            return took, sum(residency.fetched_bytes.values()), residency.peak_bytes


def bench(rounds: int) -> Bench:
    """Return the pipeline, timed a few times."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipeline = Pipeline({"transformer": Transformer()}, result="y").add(denoise())
    x = torch.randn(1, TOKENS, WIDTH)
    with torch.no_grad(), apply(pipeline, Plan.of({"transformer": "layerwise"}), device="cpu") as residency:
        pipeline.run(x=x)
        known = residency.workload
    untimed = Bench(pipeline=pipeline, x=x, known=known, compute_s=0.0)
    compute_s = min(untimed.best() for _ in range(rounds))
    print(f"Python {platform.python_version()}, torch {torch.__version__}, one compute thread")
    print(f"{rounds} rounds of {REPEATS} runs, the fastest counts")
    print(f"weights {known.weight_bytes / 1e6:.0f} MB in {BLOCKS} blocks, computing takes {compute_s:.2f} s a run")
    return Bench(pipeline=pipeline, x=x, known=known, compute_s=compute_s)


def fastest(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return each way's fastest of interleaved rounds."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best[name], way())
    return best
