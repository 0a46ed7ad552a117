"""The shift between two small sets of repeats, with an interval that assumes no distribution of timings.

The problem: timings are skewed and repeats are few, so a mean with a standard deviation shows neither the usual time
nor its certainty. The idea (Mann and Whitney, 1947; Hodges and Lehmann, 1963): suppose that the two sets differ only by
a shift. Then the number of the n·m differences between them that lie below the shift has a known distribution, whatever
the distribution of the timings. So the interval from the k-th smallest to the k-th largest difference holds the shift
with a known probability.

    shift_interval([10, 11, 12, 13], [15, 16, 17, 18], confidence=0.95)     # from 2 to 8, in 97 of 100 cases

Three repeats a side reach 90 %, four 97 %, and one and one 0 %; the interval carries this as its `coverage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, takewhile
from math import comb
from typing import NamedTuple


class Interval(NamedTuple):
    """The interval that holds a shift, and the probability that it does."""

    low: int
    high: int
    coverage: float


def shift_interval(a: Sequence[int], b: Sequence[int], *, confidence: float) -> Interval:
    """Return the narrowest interval for the shift from `a` to `b` that is right with at least this probability.

    >>> shift_interval([10, 11, 12, 13], [15, 16, 17, 18], confidence=0.95)
    Interval(low=2, high=8, coverage=0.9714285714285714)

    Source: Hodges and Lehmann, "Estimates of location based on rank tests", Ann. Math. Statist. 34 (1963).

    Args:
        a: The values of the first set, one a repeat.
        b: The values of the second set; they need not be paired with the first or equally many.
        confidence: The probability wanted, from 0 to 1. If there are too few repeats for it, the interval spans all
            differences, and `coverage` is the probability that they reach.
    """
    differences = sorted(y - x for x in a for y in b)
    cases = comb(len(a) + len(b), len(a))
    coverages = [1 - 2 * tail / cases for tail in accumulate(_rank_counts(len(a), len(b)))]
    cut = max(len(list(takewhile(lambda coverage: coverage >= confidence, coverages))), 1)
    return Interval(differences[cut - 1], differences[-cut], coverages[cut - 1])


@lru_cache
def _rank_counts(n: int, m: int) -> tuple[int, ...]:
    """Count the orders of n and m values in which u of the n·m pairs are the wrong way round, for each u.

    They are the coefficients of a Gaussian binomial, the product over i from 1 to n of (1 - q^(m+i)) / (1 - q^i).

    >>> _rank_counts(2, 2)
    (1, 1, 2, 1, 1)
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return tuple(counts)
