"""Moves: what the engine does and the simulation times, one by one.

Move(Act.FETCH, "transformer", 3, 773_000_000, 0, "LTX2AVDenoisingStage", 7)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import polars as pl


class Act(StrEnum):
    """What a move does."""

    FETCH = "fetch"  # copy to the device; issued, not waited for
    EVICT = "evict"  # let go of the device's copy by re-pointing
    COPY_BACK = "copy back"  # copy to the host, where another tool does so before it evicts
    WAIT = "wait"  # until a fetch has arrived
    COMPUTE = "compute"  # run a block, or a whole call


class Move(NamedTuple):
    """One move. `block` is a number, -1 for what lies outside the blocks, None for the whole component."""

    act: Act
    component: str
    block: int | None
    nbytes: int
    slot: int | None  # which slot, for what streams
    stage: str | None  # None: before the run
    call: int | None  # which call of the workload; None at a border


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The moves of one run, in order."""

    moves: tuple[Move, ...]

    def moved_bytes(self, act: Act = Act.FETCH, *, stage: str | None = None) -> int:
        """Return the bytes that fetches (or copies back) move in the run, or in one stage; what is fetched before not.

        Args:
            act: FETCH or COPY_BACK.
            stage: A registered name; None counts all stages.
        """
        return sum(
            move.nbytes
            for move in self.moves
            if move.act is act and move.stage is not None and stage in (None, move.stage)
        )

    def frame(self) -> pl.DataFrame:
        """Return a row a move: act, component, block, nbytes, slot, stage, call."""
        from reslab.residency._plan._tables import moves

        return moves(self.moves)

    def __repr__(self) -> str:
        return f"Schedule(moves={len(self.moves)}, fetched_bytes={self.moved_bytes()})"
