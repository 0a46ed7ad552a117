"""What a stage costs, beside calling the same method oneself: unobserved under 1 µs more, observed under 5 µs.

A pipeline of 100 equal stages is run, and beside it the same 100 calls are made of the plain method. What a run costs
by itself is measured as a run without stages and taken off; what is left over 100 is one stage's. The ways are
interleaved, round by round, and each is told by its fastest round, since the machine can only make a round slower. The
A/A row is the plain way measured twice: what differs by less means nothing.

    python benchmarks/stage_call.py
"""

import platform
import time

from reslab.stages import Pipeline, Stage

CALLS, ROUNDS = 100, 10_000
VALUES = {"width": 768, "height": 512, "num_frames": 121, "frame_rate": 24.0, "seed": 7}


class Bare(Stage):
    """Reads and writes nothing."""

    writes = ()

    def run(self):
        """Do nothing."""


class Five(Stage):
    """Reads five values."""

    writes = ()

    def run(self, width, height, num_frames, frame_rate, seed):
        """Do nothing."""


class Deaf:
    """The observer that does nothing: what remains is the price of telling."""

    def begin(self, kind, name, index=-1, nbytes=0):
        """Be told."""

    def end(self, error=None):
        """Be told."""


def plain(stage, inputs):
    """The same calls without a pipeline."""
    method = stage().run

    def ways():
        for _ in range(CALLS):
            method(**inputs)

    return ways


def piped(stage, inputs, *, count=CALLS, observed=False):
    """A run of a pipeline of such stages; without any where count is 0."""
    pipeline = Pipeline()
    for number in range(count):
        pipeline.add(stage, name=f"stage {number}")
    if observed:
        pipeline.observe(Deaf())
    return lambda: pipeline.run(**(inputs if count else {}))


def fastest(ways):
    """Nanoseconds of the fastest round of each way, measured in turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter_ns()
            way()
            best[name] = min(best[name], time.perf_counter_ns() - start)
    return best


def measured(stage, inputs):
    """Nanoseconds a call, by way; the cost of a run itself is taken off."""
    ways = {
        "method": plain(stage, inputs),
        "method, again (A/A)": plain(stage, inputs),
        "stage": piped(stage, inputs),
        "stage, observed": piped(stage, inputs, observed=True),
        "run": piped(stage, inputs, count=0),
        "run, observed": piped(stage, inputs, count=0, observed=True),
    }
    best = fastest(ways)
    best["stage"] -= best.pop("run")
    best["stage, observed"] -= best.pop("run, observed")
    return {name: total / CALLS for name, total in best.items()}


def main():
    """Print the table and whether the two claims hold."""
    print(f"Python {platform.python_version()}; fastest of {ROUNDS} interleaved rounds of {CALLS} calls\n")
    columns = [measured(Bare, {}), measured(Five, VALUES)]
    print(f"{'one call':<22}{'no values: ns, more, ratio':>34}{'five values: ns, more, ratio':>34}")
    for name in columns[0]:
        told = [(column[name], column[name] - column["method"], column[name] / column["method"]) for column in columns]
        print(f"{name:<22}" + "".join(f"{ns:>16.0f}{more:>+9.0f}{ratio:>9.2f}" for ns, more, ratio in told))
    print()
    for name, limit in (("stage", 1000), ("stage, observed", 5000)):
        more = columns[0][name] - columns[0]["method"]
        print(f"{name}: {more:+.0f} ns without values; claimed under {limit}: {'holds' if more < limit else 'FAILS'}")


if __name__ == "__main__":
    main()
