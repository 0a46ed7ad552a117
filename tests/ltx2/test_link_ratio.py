"""A laptop that copies as slowly, beside its own computing, as a card does: the tiny LTX-2.3 under a card's ratio."""

from dataclasses import replace

import pytest

from reslab import ltx2
from reslab.residency import Plan, apply, bounds, device, layerwise, link_ratio, preset

REQUEST = {"prompt": "a heron", "width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 7}


@pytest.mark.parametrize("name", ["RTX 4090", "H100 SXM 80GB"])
@pytest.mark.parametrize("variant", ["LTX-2.3", "LTX-2.3 distilled"])
def test_the_ratio_is_that_of_the_bounds_when_every_call_copies_its_weights(name, variant):
    card, rehearsal = device(name), ltx2.rehearsal(variant, width=768, height=512, num_frames=25)
    limits = bounds(rehearsal, preset("diffusers sequential offload", rehearsal), card)
    copy_s = limits.moved_bytes / card.link_bytes_per_s  # of pinned memory, which a host may lack for all of it
    assert link_ratio(card, rehearsal).copy_s_per_compute_s == pytest.approx(copy_s / limits.compute_ns * 1e9)


def test_the_first_run_finds_the_bandwidth_that_has_the_ratio_of_the_card_here():
    rehearsal = ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=25)
    ratio = link_ratio(device("H200"), rehearsal)
    off = ltx2.Guidance()
    pipe = ltx2.one_stage(ltx2.load("tiny", variant="LTX-2.3"), video_guidance=off, audio_guidance=off)
    with apply(pipe, Plan.of({"transformer": layerwise()}), link=ratio) as managed:
        pipe.run(**REQUEST)
        sizes = {name: size.weight_bytes for name, size in managed.workload.components.items()}
        copied_bytes = sum(sizes[call.component] for call in managed.workload.calls)
        copy_s = copied_bytes / managed.link_bytes_per_s
        assert copy_s / managed._conductor.compute_s == pytest.approx(ratio.copy_s_per_compute_s)
        found = managed.link_bytes_per_s
        pipe.run(**REQUEST)  # under that bandwidth, which stays as it is
        assert managed.link_bytes_per_s == found


def test_a_card_of_unknown_throughput_is_refused():
    card, rehearsal = device("RTX 4090"), ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=25)
    unknown = replace(card, matrix_flops_per_s={})
    with pytest.raises(ValueError, match="no bfloat16 throughput of RTX 4090 is known"):
        link_ratio(unknown, rehearsal)
