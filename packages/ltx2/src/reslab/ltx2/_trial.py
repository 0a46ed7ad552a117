"""A trial run without a download: the largest model that a device can run in minutes, and a request for it.

    attempt = trial(default_device())
    pipe = two_stage(attempt.checkpoint)
    pipe.run(**attempt.request)

An accelerator gets LTX-2.3 distilled at its full size with random values: 66.6 GiB of weights that take 8.05 GiB of
host memory, because equal blocks share one storage, while every byte is still copied to the device. A CPU would take
hours for that, so it gets the same program on the mid-size model: 424 MiB, enough for copies to take measurable time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from reslab.ltx2._checkpoint._blank import blank
from reslab.ltx2._checkpoint._checkpoint import Checkpoint
from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._device import default_device
from reslab.stages.support import freeze

_VARIANT = "LTX-2.3 distilled"  # eleven passes in place of 123, and no LoRA
_REQUEST: Mapping[str, Any] = {"prompt": "a heron over a weir", "seed": 7}
#: Five seconds of small video, bounded at 56 to 75 s on an RTX 3060 12GB that streams every block.
_FULL: Mapping[str, Any] = {"width": 768, "height": 512, "num_frames": 121}
_MID: Mapping[str, Any] = {"width": 128, "height": 64, "num_frames": 9, "max_sequence_length": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Hold a checkpoint and a request that a device can run.

    Attributes:
        checkpoint: Weights in host memory with random values; their videos are noise.
        request: The arguments of `Pipeline.run` and `rehearse`.
        why: The model and the reason for choosing it, in a sentence.
    """

    checkpoint: Checkpoint
    request: Mapping[str, Any]
    why: str = field(repr=False)

    def __post_init__(self) -> None:
        freeze(self)


def trial(device: torch.device | str | None = None) -> Trial:
    """Return a trial that needs no download and takes minutes on an accelerator, seconds on a CPU.

    Args:
        device: The device, as torch names it; by default the one that notebooks use.
    """
    place = default_device() if device is None else torch.device(device)
    if place.type == "cpu":
        checkpoint, size = load("mid", variant=_VARIANT), _MID
        why = f"{_VARIANT}, mid-size, because a CPU would take hours for the full size: the same program, small numbers"
    else:
        checkpoint, size = blank(_VARIANT).materialize(seed=0), _FULL
        why = f"{_VARIANT} at full size, with random values in place of the released ones: every byte, no download"
    return Trial(checkpoint=checkpoint, request={**_REQUEST, **size}, why=why)
