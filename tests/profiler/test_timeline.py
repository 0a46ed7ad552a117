"""The timeline: what is drawn on which lane, what is resident meanwhile, and what the caption says."""

import base64
from contextlib import suppress

import polars as pl
import pytest

from reslab.profiler import PALETTE, Profile, memory_frame, spans_frame
from reslab.profiler._report._figure import component_hues
from reslab.profiler._report._timeline import covered_ns, first_pool, lane_bars, pool_bytes, resident_bytes
from reslab.profiler.toy import Toy

GIB = 2**30
MS = 1_000_000


def spans(*rows):
    """A frame of spans that all lie in run 0, numbered as they come."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return spans_frame(span=range(len(rows)), run=[0] * len(rows), **columns)


def drawn(figure):
    """The bars of a timeline; Altair gathers what both halves share at the top."""
    return (figure.spec["vconcat"][0] | figure.spec)["data"]["values"]


@pytest.fixture
def device_profile():
    """One stage on the host for 5 ms, whose call runs on the device from 4 to 84 ms while 700 MiB are copied."""
    call = {"component": "transformer", "stage": "denoise"}
    frame = spans(
        {"kind": "run", "lane": "host", "name": "lab", "start_ns": 0, "host_ns": 100 * MS},
        {"kind": "stage", "lane": "host", "name": "denoise", "stage": "denoise", "parent": 0, "start_ns": MS}
        | {"host_ns": 5 * MS, "device_start_ns": 3 * MS, "device_ns": 90 * MS},
        {
            "kind": "component call",
            "lane": "host",
            "name": "transformer.forward",
            "parent": 1,
            "start_ns": 2 * MS,
            **call,
        }
        | {"host_ns": 3 * MS, "device_start_ns": 4 * MS, "device_ns": 80 * MS},
        {"kind": "transfer", "lane": "copy", "name": "transformer/7", "parent": 0, "start_ns": 2 * MS, **call}
        | {"host_ns": MS, "device_start_ns": 10 * MS, "device_ns": 20 * MS, "moved_bytes": 700 * 2**20},
        {"kind": "wait", "lane": "host", "name": "vae", "parent": 0, "start_ns": 90 * MS, "host_ns": 4 * MS}
        | {"stall_ns": 4 * MS, "component": "vae"},
    )
    memory = memory_frame(
        at_ns=[0, 0, 50 * MS, 60 * MS],
        pool=["device"] * 4,
        component=[None, "transformer", "transformer", None],
        allocated_bytes=[6 * GIB, 4 * GIB, 5 * GIB, 8 * GIB],
        peak_bytes=[6 * GIB, None, None, 11 * GIB],
    )
    return Profile(spans=frame, memory=memory, meta={"device": {"memory_bytes": 24 * GIB}})


def test_each_span_is_drawn_on_the_lane_it_occupied(device_profile):
    bars = lane_bars(device_profile.spans).with_columns(pl.col("start_ns", "end_ns") // MS)
    assert bars.select("lane", "label", "component", "start_ns", "end_ns").rows() == [
        ("host: stages", "denoise", None, 1, 6),
        ("host: calls", "transformer.forward", "transformer", 2, 5),
        ("compute", "transformer.forward", "transformer", 4, 84),
        ("copy", "transformer/7", "transformer", 10, 30),
        ("stall", "vae", "vae", 90, 94),
    ]


def test_rows_that_a_prediction_puts_on_the_compute_lane_are_drawn_there():
    times = {"start_ns": 0, "host_ns": 0, "device_start_ns": 5, "device_ns": 7}
    bars = lane_bars(spans({"kind": "component call", "lane": "compute", "name": "vae.decode", **times}))
    assert bars.select("lane", "start_ns", "end_ns").rows() == [("compute", 5, 12)]


def test_time_covered_counts_overlaps_once_and_gaps_never():
    bars = pl.DataFrame({"start_ns": [0, 2, 3, 20], "end_ns": [10, 4, 12, 25]})
    assert covered_ns(bars) == 12 + 5
    assert covered_ns(bars.clear()) == 0


def test_residents_are_steps_and_what_no_component_holds_is_other(device_profile):
    held = resident_bytes(device_profile.memory, pool="device").with_columns(pl.col("resident_bytes") // GIB)
    assert held.with_columns(pl.col("at_ns") // MS).rows() == [
        (0, "transformer", 4),
        (50, "transformer", 5),
        (60, "transformer", 5),
        (0, "other", 2),
        (60, "other", 3),
    ]
    assert pool_bytes(device_profile.memory, pool="device")["peak_bytes"].to_list() == [6 * GIB, 11 * GIB]


def test_the_devices_memory_is_drawn_first_and_a_pool_can_be_chosen(device_profile):
    host = memory_frame(at_ns=[0], pool=["host"], allocated_bytes=[3 * GIB], peak_bytes=[3 * GIB])
    both = pl.concat([host, device_profile.memory])
    assert (first_pool(both), first_pool(host), first_pool(memory_frame())) == ("device", "host", None)
    profile = Profile(spans=device_profile.spans, memory=both)
    assert profile.timeline(pool="host").caption.endswith("host memory peaked at 3 GiB.")


def test_the_caption_says_how_busy_each_lane_was_and_the_peak(device_profile):
    assert device_profile.timeline().caption == (
        "100 ms of 'lab'; compute was busy for 80 %; copies took 20 %; stalls took 4 %; device memory peaked at 11 GiB."
    )


def test_the_timeline_has_lanes_over_memory_that_zoom_together(device_profile):
    spec = device_profile.timeline().spec
    lanes, memory = spec["vconcat"]
    domain = lanes["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert domain == ["host: stages", "host: calls", "compute", "copy", "stall"]
    (zoom,) = spec["params"]
    views = [layer["name"] for part in (lanes, memory) for layer in part["layer"] if "name" in layer]
    assert (zoom["views"], zoom["bind"]) == (views, "scales")
    rules = [layer["data"]["values"] for layer in memory["layer"] if layer["mark"]["type"] == "rule"]
    assert rules == [[{"size": 24}]]
    texts = [layer["data"]["values"] for layer in memory["layer"] if layer["mark"]["type"] == "text"]
    assert texts == [[{"size": 11, "text": "peak"}], [{"size": 24, "text": "24 GiB of device memory"}]]


def test_one_colour_means_one_component_in_both_halves(device_profile):
    spec = device_profile.timeline().spec
    drawn, areas = (part["layer"][0]["encoding"]["color"] for part in spec["vconcat"])
    scale = {"domain": ["transformer", "stall", "other"]}
    scale["range"] = [PALETTE["blue"], PALETTE["vermilion"], PALETTE["grey"]]
    assert areas["scale"] == scale
    assert scale in (drawn.get("scale"), drawn.get("condition", {}).get("scale"))


def test_the_host_lane_alone_is_a_timeline_too(event, prof):
    with event("run", "lab", ns=10), event("stage", "encode", ns=90):
        pass
    profile = Profile(spans=prof.profile.spans)
    figure = profile.timeline()
    assert figure.caption == "100 ns of 'lab'."
    assert len(figure.spec["vconcat"]) == 1
    data, metadata = figure._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == figure.caption


def test_an_empty_profile_has_a_timeline():
    assert Profile(spans=spans_frame()).timeline().caption == "0 ns."


def test_a_tooltip_says_what_moved_and_what_failed(event, prof):
    with suppress(RuntimeError), event("run", "lab"), event("stage", "encode", ns=90):
        with event("transfer", "vae/3", nbytes=2**20, ns=10):
            pass
        raise RuntimeError
    bars = {bar["lane"]: bar for bar in drawn(prof.profile.timeline())}
    assert bars["host: stages"]["label"] == "encode (RuntimeError)"
    assert (bars["copy"]["moves"], bars["copy"]["takes"]) == ("1 MiB", "10 ns")


def test_thousands_of_spans_leave_the_longest_and_that_is_said():
    rows = [{"kind": "component call", "lane": "host", "name": "vae.decode", "start_ns": 10 * n} for n in range(4010)]
    frame = spans(*(row | {"host_ns": 1 + (n >= 10)} for n, row in enumerate(rows)))
    figure = Profile(spans=frame).timeline()
    assert figure.caption.endswith("the 4000 longest of 4010 spans are drawn.")
    assert min(bar["start"] for bar in drawn(figure)) == 100 / 1000  # the ten short ones came first


def test_a_component_keeps_its_hue_whoever_else_is_there():
    for others in ([], ["upsampler"], ["text_encoder", "vae"]):
        assert component_hues([*others, "transformer"])["transformer"] == PALETTE["blue"]
    both = component_hues(
        ["vocoder", "transformer", "transformer+lora", "text_encoder", "connectors", "vae", "audio_vae"]
    )
    assert both["transformer+lora"] == component_hues(["vocoder"])["vocoder"] == PALETTE["sky"]
    assert both["vocoder"] == PALETTE["grey"]
    many = component_hues([f"part {n}" for n in range(8)])
    assert len(set(many.values())) == 7
    assert many["part 7"] == PALETTE["grey"]
    assert PALETTE["vermilion"] not in many.values()


def test_a_slow_first_step_is_seen(event, prof):
    with event("run", "lab"), event("stage", "denoise"):
        for step, ns in enumerate((90, 20, 30, 40)):
            with event("step", "step", step, ns=ns):
                pass
    with event("run", "lab"), event("stage", "refine"), event("step", "step", 0, ns=70):
        pass
    figure = prof.profile.step_bars()
    first = "The first step of denoise took 90 ns, 3.0 times the median of the 3 others"
    assert figure.caption == f"{first}; The only step of refine took 70 ns."
    bars = figure.spec["hconcat"][0]["layer"][0]["data"]["values"]
    assert [bar["text"] for bar in bars] == ["3.0 ×", "", "", "1.3 ×"]
    assert bars[0]["color"] == PALETTE["orange"]
    assert bars[1]["color"] == PALETTE["blue"]


def test_a_profile_without_steps_says_what_to_draw_instead():
    with pytest.raises(ValueError, match=r"no denoising step was recorded.*bars\(\)"):
        Profile(spans=spans_frame()).step_bars()


def test_steps_are_drawn_as_the_device_took_them_where_it_was_timed():
    row = {"kind": "step", "lane": "host", "name": "step", "stage": "denoise", "host_ns": 1}
    times = enumerate((40, 20, 20))
    steps = [row | {"step": n, "start_ns": n, "device_start_ns": 10 * n, "device_ns": ns} for n, ns in times]
    run = {"kind": "run", "lane": "host", "name": "lab", "start_ns": 0, "host_ns": 9}
    figure = Profile(spans=spans(run, *steps)).step_bars()
    assert figure.caption == "The first step of denoise took 40 ns, 2.0 times the median of the 2 others."


def test_bars_are_as_long_as_the_device_took_and_say_what_the_host_took():
    figure = Toy().profile(steps=4).bars()
    assert [bar["text"] for bar in figure.spec["data"]["values"]] == [
        "20 ms · 12 % · 2 ms on the host",
        "120 ms · 71 % · 12 ms on the host",
        "30 ms · 18 % · 156 ms on the host",
        "0 ns · 0 %",
    ]
    taken = "denoise took 71 % of the 170 ms of 'toy' on the device"
    assert figure.caption == f"{taken}; 0 % of the host's time was spent outside any stage."


def test_a_copy_that_is_waited_for_is_a_stall():
    bars = lane_bars(Toy(synchronize=True).profile(steps=4).spans)
    assert bars.filter(lane="stall").select(pl.col("start_ns", "end_ns") // MS).rows() == [(140, 180)]
    assert "stall" not in lane_bars(Toy().profile(steps=4).spans)["lane"]  # it was there when it was wanted
