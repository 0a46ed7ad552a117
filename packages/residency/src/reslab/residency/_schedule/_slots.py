"""Slots: the small device memory through which the blocks of a large component stream.

The uses of blocks in a stage are known beforehand, so the next block that will be needed gets the slot of a block whose
turn is over. Such a slot always exists, since there is one slot more than blocks fetched ahead. A block that is still
in its slot when its turn comes again is not fetched again; that happens only if all streaming blocks of a stage fit.

    slots = Slots(uses=(0, 1, 2, 0, 1, 2), prefetch=1)
    list(slots.advance(0))       # before the first use: [(None, 0, 0), (None, 1, 1)], evicted, fetched, slot
    list(slots.advance(1))       # [(0, 2, 0)]: block 2 takes the slot of block 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple


class SlotChange(NamedTuple):
    """A slot passes from one block to another."""

    evicted: int | None
    fetched: int
    slot: int


class Slots:
    """The slots of one component in one stage, and the block in each, use by use."""

    def __init__(self, *, uses: Sequence[int], prefetch: int) -> None:
        self.uses = uses
        self.prefetch = prefetch
        self.count = min(prefetch + 1, len(set(uses)))  # more slots than blocks would stay empty
        self.held: dict[int, int] = {}  # block → slot, the least recently used first
        self.issued = 0  # uses whose block has a slot already

    def advance(self, use: int) -> Iterator[SlotChange]:
        """Give slots to the blocks of this use and of the `prefetch` uses after it; yield each change of a slot."""
        while self.issued <= min(use + self.prefetch, len(self.uses) - 1):
            block = self.uses[self.issued]
            if block in self.held:
                self.held[block] = self.held.pop(block)
            else:
                yield self._admit(block, needed=self.uses[use : self.issued])
            self.issued += 1

    def _admit(self, block: int, *, needed: Sequence[int]) -> SlotChange:
        evicted, slot = free_slot(self.held, self.count, needed)
        if evicted is not None:
            del self.held[evicted]
        self.held[block] = slot
        return SlotChange(evicted, block, slot)


def free_slot(held: Mapping[int, int], count: int, needed: Sequence[int] = ()) -> tuple[int | None, int]:
    """Return the block to evict, None if a slot is free, and the slot for the next block.

    >>> free_slot({7: 0}, 2), free_slot({7: 0, 3: 1}, 2), free_slot({7: 0, 3: 1}, 2, needed=[7])
    ((None, 1), (7, 0), (3, 1))

    Args:
        held: The slot of each block, the least recently used block first.
        count: The number of slots.
        needed: Blocks that may not be evicted, since their turn is coming.
    """
    if len(held) < count:
        taken = set(held.values())
        return None, next(slot for slot in range(count) if slot not in taken)
    evicted = next(block for block in held if block not in needed)
    return evicted, held[evicted]


def streamed_bytes(calls: Sequence[Sequence[int]], *, prefetch: int, nbytes: Callable[[int], int]) -> int:
    """Return the bytes that go through the slots in one stage.

    >>> streamed_bytes([(0, 1, 2)] * 10, prefetch=1, nbytes=lambda block: 100), \
        streamed_bytes([(0, 1)] * 10, prefetch=1, nbytes=lambda block: 100)
    (3000, 200)

    Args:
        calls: The blocks that stream in each call.
        prefetch: The number of blocks fetched ahead.
        nbytes: Returns the bytes of a block.
    """
    # equal calls, each block once: all blocks fit and are fetched once, or each is evicted before its next turn
    if all(call is calls[0] or call == calls[0] for call in calls) and len(set(calls[0])) == len(calls[0]):
        times = len(calls) if len(calls[0]) > prefetch + 1 else 1
        return times * sum(map(nbytes, calls[0]))
    uses = [block for call in calls for block in call]
    slots = Slots(uses=uses, prefetch=prefetch)
    return sum(nbytes(change.fetched) for use in range(len(uses)) for change in slots.advance(use))
