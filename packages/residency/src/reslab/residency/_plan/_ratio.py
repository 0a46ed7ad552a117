"""How copying relates to computing on a card: what a link here can be held to, so that it feels as it does there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How long it takes to copy the weights of every call of a run, for each second that the calls compute."""

    copy_s_per_compute_s: float

    def rate(self, *, copied_bytes: int, compute_s: float) -> float:
        """Return the bytes a second with which copying takes that much longer than computing.

        >>> Ratio(copy_s_per_compute_s=2.0).rate(copied_bytes=1000, compute_s=5.0)
        100.0
        """
        return copied_bytes / (self.copy_s_per_compute_s * compute_s)
