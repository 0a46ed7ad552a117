"""How many bytes are alive, by storage.

Tensors that share a storage are counted once, and a storage is alive until the last of them is gone: Python's own
reference counting says when, as in a real run. Sizes are exact bytes; what a kernel allocates for itself is not seen.

Weights count by what they change: 0 as they are stored, less once they are released, more once a copy in another type
takes their place. So a layer that casts its weight for the duration of a call has the copy among what is alive, and
nothing is left of it afterwards.

    live = Liveness()
    live.add(tensor), live.hold(weight)
    live.now, live.peak
"""

from __future__ import annotations

import weakref

import torch


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
        """Take a weight's storage as given: it is no part of `now`, which falls by its bytes when it is released."""
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
