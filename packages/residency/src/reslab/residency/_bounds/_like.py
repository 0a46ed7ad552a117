"""A card's ratio of copying to computing, from a rehearsal of what it would run.

    apply(pipeline, plan, link=like(card, rehearsal))

A laptop that computes 500 times slower than a card should copy 500 times slower too: then it waits where the card
would wait.
"""

from __future__ import annotations

from reslab.residency._bounds._arguments import one_device, one_rehearsal
from reslab.residency._bounds._bounds import bounded
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._ratio import Ratio
from reslab.residency._rehearse._rehearsal import Rehearsal


def like(card: DeviceSpec | str, rehearsal: Rehearsal) -> Ratio:
    """Return the ratio of copying to computing that a card has in a rehearsed run, if every call copied its weights.

    Both are as in `bounds`: computing takes what the roofline says, copying the bytes over the link of pinned memory.

    >>> import torch
    >>> from reslab.residency import device, rehearse
    >>> from reslab.stages import Pipeline, stage
    >>> pipeline = Pipeline({"model": torch.nn.Linear(64, 64, dtype=torch.bfloat16)}, result="y")
    >>> _ = pipeline.add(stage(lambda model, x: {"y": model(x)}), name="compute")
    >>> rehearsal = rehearse(pipeline, x=torch.ones(200_000, 64, dtype=torch.bfloat16))
    >>> [round(like(device(name), rehearsal).copy_s_per_compute_s, 4) for name in ("RTX 4090", "H100 SXM 80GB")]
    [0.0066, 0.0098]

    Args:
        card: From `device`, or its name; its link for pinned memory and its throughput count.
        rehearsal: Of what that card would run, at its size.

    Raises:
        DeviceError: If it is not known how fast the card computes in the type of a component.
    """
    card, rehearsal = one_device(card, "a ratio"), one_rehearsal(rehearsal, "a ratio")
    limits = bounded(rehearsal, Plan.of(), card)
    sizes = {row["component"]: row["weight_bytes"] + row["lora_bytes"] for row in rehearsal.components.rows(named=True)}
    copied = sum(sizes[component] for component in rehearsal.calls["component"])
    return Ratio(copy_s_per_compute_s=copied / card.link_bytes_per_s / (limits.compute_ns / 1e9))
