"""The checks of the exercises in notebook 02; each computes its truth with the toy pipeline or the profiler itself."""

from __future__ import annotations

from itertools import count
from typing import Any

import polars as pl

from reslab.profiler._compare._compare import CONFIDENCE
from reslab.profiler._compare._shift import shift_interval
from reslab.profiler.teaching import Asked, Hints, Verdict, check_number
from reslab.profiler.toy import Toy

__all__ = ["decode_by_the_host", "fewest_repeats", "first_step_times_thirty"]

_MS = Asked(unit="ms", to=1)


def __dir__() -> list[str]:
    return __all__


def decode_by_the_host(answer: Any) -> Verdict:
    """Check how many ms a clock of the host gives decoding if a guidance pass takes 5 ms instead of 10.

    >>> decode_by_the_host(30)
    Verdict('not yet: the time in ms is not 30: that is what decoding takes the device.')

    Args:
        answer: ms, a whole number, or `...`.
    """
    times, slower = _host_and_device(5), _host_and_device(10)
    total = sum(times["host"].values())
    before = total - times["host"]["decode"]
    traps = {
        times["device"]["decode"]: "that is what decoding takes the device.",
        slower["host"]["decode"]: "that is with passes of 10 ms.",
        total: "that is the whole run; the host comes to decode a little later.",
        times["host"]["decode"] + before - times["device"]["decode"]: "the host waits for decoding, too.",
    }
    beside = {"with 10 ms a pass": slower["host"]["decode"]}
    return check_number(
        answer,
        truth=times["host"]["decode"],
        what="the time in ms",
        why=f"the device is busy for {total:.0f} ms, and the host waits for all but the first {before:.0f}",
        asked=_MS,
        hints=Hints(traps=traps, section="section 2", beside=beside),
    )


def first_step_times_thirty(answer: Any) -> Verdict:
    """Check by how many ms the first step times 30 is too much for 30 steps of the toy.

    >>> first_step_times_thirty("1.8 s")
    Verdict('not yet: the excess in ms is not 1,800: that is the estimate; by how much is it too much?')

    Args:
        answer: ms, a whole number, or `...`.
    """
    steps = Toy().profile(steps=30).steps()["device_ms"]
    traps = {
        30 * steps[0]: "that is the estimate; by how much is it too much?",
        sum(steps): "that is what the steps take; by how much is the estimate too much?",
        steps[0] - steps[1]: "that is the excess of one step, and it is counted for each of the thirty.",
        30 * (steps[0] - steps[1]): "the first step really takes that long once: that one time is no excess.",
    }
    return check_number(
        answer,
        truth=30 * steps[0] - sum(steps),
        what="the excess in ms",
        why=f"30 × {steps[0]:.0f} ms against {sum(steps):.0f} ms: what happens once was counted 30 times",
        asked=_MS,
        hints=Hints(traps=traps, section="section 7", beside={"the first step": steps[0]}),
    )


def fewest_repeats(answer: Any) -> Verdict:
    """Check how many repeats of each side `compare` needs at least to call a stage slower or faster.

    Args:
        answer: A number of runs a side, or `...`.
    """
    sure = (n for n in count(1) if shift_interval(range(n), range(n), confidence=CONFIDENCE).coverage >= CONFIDENCE)
    truth = next(sure)
    traps = {
        2 * truth: "that is both sides together; how many runs of each?",
        truth - 1: "of all orders of that many a side, how large a share keeps the two sets apart by chance?",
        5: "that is enough, as in section 8; are fewer enough?",
    }
    return check_number(
        answer,
        truth=truth,
        what="the number of repeats",
        why=f"only from there on can the noise band be right in {CONFIDENCE:.0%} of cases",
        hints=Hints(traps=traps, section="section 8", beside={"runs in section 8": 5}),
    )


def _host_and_device(pass_ms: int) -> dict[str, dict[str, float]]:
    """Return what each clock gives each stage, in ms."""
    stages = Toy(pass_ms=pass_ms).profile(steps=4).stages().with_columns(pl.col("stage").cast(pl.String))
    return {
        clock: dict(stages.select("stage", pl.col(f"{clock}_ms").fill_null(0)).iter_rows())
        for clock in ("host", "device")
    }
