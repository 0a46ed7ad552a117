"""The errors that the engine raises."""

from __future__ import annotations

import torch


class ResidencyError(ValueError):
    """Something cannot be done to weights that a residency manages; it says what to do instead."""


class WeightsAbsent(ResidencyError):
    """A module was called whose weights are not on the device; names component, block and stage."""


class OutOfMemory(torch.OutOfMemoryError):
    """The device's memory did not suffice; says for which stage, how much was asked, what was free, and who held it."""
