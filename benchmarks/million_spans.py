"""What a million spans take: `stages()` ≤ 200 ms, ≤ 150 bytes a span; and how long reading the record takes.

A million spans are told to a profiler as a pipeline would tell them: stages of steps of guidance passes of component
calls; and as hardly one would: nearly all of them stages. `stages()` is told by its fastest call of several, beside a
second series of the same (A/A). Bytes are those of the frame, which is what a profile keeps, and of the record that it
was read from.

    python benchmarks/million_spans.py
"""

import platform
import sys
import time

import polars as pl

from reslab.profiler import Profiler

SPANS, REPEATS = 1_000_000, 20
STEPS, PASSES, CALLS = 30, ("pred_cond", "pred_uncond", "pred_cond_stg"), 5


def recorded(spans):
    """Return a profiler that was told of about so many spans, in one run."""
    prof = Profiler(memory=None, device=None).start()
    prof.begin("run", "lab")
    for stage in range(spans // (STEPS * (1 + len(PASSES) * (1 + CALLS)))):
        prof.begin("stage", f"stage {stage % 8}", stage)
        for step in range(STEPS):
            prof.begin("step", "step", step)
            for number, name in enumerate(PASSES):
                prof.begin("guidance pass", name, number)
                for _ in range(CALLS):
                    prof.begin("component call", "transformer.forward")
                    prof.end()
                prof.end()
            prof.end()
        prof.end()
    prof.end()
    return prof


def only_stages(spans):
    """Return the profile of so many stages, in runs of a hundred."""
    with Profiler(memory=None, device=None) as prof:
        for _ in range(spans // 100):
            prof.begin("run", "lab")
            for stage in range(99):
                prof.begin("stage", f"stage {stage % 8}", stage)
                prof.end()
            prof.end()
    return prof.profile


def fastest(call):
    """Return the seconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def record_bytes(prof):
    """Return the bytes of the record: its list, and the two times a span, which are the only objects of its own."""
    (log,) = prof._recorder.logs()
    return sys.getsizeof(log) + 2 * sys.getsizeof(time.perf_counter_ns()) * prof.profile.spans.height


def read(spans):
    """Record, read and return the profiler with the seconds that reading took."""
    prof = recorded(spans)
    start = time.perf_counter()
    prof.stop()
    return prof, time.perf_counter() - start


def main():
    """Print the table and whether the claims hold."""
    print(f"Python {platform.python_version()}, polars {pl.__version__}; fastest of {REPEATS}\n")
    _, read_few = read(SPANS // 10)
    prof, read_all = read(SPANS)
    profile, spans = prof.profile, prof.profile.spans.height
    first, again = fastest(profile.stages), fastest(profile.stages)
    worst = fastest(only_stages(SPANS).stages)
    frame_bytes, log_bytes = profile.spans.estimated_size() / spans, record_bytes(prof) / spans
    print(f"{spans:,} spans")
    print(f"{'stages()':<34}{1e3 * first:>8.1f} ms")
    print(f"{'stages(), again (A/A)':<34}{1e3 * again:>8.1f} ms")
    print(f"{'stages(), 990 000 stages':<34}{1e3 * worst:>8.1f} ms")
    print(f"{'from record to profile':<34}{1e3 * read_all:>8.0f} ms; of a tenth of them {1e3 * read_few:.0f} ms")
    print(f"{'a span in the profile':<34}{frame_bytes:>8.0f} bytes")
    print(f"{'a span in the record':<34}{log_bytes:>8.0f} bytes\n")
    for claim, got, limit, unit in (
        ("stages() over a million spans: at most", 1e3 * first, 200, "ms"),
        ("a span in a profile: at most", frame_bytes, 150, "bytes"),
        ("a span in the record: at most", log_bytes, 150, "bytes"),
    ):
        print(f"{claim:<40}{limit:>5} {unit:<6} measured {got:>6.1f}: {'holds' if got <= limit else 'FAILS'}")


if __name__ == "__main__":
    main()
