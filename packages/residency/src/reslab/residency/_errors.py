"""Errors of the engine: refusals, absent weights, and exhausted memory."""

from __future__ import annotations

import torch


class ResidencyError(ValueError):
    """A residency cannot do something to the weights that it manages; the message says what to do instead."""


class WeightsAbsent(ResidencyError):
    """A module was called while its weights are not on the device; the message names component, block and stage."""


class OutOfMemory(torch.OutOfMemoryError):
    """The device ran out of memory; the message names the stage, the bytes asked for and free, and their holders."""
