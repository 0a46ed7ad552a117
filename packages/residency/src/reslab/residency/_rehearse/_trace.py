"""One call of a component, operation by operation, and the bytes that are alive meanwhile.

    live = Liveness()
    live.add(tensor), live.hold(weight)
    live.now, live.peak
    trace = Trace(live)             # records operations; `begin` and `end` enclose the segment of a block

A trace is a sequence of segments; a segment has the rows of one block, or of the operations between two blocks. Equal
blocks share their rows, as one list: a trace of 48 equal blocks holds that list once.

`Liveness` counts bytes by storage. Tensors that share a storage are counted once, and a storage is alive until the last
of them is gone: Python's reference counting decides when, as in a real run. Sizes are exact bytes, without the memory
that a kernel allocates for itself. Weights count by their change: 0 as they are stored, less after their release, more
while a copy in another type exists. So a layer that casts its weight during a call counts the copy until its release.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch

from reslab.residency._rehearse._phantom import OperationRow

OUTSIDE = -1


class Segment(NamedTuple):
    """A part of a trace: the number and path of its block, and its operations; `OUTSIDE` between blocks."""

    block: int
    path: str
    rows: list[OperationRow]


class TracePosition(NamedTuple):
    """A position in a trace: segments ended before it, and operations of the open segment."""

    segments: int
    rows: int


class Trace:
    """Records the operations of one component call; `begin` and `end` enclose a segment with those nested in it."""

    def __init__(self, liveness: Liveness) -> None:
        self.liveness = liveness
        self.start_bytes = liveness.now
        liveness.peak = liveness.now
        self.workspace_peak = liveness.now
        self.segments: list[Segment] = []
        self.rows: list[OperationRow] = []
        self._depth = 0

    def __call__(self, row: OperationRow, fresh: list[torch.Tensor], workspace_bytes: int = 0) -> None:
        self.rows.append(row)
        for tensor in fresh:
            self.liveness.add(tensor)
        if workspace_bytes:
            self.workspace_peak = max(self.workspace_peak, self.liveness.now + workspace_bytes)

    def touch(self, extra_bytes: int) -> None:
        """Note bytes that a kernel used for itself while it ran."""
        self.liveness.touch(extra_bytes)

    def begin(self) -> None:
        """Begin a segment, unless one is open."""
        if self._depth == 0:
            self.close()
        self._depth += 1

    def end(self, block: int, path: str) -> None:
        """End the segment that `begin` began."""
        self._depth -= 1
        if self._depth == 0:
            self.close(block, path)

    @property
    def is_open(self) -> bool:
        """Return whether a segment is open, which takes all operations until it ends."""
        return self._depth > 0

    @property
    def is_fresh(self) -> bool:
        """Return whether the open segment is not nested and has no operations yet, so that it may share its rows."""
        return self._depth == 1 and not self.rows

    def mark(self) -> TracePosition:
        """Return the current position, for `since`."""
        return TracePosition(len(self.segments), len(self.rows))

    def since(self, mark: TracePosition, *, shared: bool = False) -> list[Segment]:
        """Return the segments that ended after a position, and last the operations of the open segment.

        Args:
            mark: The position.
            shared: Whether all operations of the open segment came after it, so that its list needs no copy.
        """
        came = [*self.segments[mark.segments :], Segment(OUTSIDE, "", self.rows if shared else self.rows[:])]
        if mark.rows:
            came[0] = came[0]._replace(rows=came[0].rows[mark.rows :])
        return came

    def extend(self, rows: list[OperationRow], *, shared: bool = False) -> None:
        """Append operations that were traced before.

        Args:
            rows: The operations.
            shared: Whether the open segment has no other operations, so that it can share the list.
        """
        if shared:
            self.rows = rows
        else:
            self.rows.extend(rows)

    def close(self, block: int = OUTSIDE, path: str = "") -> None:
        """Make a segment of the operations since the last segment, if there are any."""
        if self.rows:
            self.segments.append(Segment(block, path, self.rows))
            self.rows = []

    @property
    def activation_peak_bytes(self) -> int:
        """Return the most bytes alive at once beyond those alive when the call began."""
        return self.liveness.peak - self.start_bytes

    @property
    def workspace_bytes(self) -> int:
        """Return the bytes that workspaces of convolutions may add to that peak."""
        return max(0, self.workspace_peak - self.liveness.peak)


class Liveness:
    """Counts the bytes of the storages added to it, for as long as each is alive."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._nbytes: dict[int, int] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now on, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._watch(key, storage, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def hold(self, weight: torch.Tensor) -> None:
        """Watch a weight's storage without counting it; `now` falls by its bytes when it is released."""
        storage = weight.untyped_storage()
        if storage._cdata not in self._alive:
            self._watch(storage._cdata, storage, storage.nbytes())

    def touch(self, extra: int) -> None:
        """Note that `extra` bytes beyond those alive now were in use for a moment."""
        self.peak = max(self.peak, self.now + extra)

    def _watch(self, key: int, storage: torch.UntypedStorage, size: int) -> None:
        self._nbytes[key] = size
        self._alive[key] = weakref.ref(storage, lambda _ref: self._gone(key))

    def _gone(self, key: int) -> None:
        del self._alive[key]
        self.now -= self._nbytes.pop(key)
