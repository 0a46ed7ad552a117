"""Streaming blocks through slots, on a link as fast, half as fast and twice as fast as the compute; and all resident.

A random transformer of 403 MB (eight blocks, float32) runs on one thread. The link is set so that copying every block
takes 0.5, 1 and 2 times what computing takes. With prefetch, a run should take no more than the larger of both, plus
what nothing can hide: the copy of one block. Held to that: ≤ 1.05 × max(compute, copy) + one block. Beside it the same
without prefetch, and all resident, which should not differ from the untouched pipeline by more than that differs from
itself (A/A). Each way is told by its fastest round of several interleaved ones.

    python benchmarks/layerwise.py
"""

import platform
import time

import torch

from reslab.residency import Plan, apply, layerwise
from reslab.stages import Pipeline, stage

WIDTH, BLOCKS, TOKENS, CALLS, ROUNDS = 1024, 8, 256, 2, 3
RATIOS = (0.5, 1.0, 2.0)


class Block(torch.nn.Module):
    """Attention and a feed-forward layer, as a transformer has them."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.attention = torch.nn.MultiheadAttention(WIDTH, 16, batch_first=True)
        self.widen, self.narrow = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        """Return x changed a little."""
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.narrow(torch.nn.functional.gelu(self.widen(x)))


class Transformer(torch.nn.Module):
    """Blocks one after the other."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x):
        """Return x after all blocks."""
        for block in self.blocks:
            x = block(x)
        return x


@stage(writes="y")
def denoise(transformer, x):
    """Call the transformer as a denoising loop does."""
    for _ in range(CALLS):
        x = transformer(x)
    return x


def seconds(pipeline, x):
    """Return how long one run takes."""
    start = time.perf_counter()
    with torch.no_grad():
        pipeline.run(x=x)
    return time.perf_counter() - start


def managed_seconds(pipeline, x, plan, known, link=None):
    """Return how long a run takes under a plan, once the weights are where they wait."""
    with apply(pipeline, plan, device="cpu", known=known, link=link):
        seconds(pipeline, x)
        return seconds(pipeline, x)


def ways(pipeline, x, known, compute_s, streamed_bytes):
    """Return what is measured by name: a function, and the link it has to hide behind (None: held to nothing)."""
    found = {
        "untouched": (lambda: seconds(pipeline, x), None),
        "untouched again (A/A)": (lambda: seconds(pipeline, x), None),
        "all resident": (lambda: managed_seconds(pipeline, x, Plan.of(), known), None),
    }
    for ratio in RATIOS:
        rate = int(streamed_bytes / (ratio * compute_s))
        for prefetch in (1, 0):
            plan = Plan.of({"transformer": layerwise(prefetch=prefetch)})
            found[f"copy {ratio} × compute, prefetch {prefetch}"] = (
                lambda plan=plan, rate=rate: managed_seconds(pipeline, x, plan, known, rate),
                rate if prefetch else None,
            )
    return found


def main():
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipeline = Pipeline({"transformer": Transformer()}, result="y").add(denoise())
    x = torch.randn(1, TOKENS, WIDTH)
    plan = Plan.of({"transformer": "layerwise"})
    with apply(pipeline, plan, device="cpu") as managed:
        seconds(pipeline, x)
        known = managed.workload
    streamed_bytes = CALLS * sum(known.components["transformer"].block_bytes)
    compute_s = min(seconds(pipeline, x) for _ in range(ROUNDS))
    measured = ways(pipeline, x, known, compute_s, streamed_bytes)
    best = dict.fromkeys(measured, float("inf"))
    for _ in range(ROUNDS):
        for name, (way, _rate) in measured.items():
            best[name] = min(best[name], way())
    print(f"Python {platform.python_version()}, torch {torch.__version__}, one compute thread, {ROUNDS} rounds")
    print(f"weights {known.weight_bytes / 1e6:.0f} MB, streamed {streamed_bytes / 1e6:.0f} MB a run")
    print("| way | s | ÷ untouched | held to |\n|---|---:|---:|---:|")
    for name, (_way, rate) in measured.items():
        bound = rate and 1.05 * max(best["untouched"], streamed_bytes / rate) + streamed_bytes / BLOCKS / CALLS / rate
        held = f"{bound:.3f} {'✓' if best[name] <= bound else '✗'}" if bound else ""
        print(f"| {name} | {best[name]:.3f} | {best[name] / best['untouched']:.3f} | {held} |")


if __name__ == "__main__":
    main()
