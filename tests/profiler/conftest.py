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
    own = spans.select("span", "lane", "start_ns", "host_ns", "run")
    pairs = spans.join(own, left_on=["parent", "lane"], right_on=["span", "lane"], how="inner", suffix="_around")
    inside = pairs.group_by("parent").agg(pl.col("host_ns").sum(), pl.col("host_ns_around").first())
    assert (inside["host_ns"] <= inside["host_ns_around"]).all()
    assert (pairs["start_ns"] >= pairs["start_ns_around"]).all()
    assert (pairs["start_ns"] + pairs["host_ns"] <= pairs["start_ns_around"] + pairs["host_ns_around"]).all()
    assert (spans["host_ns"] >= 0).all()
    assert spans["span"].is_unique().all()
    assert set(spans["parent"].drop_nulls()) <= set(spans["span"])
    runs = spans.filter(kind="run")
    assert runs["run"].sort().to_list() == list(range(runs.height))
    borders = spans.drop_nulls("allocated_after_bytes")
    assert (borders["allocated_peak_bytes"] >= borders["allocated_after_bytes"]).all()
    assert (borders["allocated_peak_bytes"] >= borders["allocated_before_bytes"]).all()


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
def told(prof, clock):
    """A `with` block that tells the profiler of a span: it begins, `ns` pass, and it ends after the body."""

    @contextmanager
    def tell(kind, name, index=-1, nbytes=0, *, ns=0):
        prof.begin(Kind(kind), name, index, nbytes)
        clock.advance(ns)
        try:
            yield
        except BaseException as error:
            prof.end(error)
            raise
        prof.end()

    return tell
