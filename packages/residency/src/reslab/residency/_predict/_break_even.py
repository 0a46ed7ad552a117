"""The break-even of streaming: its cost against keeping everything resident, by video size and card.

    frame = break_even(rehearsals, [device("RTX 4090"), device("H100")])
    break_even_tokens(frame)           # the size from which each card hides all copies behind compute

If all blocks of a component stream, a forward takes the longer of its compute and its copies. More tokens mean more
compute for the same bytes, so large videos stream for free. Times are those of `bounds`: compute is the longer of the
device's time by roofline and the host's time for issuing operations, and a dynamic LoRA moves with its blocks.

The device's time has two readings: operations one by one, as diffusers runs them, and as if everything but matrix
products, convolutions and attention were fused into them (`fused`). Most runs lie between the two: bounds, not
predictions. Keeping k of n blocks leaves (n − k)/n of the copies, so keeping ⌈n·(1 − compute ÷ copy)⌉ blocks makes
streaming the others free.
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
    "tokens": pl.Int64,  # longest axis of the call's first argument: the video's size in the stage
    "compute_ns": pl.Int64,  # one forward and its share of the time between calls, operations one by one, host included
    "fused_ns": pl.Int64,  # the same, with only matrix products, convolutions and attention on the device
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
    """Return the cost of streaming all blocks of a component against keeping them: a row a size, device and stage.

    The ratio is the stage's floor in `bounds` under a plan that streams all blocks, divided by its time with everything
    resident.

    Args:
        rehearsals: One or several, by label; without labels, they are labelled by their requested size.
        devices: One card or several, or their names.
        component: The component whose blocks stream.
        lora: "dynamic", the default of a plan (a distilled LoRA moves with its blocks and computes where it is on), or
            "merged" (it costs nothing).

    Returns:
        The columns of `BREAK_EVEN`, sorted by device (as given) and tokens.

    Raises:
        ValueError: A rehearsal has no such component, or the component has no blocks to stream.
        RehearsalError, DeviceError: An argument is neither rehearsals nor devices.
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
    """Return the tokens from which streaming is free on each device: device, tokens (null: at none of the sizes).

    Between two sizes the ratio is interpolated as a power of the tokens.

    Args:
        frame: The frame that `break_even` returns.
        ratio: "ratio" or "fused_ratio".
    """
    slow = "compute_ns" if ratio == "ratio" else "fused_ns"
    rows = []
    for (name,), part in frame.group_by("device", maintain_order=True):
        points = part.sort("tokens").select("tokens", pl.col("copy_ns") / pl.col(slow)).unique("tokens", keep="first")
        rows.append((name, _crossing(points.sort("tokens").rows())))
    return pl.DataFrame(rows, schema={"device": pl.String, "tokens": pl.Int64}, orient="row")


def _crossing(points: Sequence[tuple[int, float]]) -> int | None:
    """Return the tokens where copy ÷ compute falls to 1, from points in the order of tokens."""
    if points[0][1] <= 1:
        return points[0][0]
    for (few, above), (many, below) in pairwise(points):
        if below <= 1:
            # a straight line between two points of a log-log chart
            share = math.log(above) / math.log(above / below)
            return round(few * (many / few) ** share)
    return None


def _rows(label: str, rehearsal: Rehearsal, card: DeviceSpec, component: str, lora: str) -> Iterator[tuple[Any, ...]]:
    work = workload(rehearsal, Plan.of({"lora": lora}))
    size = work.components.get(component)
    if size is None or not size.block_bytes:
        raise ValueError(f"{component!r} has no blocks to stream; known: {_streamable(work)}")
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
    """Return the longest axis of the first shape in a call's shapes: its tokens.

    >>> longest("hidden_states 1×24576×128, timestep 1")
    24576
    """
    return max(int(axis) for axis in re.findall(r"\d+", shapes.split(", ")[0].rpartition(" ")[2]))
