"""Load a checkpoint: tiny, from a folder, or from the Hub."""

from __future__ import annotations

import os

import torch

from reslab.ltx2._checkpoint import Checkpoint
from reslab.ltx2._tiny import tiny


def load(source: str | os.PathLike[str], *, variant: str | None = None, dtype: torch.dtype | None = None) -> Checkpoint:
    """Load a checkpoint."""
    if source == "tiny":
        return tiny(variant or "LTX-2.3", dtype=dtype or torch.float32)
    raise NotImplementedError
