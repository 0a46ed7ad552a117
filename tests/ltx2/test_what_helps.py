"""What to change first is computed for the card that is asked about, and what is said is what is in the frame."""

import polars as pl
import pytest

from reslab.ltx2 import rehearsal
from reslab.residency import device, survey, what_helps


@pytest.fixture(scope="module")
def video():
    return rehearsal("LTX-2.3", width=768, height=512, num_frames=121)


@pytest.fixture(scope="module")
def distilled():
    return rehearsal("LTX-2.3 distilled", width=768, height=512, num_frames=121)


def by_change(advice):
    return {row["change"]: row for row in advice.frame.rows(named=True)}


def test_a_pc_that_streams_from_disk_wants_host_memory_and_no_faster_link(video, distilled):
    advice = what_helps(
        video, device("RTX 4060 Ti 16GB", host_memory="32 GiB"), instead={"LTX-2.3 distilled": distilled}
    )
    rows = by_change(advice)
    assert list(rows)[:2] == ["as it is", "LTX-2.3 distilled"]
    assert "memory of the host ×2 helps most" in advice.says
    assert "Link ×2 does not help." in advice.says
    assert rows["link ×2"]["floor_s"] == rows["as it is"]["floor_s"]
    assert f"As it is: at least {rows['as it is']['floor_s']:,.0f} s" in advice.says
    assert advice.says.index("costs nothing") < advice.says.index("helps most")


def test_a_card_that_streams_from_the_host_wants_a_faster_link_or_more_memory(video):
    advice = what_helps(video, device("RTX 4090", host_memory="128 GiB"))
    rows = by_change(advice)
    assert "Memory of the host ×2 and disk ×2 do not help." in advice.says
    assert rows["link ×2"]["floor_s"] < rows["as it is"]["floor_s"]
    assert (
        rows["memory of the card ×2"]["keep"] is None
        or rows["memory of the card ×2"]["keep"] > rows["as it is"]["keep"]
    )


def test_a_change_is_surveyed_like_any_card_with_that_figure(video):
    twice = survey(video, device("x", like="RTX 4090", host_memory="128 GiB"))[0]
    row = by_change(what_helps(video, device("x", like="RTX 4090", host_memory="64 GiB")))["memory of the host ×2"]
    assert row["floor_s"] == pytest.approx(twice.bounds.floor_ns / 1e9)
    assert row["plan"] == twice.plan.name


def test_where_the_host_decides_it_is_said_that_no_card_helps(video):
    advice = what_helps(video, device("B200"))
    assert "The host takes most of that to issue operations, 5 µs each" in advice.says
    assert advice.says.endswith("memory of the card ×2, memory of the host ×2 and disk ×2 do not help.")


def test_what_does_not_fit_says_so_and_what_would(video):
    advice = what_helps(video, device("small", like="RTX 4090", memory="4 GiB"))
    assert advice.says.startswith("It does not fit as it is.")
    assert advice.says.endswith(" either.") or "helps most" in advice.says
    assert advice.frame.schema["faster"] == pl.Float64
    assert not advice.frame.row(0, named=True)["fits"]
