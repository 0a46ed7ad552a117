"""The checks of the exercises in notebook 02; each computes its truth with the toy pipeline or the profiler itself."""

from __future__ import annotations

from itertools import count
from types import EllipsisType

import polars as pl

from reslab.profiler._compare import CONFIDENCE
from reslab.profiler._shift import shift_interval
from reslab.profiler.teaching import Verdict, check_number
from reslab.profiler.toy import Toy


def decode_by_the_host(answer: float | EllipsisType) -> Verdict:
    """Check how many ms a clock of the host gives decoding if a guidance pass takes 5 ms instead of 10.

    >>> decode_by_the_host(116).right
    True
    """
    stages = Toy(pass_ms=5).profile(steps=4).stages()
    times = dict(stages.select(pl.col("stage").cast(pl.String), "host_ms").iter_rows())
    before, total = times["encode"] + times["denoise"], sum(times.values())
    return check_number(
        answer,
        truth=round(times["decode"]),
        what="the time in ms",
        why=f"the device is busy for {total:.0f} ms, and the host waits for all but the first {before:.0f}",
    )


def first_step_times_thirty(answer: float | EllipsisType) -> Verdict:
    """Check by how many ms the first step times 30 is too much for 30 steps of the toy.

    >>> first_step_times_thirty(1160).right
    True
    """
    steps = Toy().profile(steps=30).steps()["device_ms"]
    return check_number(
        answer,
        truth=round(30 * steps[0] - sum(steps)),
        what="the excess in ms",
        why=f"30 × {steps[0]:.0f} ms against {sum(steps):.0f} ms: what happens once was counted 30 times",
    )


def fewest_repeats(answer: int | EllipsisType) -> Verdict:
    """Check how many repeats of each side `compare` needs at least to call a stage slower or faster.

    >>> fewest_repeats(4).right
    True
    """
    sure = (n for n in count(1) if shift_interval(range(n), range(n), confidence=CONFIDENCE).coverage >= CONFIDENCE)
    return check_number(
        answer,
        truth=next(sure),
        what="the number of repeats",
        why=f"only from there on can the noise band be right in {CONFIDENCE:.0%} of cases",
    )
