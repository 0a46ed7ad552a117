"""Whether a profile adds up: what lies inside a span never takes longer than the span.

A measured profile always does. A file that was edited, merged or written by another program may not, and a baseline
whose steps take longer than their stage proves nothing. So `compare` asks, and says what it finds.

    inconsistencies(profile.spans)      # ["the steps of 'denoise' sum to 30 ms, more than its 20 ms"]
"""

from __future__ import annotations

import polars as pl

from reslab.profiler._units import format_ns


def inconsistencies(spans: pl.DataFrame) -> list[str]:
    """Return a sentence for each name whose inner spans sum to more than itself; none for a sound profile.

    >>> from reslab.profiler import spans_frame
    >>> columns = dict(span=[0, 1], parent=[None, 0], lane=["host"] * 2, kind=["stage", "step"])
    >>> inconsistencies(spans_frame(**columns, name=["denoise", "step"], start_ns=[0, 0], host_ns=[20, 30]))
    ["the steps of 'denoise' sum to 30 ns, more than its 20 ns"]

    Args:
        spans: A frame of `SPAN_SCHEMA`. Only spans on the lane of their parent count: copies run beside the host.
    """
    text = spans.with_columns(pl.col("name", "kind", "lane").cast(pl.String))
    around = text.select("span", "lane", of="name", own_ns="host_ns")
    inside = text.join(around, left_on=["parent", "lane"], right_on=["span", "lane"])
    sums = inside.group_by("parent", "of", "own_ns", maintain_order=True).agg(
        pl.col("kind").unique(maintain_order=True), inner_ns=pl.col("host_ns").sum()
    )
    broken = sums.filter(pl.col("inner_ns") > pl.col("own_ns")).unique("of", keep="first", maintain_order=True)
    return [_sentence(**row) for row in broken.drop("parent").iter_rows(named=True)]


def _sentence(*, of: str, own_ns: int, kind: list[str], inner_ns: int) -> str:
    inner = " and ".join(f"{one}es" if one.endswith("s") else f"{one}s" for one in kind)
    return f"the {inner} of {of!r} sum to {format_ns(inner_ns)}, more than its {format_ns(own_ns)}"
