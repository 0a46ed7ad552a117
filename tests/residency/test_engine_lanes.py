"""A lane that is a thread: what is issued, abandoned, waited for and ended; tensors of a few bytes."""

import gc
import threading
import time
from queue import SimpleQueue

import pytest
import torch

from reslab.residency._engine._lanes import Copy, ThreadLane


class Held:
    """A source of bytes, and a copy that begins when the test lets it."""

    def __init__(self):
        self.go, self.begun, self.made = SimpleQueue(), SimpleQueue(), []

    def staged(self):
        return torch.ones(4, dtype=torch.uint8)

    def copy(self, target, source):
        self.begun.put(None)
        self.go.get(timeout=10)
        target.copy_(source)
        self.made.append(target)

    def begin(self, *_arguments, **_more):
        pass

    end = begin


def issue(lane, held):
    target = torch.zeros(4, dtype=torch.uint8)
    return target, lane.issue(Copy(name="part", nbytes=4, parts=((target, held),), tell=held))


def lanes():
    return [each for each in threading.enumerate() if each.name == "reslab-copy"]


def test_an_abandoned_copy_is_not_made_and_one_under_way_is_waited_for():
    held = Held()
    lane = ThreadLane(copy=held.copy, clock=time.perf_counter)
    (first, under_way), (second, waiting) = (issue(lane, held) for _ in range(2))
    held.begun.get(timeout=10)
    waiting.abandon()
    assert waiting.is_lost()
    assert not under_way.done()
    held.go.put(None)
    under_way.abandon()
    lane.close()
    assert (under_way.done(), under_way.is_lost(), first.tolist(), second.tolist()) == (True, False, [1] * 4, [0] * 4)
    with pytest.raises(RuntimeError, match="abandoned"):
        waiting.wait()


def test_what_a_copy_raises_is_raised_where_it_is_waited_for():
    def broken(_target, _source):
        raise OSError("the disk is gone")

    lane = ThreadLane(copy=broken, clock=time.perf_counter)
    _target, ticket = issue(lane, Held())
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            ticket.wait()
    assert ticket.is_lost()
    lane.close()


def test_a_thread_ends_with_its_lane_closed_or_not_and_a_closed_lane_begins_again():
    held = Held()
    lane = ThreadLane(copy=held.copy, clock=time.perf_counter)
    for _ in range(2):
        _target, ticket = issue(lane, held)
        held.go.put(None)
        ticket.wait()
        assert len(lanes()) == 1
        lane.close()
    _target, ticket = issue(lane, held)
    held.go.put(None)
    ticket.wait()
    del lane, ticket
    gc.collect()
    deadline = time.monotonic() + 10
    while lanes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lanes()


def test_a_copy_that_was_made_keeps_no_memory():
    held = Held()
    lane = ThreadLane(copy=lambda target, source: target.copy_(source), clock=time.perf_counter)
    target, ticket = issue(lane, held)
    ticket.wait()
    assert [each for each in gc.get_referrers(target) if isinstance(each, tuple)] == []
    lane.close()
