"""What the tests of the profiler share: exact time and memory, a way to tell events, what holds for every profile."""

from contextlib import contextmanager

import polars as pl
import pytest

from reslab.profiler import Profile, Profiler
from reslab.profiler.testing import FakeClock, FakeMemory
from reslab.stages import Kind


def check_invariants(profile):
    """What holds for every profile, however it was made."""
    spans = profile.spans
    check_nesting(spans.filter(lane="host"), "start_ns", "host_ns")
    check_nesting(spans.filter(lane="host").drop_nulls("device_ns"), "device_start_ns", "device_ns")
    check_copies(spans)
    assert (spans["host_ns"] >= 0).all()
    assert (spans["device_ns"].drop_nulls() >= 0).all()
    assert spans["span"].is_unique().all()
    assert set(spans["parent"].drop_nulls()) <= set(spans["span"])
    runs = spans.filter(kind="run")
    assert runs["run"].sort().to_list() == list(range(runs.height))
    borders = spans.drop_nulls("allocated_after_bytes")
    assert (borders["allocated_peak_bytes"] >= borders["allocated_after_bytes"]).all()
    assert (borders["allocated_peak_bytes"] >= borders["allocated_before_bytes"]).all()


def check_nesting(spans, start, length):
    """On one lane what lies inside a span begins and ends inside it, and all of it together takes no longer."""
    own = spans.select("span", start, length)
    pairs = spans.join(own, left_on="parent", right_on="span", how="inner", suffix="_around")
    inside = pairs.group_by("parent").agg(pl.col(length).sum(), pl.col(f"{length}_around").first())
    assert (inside[length] <= inside[f"{length}_around"]).all()
    assert (pairs[start] >= pairs[f"{start}_around"]).all()
    assert (pairs[start] + pairs[length] <= pairs[f"{start}_around"] + pairs[f"{length}_around"]).all()


def check_copies(spans):
    """What is on the copy lane hangs under its run, or under a span of its own lane."""
    around = spans.select("span", "lane", "kind")
    copies = spans.filter(lane="copy").join(around, left_on="parent", right_on="span", how="inner", suffix="_around")
    assert ((copies["kind_around"] == "run") | (copies["lane_around"] == "copy")).all()
    assert spans.filter(pl.col("moved_bytes").is_not_null(), pl.col("kind") != "transfer").is_empty()
    assert spans.filter(pl.col("stall_ns").is_not_null(), pl.col("kind") != "wait").is_empty()
    assert (spans["moved_bytes"].drop_nulls() >= 0).all()


@pytest.fixture(autouse=True)
def invariants(monkeypatch):
    """Check the invariants of every profile that a test makes."""
    made = Profile.__post_init__

    def checked(self):
        made(self)
        check_invariants(self)

    monkeypatch.setattr(Profile, "__post_init__", checked)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def memory():
    return FakeMemory()


@pytest.fixture
def prof(clock, memory):
    return Profiler(clock=clock, memory=memory).start()


@pytest.fixture
def event(prof, clock):
    """A `with` block that is an event for the profiler: it begins, `ns` pass, and it ends after the body."""

    @contextmanager
    def block(kind, name, index=-1, nbytes=0, *, ns=0):
        prof.begin(Kind(kind), name, index, nbytes)
        clock.advance(ns)
        try:
            yield
        except BaseException as error:
            prof.end(error)
            raise
        prof.end()

    return block
