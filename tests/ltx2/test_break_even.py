"""What streaming LTX-2.3 costs by card and size: against the published picture, and in shape."""

import pytest

from reslab.ltx2 import rehearsal
from reslab.residency import Plan, bounds, break_even, break_even_tokens, charts, device, layerwise, survey

CARDS = ("RTX 5090", "RTX 4090", "A100", "H100")
SIZES = ((768, 512), (1536, 1024), (1920, 1088))


@pytest.fixture(scope="module")
def runs():
    return [rehearsal("LTX-2.3", width=width, height=height, num_frames=121) for width, height in SIZES]


@pytest.fixture(scope="module")
def table(runs):
    return break_even(runs, [device(name) for name in CARDS])


#: A roofline by hand, without a LoRA: pinned memory, a pass of 6144 tokens, matrix products and attention alone.
PUBLISHED = {"RTX 5090": (1.00, 0), "RTX 4090": (1.23, 10), "A100": (1.84, 22), "H100": (2.58, 30)}


@pytest.mark.parametrize("name", CARDS)
def test_streaming_every_block_costs_what_a_roofline_by_hand_says(runs, name):
    ratio, keep = PUBLISHED[name]
    table = break_even(runs, [device(name)], lora="merged")
    denoising = table.filter(size="1536×1024×121", stage="LTX2AVDenoisingStage", device=device(name).name)
    row = denoising.row(0, named=True)
    assert row["tokens"] == 6144
    assert row["fused_ratio"] == pytest.approx(ratio, rel=0.03)
    assert abs(row["fused_keep"] - keep) <= 1


def test_the_larger_the_video_the_cheaper_streaming(table):
    for (_, _), part in table.group_by("device", "stage"):
        assert part.sort("tokens")["ratio"].is_sorted(descending=True)
    at_full_size = table.filter(tokens=24576)
    assert at_full_size["fused_ratio"].to_list() == [1.0] * len(CARDS)


def test_the_faster_the_card_for_its_link_the_larger_its_break_even(table):
    tokens = dict(break_even_tokens(table, ratio="fused_ratio").rows())
    order = [tokens[device(name).name] for name in CARDS]
    assert order == sorted(order)


def test_every_card_has_a_plan_that_fits_at_every_size(runs):
    cards = [device(name) for name in ("RTX 3060 12GB", "RTX 4090", "H100", "H200", "B200")]
    rows = survey(runs, cards).frame
    assert rows["fits"].all()
    assert rows.filter(device="B200")["plan"].unique().to_list() == ["all resident"]
    assert (rows["floor_s"] <= rows["ceiling_s"]).all()
    assert (rows["resident_s"] <= rows["floor_s"]).all()


@pytest.mark.parametrize("name", ["RTX 4090", "H100", "B200"])
@pytest.mark.parametrize("frames", [25, 121])
def test_streaming_costs_the_same_by_the_picture_and_by_the_bounds_of_a_plan(name, frames):
    run, card = rehearsal("LTX-2.3", width=768, height=512, num_frames=frames), device(name)
    streams = bounds(run, Plan.of({"transformer": layerwise()}), card).stages()
    stays = bounds(run, Plan.of(), card).stages()
    both = streams.join(stays, on="stage", suffix="_resident").cast({"stage": str})
    ratios = dict(both.select("stage", both["floor_ns"] / both["compute_ns_resident"]).rows())
    for row in break_even([run], [card]).rows(named=True):
        assert row["ratio"] == pytest.approx(ratios[row["stage"]], rel=0.03)


def test_the_hosts_time_is_in_the_picture_so_a_fast_card_loses_eleven_times_and_not_forty():
    # a pass issues 14,376 operations at 5 µs: 71.9 ms; 45.2 GB with the LoRA over 55.4 GB/s take 816 ms
    run = rehearsal("LTX-2.3", width=768, height=512, num_frames=25)
    both = {lora: break_even([run], [device("B200")], lora=lora).row(0, named=True) for lora in ("dynamic", "merged")}
    assert both["dynamic"]["tokens"] == 384
    assert both["dynamic"]["compute_ns"] == both["dynamic"]["fused_ns"] == pytest.approx(71.9e6, rel=0.01)
    assert both["dynamic"]["ratio"] == pytest.approx(816 / 71.9, rel=0.01)
    assert both["merged"]["ratio"] == pytest.approx(670 / 71.9, rel=0.01)
    caption = charts.offloading(break_even([run], [device("B200")])).caption
    assert "at 384 tokens ×11 on the B200" in caption
    assert "the host's time" in caption
