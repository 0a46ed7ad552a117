"""Memory at the borders of runs and stages: every pool, a manager's own books, and a peak that is the stage's own."""

import mmap
import os
import sys

import pytest

from reslab.profiler import Profiler, process_memory
from reslab.profiler.testing import FakeClock, FakeMemory


class Manager:
    """Keeps books by name."""

    def __init__(self, **held):
        self.held = held

    def counters(self):
        return self.held


def samples(profile):
    return profile.memory.select("at_ns", "pool", "component", "allocated_bytes", "peak_bytes").rows()


def test_every_pool_is_sampled_and_the_first_fills_the_columns():
    clock, device, host = FakeClock(), FakeMemory(), FakeMemory(pool="host")
    with Profiler(clock=clock, memory=[device, host]) as prof:
        prof.begin("run", "lab")
        clock.advance(5)
        device.allocate(300)
        host.allocate(40)
        device.allocate(-100)
        prof.end()
    assert samples(prof.profile) == [
        (0, "device", None, 0, 0),
        (0, "host", None, 0, 0),
        (5, "device", None, 200, 300),
        (5, "host", None, 40, 40),
    ]
    columns = [f"allocated_{when}_bytes" for when in ("before", "after", "peak")]
    assert prof.profile.spans.select(columns).rows() == [(0, 200, 300)]


def test_a_managers_counters_are_samples_of_a_pool_or_of_a_component_in_it():
    clock, manager = FakeClock(), Manager(pinned=7, **{"device/transformer": 100})
    with Profiler(clock=clock, memory=None, counters=manager) as prof:
        prof.begin("run", "lab")
        manager.held["device/transformer"] = 0
        clock.advance(9)
        prof.end()
    assert samples(prof.profile) == [
        (0, "pinned", None, 7, None),
        (0, "device", "transformer", 100, None),
        (9, "pinned", None, 7, None),
        (9, "device", "transformer", 0, None),
    ]
    assert prof.profile.spans["allocated_peak_bytes"].to_list() == [None]


def test_peaks_are_a_stages_own_and_what_it_kept_is_said(event, prof, memory):
    """Encode needs 50 for a while and keeps 10; decode needs 5; between them the run itself needs 300."""
    for _ in range(2):
        with event("run", "lab"):
            with event("stage", "encode"):
                memory.allocate(50)
                memory.allocate(-40)
            memory.allocate(290)
            memory.allocate(-290)
            with event("stage", "decode"):
                memory.allocate(5)
                memory.allocate(-5)
    assert prof.profile.peaks().rows() == [
        ("lab", None, 2, 0, 20, 310, 20),
        ("lab", "encode", 2, 0, 20, 60, 20),
        ("lab", "decode", 2, 10, 20, 25, 0),
    ]


def test_a_nested_runs_peak_is_its_parents_too(event, prof, memory):
    with event("run", "outer"), event("stage", "both"), event("run", "inner"), event("stage", "decode"):
        memory.allocate(80)
        memory.allocate(-80)
    assert prof.profile.spans["allocated_peak_bytes"].to_list() == [80] * 4


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux says and forgets a process's peak")
def test_the_peak_of_this_process_is_what_was_needed_since_the_last_reading():
    memory = process_memory()
    memory.read()
    with mmap.mmap(-1, 64 << 20) as needed:  # memory of its own: the heap may have as much to spare
        needed.write(b"x" * len(needed))
    used, after = memory.read(), memory.read()
    assert used.peak_bytes - used.allocated_bytes > 48 << 20
    assert after.peak_bytes - after.allocated_bytes < 16 << 20


def test_without_proc_psutil_is_asked_if_it_is_there(monkeypatch):
    from reslab.profiler._record import _memory

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(_memory, "find_spec", lambda _: None)
    assert _memory._process_memory.__wrapped__(0) is None

    class Process:
        def memory_info(self):
            return type("Info", (), {"rss": 4096})

    monkeypatch.setattr(_memory, "find_spec", lambda _: "found")
    monkeypatch.setitem(sys.modules, "psutil", type("psutil", (), {"Process": Process}))
    assert _memory._process_memory.__wrapped__(0).read() == (4096, 4096)
