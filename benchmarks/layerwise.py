"""Streaming blocks through slots, on a link as fast, half as fast and twice as fast as the compute; and all resident.

A random transformer of 340 MB (twelve blocks, float32) runs on one thread. The link is set so that copying every block
takes 0.5, 1 and 2 times what computing takes. With prefetch, a run should take no more than the larger of both, plus
what nothing can hide: the copy of one block. Held to that: ≤ 1.05 × max(compute, copy) + one block. Beside it the same
without prefetch, and all resident, which should not differ from the untouched pipeline by more than that differs from
itself (A/A). Each way is told by its fastest round of several interleaved ones.

    python benchmarks/layerwise.py
"""

from functools import partial

import midsize

from reslab.residency import Plan, layerwise

ROUNDS = 3
RATIOS = (0.5, 1.0, 2.0)


def main():
    """Print the table."""
    bench = midsize.bench(ROUNDS)
    ways = {
        "untouched": bench.best,
        "untouched again (A/A)": bench.best,
        "all resident": lambda: bench.managed(Plan.of())[0],
    }
    held = {}
    for ratio in RATIOS:
        for prefetch in (1, 0):
            name, plan = (
                f"copy {ratio} × compute, prefetch {prefetch}",
                Plan.of({"transformer": layerwise(prefetch=prefetch)}),
            )
            ways[name] = partial(lambda plan, rate: bench.managed(plan, rate)[0], plan, bench.rate(ratio))
            if prefetch:
                held[name] = bench.rate(ratio)
    best = midsize.fastest(ways, ROUNDS)
    print("| way | s | ÷ untouched | held to |\n|---|---:|---:|---:|")
    for name, took in best.items():
        print(f"| {name} | {took:.3f} | {took / best['untouched']:.3f} | {told(bench, best, took, held.get(name))} |")


def told(bench, best, took, rate):
    """Return the bound that a way is held to, and whether it kept to it."""
    if rate is None:
        return ""
    copy_s = bench.streamed_bytes / rate
    bound = 1.05 * max(best["untouched"], copy_s) + copy_s / midsize.BLOCKS / midsize.CALLS
    return f"{bound:.3f} {'✓' if took <= bound else '✗'}"


if __name__ == "__main__":
    main()
