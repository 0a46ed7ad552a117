"""What runs between component calls, counted by stage: schedulers, guidance, latents, post-processing."""

from __future__ import annotations

import torch

from reslab.residency._rehearse._costs import UNKNOWN
from reslab.residency._rehearse._liveness import Liveness
from reslab.residency._rehearse._phantom import Row


class Glue:
    """Counts the operations of one stage that lie outside components."""

    def __init__(self, stage: str, registered_name: str, liveness: Liveness) -> None:
        self.stage, self.registered_name, self.liveness = stage, registered_name, liveness
        self.operations = self.flops = self.read_bytes = self.written_bytes = 0
        self.peak_bytes = liveness.now
        self.unknown: list[Row] = []

    def __call__(self, row: Row, fresh: list[torch.Tensor], workspace_bytes: int = 0) -> None:
        self.operations += 1
        self.flops += row.flops
        self.read_bytes += row.read_bytes
        self.written_bytes += row.written_bytes
        if row.kind == UNKNOWN:
            self.unknown.append(row)
        for tensor in fresh:
            self.liveness.add(tensor)
        self.peak_bytes = max(self.peak_bytes, self.liveness.now)

    def touch(self, extra_bytes: int) -> None:
        """Note bytes that a kernel had for itself while it ran."""
        self.peak_bytes = max(self.peak_bytes, self.liveness.now + extra_bytes)

    def row(self) -> tuple[str, str, int, int, int, int, int]:
        """The stage's row of the frame `glue`."""
        counted = self.operations, self.flops, self.read_bytes, self.written_bytes, self.peak_bytes
        return self.stage, self.registered_name, *counted
