"""Whether two sets of runs did the same work, and if not, in which respect.

A comparison of unequal work misleads: one side had another size, fewer steps or a stage less. Runs of equal work have
an equal fingerprint (`_meta.fingerprint`). Where two fingerprints differ, `work_differences` says why.

    work_differences(first, second, labels=("before", "after"))     # ["width is 64 in before and 128 in after"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.stages import Kind

if TYPE_CHECKING:
    from reslab.profiler._profile import Profile

Profiles = Sequence["Profile"]
Labels = tuple[str, str]

_COUNTED = {Kind.STEP.value: "steps", Kind.PASS.value: "guidance passes"}


class UnequalWorkError(ValueError):
    """Two sets of runs did not do the same work, so their times cannot be compared."""


def work_differences(a: Profiles, b: Profiles, *, labels: Labels) -> list[str]:
    """Return one phrase for each respect in which the work of `a` and `b` differs; none for equal work."""
    works = {profile.meta.get("work") for profile in [*a, *b]}
    if len(works) == 1 and None not in works:
        return []
    unknown = [label for label, side in zip(labels, (a, b), strict=True) if any("work" not in p.meta for p in side)]
    if unknown:
        return [f"no work is known for {' and '.join(unknown)}"]
    reasons = [*_requests(a, b, labels), *_stages(a, b, labels)]
    return reasons or ["runs of different work are mixed in one set"]


def _requests(a: Profiles, b: Profiles, labels: Labels) -> Iterator[str]:
    first, second = _asked(a), _asked(b)
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) != second.get(name):
            one, other = (" or ".join(side.get(name, ["not given"])) for side in (first, second))
            yield f"{name} is {one} in {labels[0]} and {other} in {labels[1]}"


def _asked(profiles: Profiles) -> Mapping[str, list[str]]:
    """Return the values that requests gave, by name, without seeds."""
    asked: dict[str, list[str]] = {}
    for request in (request for profile in profiles for request in profile.meta.get("requests", [])):
        for name, value in request.items():
            if name != "seed" and repr(value) not in asked.setdefault(name, []):
                asked[name].append(repr(value))
    return asked


def _stages(a: Profiles, b: Profiles, labels: Labels) -> Iterator[str]:
    first, second = _counts(a), _counts(b)
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second:
            yield f"only {labels[name in second]} runs {name}"
            continue
        for kind, plural in _COUNTED.items():
            one, other = (side[name].get(kind, 0) for side in (first, second))
            if one != other:
                yield f"{name} makes {one} {plural} in {labels[0]} and {other} in {labels[1]}"


def _counts(profiles: Profiles) -> Mapping[str, dict[str, int]]:
    """Return how many spans of each kind a run of each stage holds, by registered name; the most of any run."""
    counts: dict[str, dict[str, int]] = {}
    for profile in profiles:
        for run in _counted(profile.spans).iter_rows(named=True):
            stage = counts.setdefault(run["registered_name"], {})
            stage[run["kind"]] = max(stage.get(run["kind"], 0), run["len"])
    return counts


def _counted(spans: pl.DataFrame) -> Any:
    kinds = [Kind.STAGE.value, *_COUNTED]
    rows = spans.filter(pl.col("kind").is_in(kinds)).with_columns(pl.col("registered_name", "kind").cast(pl.String))
    return rows.group_by("run", "registered_name", "kind", maintain_order=True).len()
