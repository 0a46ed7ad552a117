"""When streaming is free: what it costs against keeping everything, by video size and card, and what makes it free.

    frame = break_even(rehearsals, [device("RTX 4090"), device("H100")])
    break_even_tokens(frame)           # the size from which each card hides all copies behind compute
    survey(rehearsals, devices)        # card × size: what fits, and what it costs

A component whose blocks all stream costs, a forward, the longer of its compute and its copies: more tokens mean more
compute for the same bytes. Both are as `bounds` has them: compute is the longer of the device's time by roofline and
the host's for issuing the operations, and a distilled LoRA that is added on the fly moves with its blocks. The device's
time has two readings: operations one by one, as diffusers runs them, and as if everything but matrix products,
convolutions and attention were fused away (`fused`). Most runs lie between them: bounds, not predictions. Keeping k of
n blocks leaves (n − k)/n of the copies, so that ⌈n·(1 − compute ÷ copy)⌉ blocks make streaming the others free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import Lora
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._predict._arguments import Devices, Rehearsals, many_devices, many_rehearsals
from reslab.residency._predict._rehearsed import workload
from reslab.residency._predict._roofline import forward_times
from reslab.residency._rehearse._rehearsal import Rehearsal

BREAK_EVEN: Mapping[str, Any] = {
    "size": pl.String,  # the rehearsal's label
    "device": pl.String,
    "stage": pl.String,
    "tokens": pl.Int64,  # of the longest argument: what the size of the stage's video comes to
    "compute_ns": pl.Int64,  # of one forward and what runs between two, operations one by one; the host's time included
    "fused_ns": pl.Int64,  # the same, all but matrix products, convolutions and attention fused away on the device
    "copy_ns": pl.Int64,  # of all blocks
    "ratio": pl.Float64,  # time streamed ÷ time resident
    "fused_ratio": pl.Float64,
    "blocks": pl.Int64,
    "keep": pl.Int64,  # blocks to keep so that streaming the others is free
    "fused_keep": pl.Int64,
    "keep_bytes": pl.Int64,
}


def break_even(
    rehearsals: Rehearsals,
    devices: Devices,
    *,
    component: str = "transformer",
    lora: str = "dynamic",
) -> pl.DataFrame:
    """Return what streaming all blocks of a component costs against keeping them: a row a size, device and stage.

    The ratio is that of `bounds` for the same stage: its floor under a plan that streams all blocks, divided by what it
    takes with everything resident.

    Args:
        rehearsals: One or several; by label, or without labels by the size they were requested with.
        devices: One card or several, or their names.
        component: Whose blocks stream.
        lora: "dynamic", as in a plan by default (a distilled LoRA moves with its blocks, and computes where it is on),
            or "merged" (it costs nothing).

    Returns:
        The columns of `BREAK_EVEN`, sorted by device (as given) and tokens.

    Raises:
        ValueError: A rehearsal has no such component, or it has no blocks to stream.
        RehearsalError, DeviceError: For anything else than rehearsals and devices.
    """
    cards = many_devices(devices, "a break-even")
    rows = [
        row
        for label, rehearsal in many_rehearsals(rehearsals, "a break-even").items()
        for card in cards
        for row in _rows(label, rehearsal, card, component, lora)
    ]
    order = pl.Enum(list(dict.fromkeys(card.name for card in cards)))
    return pl.DataFrame(rows, schema=dict(BREAK_EVEN), orient="row").sort(
        pl.col("device").cast(order), "tokens", "size"
    )


def break_even_tokens(frame: pl.DataFrame, *, ratio: str = "ratio") -> pl.DataFrame:
    """Return for each device the tokens from which streaming is free: device, tokens (null: at no size that is there).

    Between two sizes the ratio is taken to be a power of the tokens, which it nearly is.

    Args:
        frame: From `break_even`.
        ratio: "ratio" or "fused_ratio".
    """
    slow = "compute_ns" if ratio == "ratio" else "fused_ns"
    rows = []
    for (name,), part in frame.group_by("device", maintain_order=True):
        points = part.sort("tokens").select("tokens", pl.col("copy_ns") / pl.col(slow)).unique("tokens", keep="first")
        rows.append((name, _crossing(points.sort("tokens").rows())))
    return pl.DataFrame(rows, schema={"device": pl.String, "tokens": pl.Int64}, orient="row")


def _crossing(points: Sequence[tuple[int, float]]) -> int | None:
    """Return where copy ÷ compute falls to 1, from points in the order of tokens."""
    if points[0][1] <= 1:
        return points[0][0]
    for (few, above), (many, below) in pairwise(points):
        if below <= 1:
            share = math.log(above) / math.log(above / below)
            return round(few * (many / few) ** share)
    return None


def _rows(label: str, rehearsal: Rehearsal, card: DeviceSpec, component: str, lora: str) -> Iterator[tuple[Any, ...]]:
    work = workload(rehearsal, Plan.of({"lora": lora}))
    size = work.components.get(component)
    if size is None or not size.block_bytes:
        raise ValueError(f"{component!r} has no blocks that could stream; there are: {_streamable(work)}")
    each = sum(size.block_bytes) / size.block_count
    copy_ns = 0 if card.unified else round(sum(size.block_bytes) / card.link_bytes_per_s * 1e9)
    forwards = forward_times(rehearsal, card, Lora(lora), component)
    for stage, shapes, compute, fused in forwards.iter_rows():
        keep = [_keep(ns, copy_ns, size.block_count) for ns in (compute, fused)]
        ratios = [max(ns, copy_ns) / ns for ns in (compute, fused)]
        at = (label, card.name, stage, longest(shapes))
        yield (*at, compute, fused, copy_ns, *ratios, size.block_count, *keep, round(keep[0] * each))


def _keep(compute_ns: int, copy_ns: int, blocks: int) -> int:
    return math.ceil(blocks * max(0.0, 1 - compute_ns / copy_ns)) if copy_ns else 0


def _streamable(work: Workload) -> str:
    return ", ".join(name for name, size in work.components.items() if size.block_bytes) or "none"


def longest(shapes: str) -> int:
    """Return the longest axis in the shape of a call's first argument: its tokens.

    >>> longest("hidden_states 1×24576×128, timestep 1")
    24576
    """
    return max(int(axis) for axis in re.findall(r"\d+", shapes.split(", ")[0].rpartition(" ")[2]))
