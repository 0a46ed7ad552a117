"""What a span costs the host, beside torch's and beside a bare pair of clock reads: on ≤ 1 µs, off ≤ 0.3 µs.

Each way opens and closes 100 empty `with` blocks. The ways are interleaved, round by round, and each is told by its
fastest round, since the machine can only make a round slower. The A/A row is the bare pair measured twice: what differs
by less means nothing. torch's ways are measured as they stand in code that ships: with no profiler of torch running.
The last rows are what a pipeline's events cost, with the memory of the process read at a stage's two borders.

    python benchmarks/span_cost.py
"""

import platform
import time
from contextlib import nullcontext

import torch
from torch._C._profiler import _RecordFunctionFast

from reslab.profiler import Profiler

CALLS, ROUNDS = 100, 1_000


def clock_pairs():
    """Read the clock twice, and nothing else."""
    clock = time.perf_counter_ns
    for _ in range(CALLS):
        clock()
        clock()


def blocks(block):
    """Return a way that opens and closes what `block` makes."""

    def way():
        for _ in range(CALLS):
            with block("denoise"):
                pass

    return way


def events(profiler, kind):
    """Return a way that tells a profiler of spans of a kind."""

    def way():
        for _ in range(CALLS):
            profiler.begin(kind, "denoise")
            profiler.end()

    return way


def ways():
    """Return what is measured, by name; made anew each round, so that no record grows large."""
    on, off, deaf = (
        Profiler(memory=None, device=None).start(),
        Profiler(memory=None),
        Profiler(memory=None, device=None),
    )
    reading = Profiler(device=None).start()
    return {
        "clock read twice": clock_pairs,
        "clock read twice, again (A/A)": clock_pairs,
        "empty with block": blocks(nullcontext),
        "span, off": blocks(off.span),
        "span, on": blocks(on.span),
        "torch record_function": blocks(torch.profiler.record_function),
        "torch _RecordFunctionFast": blocks(_RecordFunctionFast),
        "event of a step": events(deaf.start(), "step"),
        "event of a stage, with memory": events(reading, "stage"),
    }


def fastest():
    """Return nanoseconds of the fastest round of each way, measured in turns."""
    best = {}
    for _ in range(ROUNDS):
        for name, way in ways().items():
            start = time.perf_counter_ns()
            way()
            best[name] = min(best.get(name, float("inf")), time.perf_counter_ns() - start)
    return {name: total / CALLS for name, total in best.items()}


def main():
    """Print the table and whether the claims hold."""
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    print(f"fastest of {ROUNDS} interleaved rounds of {CALLS}\n")
    best = fastest()
    print(f"{'one span':<32}{'ns':>8}{'clock pairs':>14}{'spans on':>12}")
    for name, ns in best.items():
        print(f"{name:<32}{ns:>8.0f}{ns / best['clock read twice']:>14.2f}{ns / best['span, on']:>12.2f}")
    border = (best["event of a stage, with memory"] - best["event of a step"]) / 2
    print()
    for claim, got, limit, unit in (
        ("span, on: at most", best["span, on"], 1_000, "ns"),
        ("span, off: at most", best["span, off"], 300, "ns"),
        ("memory at a stage's border: at most", border, 25_000, "ns"),
        ("one of ours a record_function: at most", best["span, on"] / best["torch record_function"], 1 / 7, "of it"),
    ):
        print(f"{claim:<40}{limit:>10.4g} {unit:<6} measured {got:>8.4g}: {'holds' if got <= limit else 'FAILS'}")


if __name__ == "__main__":
    main()
