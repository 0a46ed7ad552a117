"""Timing the link, and what is described with a link that was timed."""

import pytest

from reslab.residency import Confidence, LinkSpeed, bounds, detect, device, measure_link, preset
from reslab.residency._engine import _accelerator

GB = 10**9
LINK = LinkSpeed(
    device="cuda:0",
    pinned_bytes_per_s=20 * GB,
    pageable_bytes_per_s=6 * GB,
    back_bytes_per_s=21 * GB,
    nbytes=2**28,
    repeats=5,
)


class Stopwatch:
    """Shows these seconds for one copy after the other."""

    def __init__(self, seconds):
        self.shown = [shown for each in seconds for shown in (0.0, each)]

    def __call__(self):
        return self.shown.pop(0)


def test_the_best_of_the_repeats_counts_and_each_way_is_timed_by_itself():
    link = measure_link("cpu", nbytes=1_000, repeats=2, clock=Stopwatch([0.5, 0.25, 1.0, 2.0, 0.125, 0.5]))
    assert (link.pinned_bytes_per_s, link.pageable_bytes_per_s, link.back_bytes_per_s) == (4_000, 1_000, 8_000)
    assert (link.device, link.nbytes, link.repeats) == ("cpu", 1_000, 2)


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_pinned_is_unpinned(monkeypatch, fails):
    told = []

    def pin(memory):
        told.append(f"pin {memory.nbytes}")
        return lambda: told.append("unpin")

    monkeypatch.setattr(_accelerator, "pinner", lambda place: pin)
    if fails:
        with pytest.raises(IndexError):
            measure_link("cpu", nbytes=64, repeats=1, clock=Stopwatch([1.0]))
    else:
        measure_link("cpu", nbytes=64, repeats=1, clock=Stopwatch([1.0, 1.0, 1.0]))
    assert told == ["pin 64", "unpin"]


def test_this_machine_copies_at_a_speed_that_is_possible():
    link = measure_link("cpu", nbytes=2**24, repeats=3)
    assert all(10**7 < rate < 10**13 for rate in link.figures.values())


@pytest.mark.parametrize("wrong", [{"nbytes": 0}, {"repeats": 0}])
def test_nothing_to_time_is_refused(wrong):
    with pytest.raises(ValueError, match="whole numbers from 1 up"):
        measure_link("cpu", **wrong)


def test_a_timed_link_takes_the_place_of_the_catalogues():
    card = device("mine", like="RTX 4090", link=LINK)
    assert (card.link_bytes_per_s, card.link_pageable_bytes_per_s, card.link_back_bytes_per_s) == (
        20 * GB,
        6 * GB,
        21 * GB,
    )
    evidence = card.evidence["link_pageable_bytes_per_s"]
    assert evidence.confidence is Confidence.TIMED
    assert evidence.source == "the best of 5 copies of 256 MiB on this machine's cuda:0"
    assert card.matrix_flops_per_s == device("RTX 4090").matrix_flops_per_s


def test_a_machine_with_a_timed_link_moves_weights_though_its_memory_is_one():
    here = detect("cpu", link=LINK, host_memory="64 GiB")
    assert not here.unified
    assert here.link_bytes_per_s == 20 * GB
    assert (here.host_memory_bytes, here.pinnable_bytes) == (64 * 2**30, 64 * 2**30)
    assert here.evidence["host_memory_bytes"].confidence is Confidence.GIVEN


def test_copies_are_bounded_with_the_timed_link():
    from reslab import ltx2

    rehearsal = ltx2.rehearsal("LTX-2.3 distilled", width=768, height=512, num_frames=25)
    limits = bounds(rehearsal, preset("swap", rehearsal), device("mine", like="H100", link=LINK, host_memory="96 GiB"))
    assert sum(row.copy_ns for row in limits.rows) == pytest.approx(limits.moved_bytes / 20, abs=len(limits.rows))
