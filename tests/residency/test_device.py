"""The catalogue: every figure has a source, every name is found, what the user gives goes first and says so."""

import csv
import dataclasses
from importlib.resources import files

import pytest

from reslab.residency import Confidence, DeviceError, device, devices

GIB = 2**30
MEASURED_ONES = (
    *("T4", "L4", "A10G", "L20", "L40S", "RTX 3060 12GB", "RTX 3090", "RTX 4060 Ti 16GB", "RTX 4090", "RTX 5070 Ti"),
    *("RTX 5090", "RTX PRO 6000", "A100", "H100 PCIe", "H100", "H200", "H200 MIG 3g.71gb", "B200", "GH200", "GB200"),
)
#: Figures of the vendors' sheets and of published measurements, by hand.
KNOWN = {
    "T4": (320, 8.1, 12.5),
    "RTX 4090": (1010, 165, 25),
    "A100": (2039, 268, 26.1),
    "H100": (3350, 790, 55.4),
    "B200": (8000, 1710, 55.4),
    "GH200": (4000, 828, 338),
    "NVIDIA GeForce RTX 5080": (960, 112.6, 55.4),
    "NVIDIA RTX A6000": (768, 154.8, 25),
    "AMD Radeon RX 7900 XTX": (960, 122.8, 25),
    "AMD Instinct MI300X": (5300, 668, 55.4),
    "Intel(R) Arc(TM) B580 Graphics": (456, 109.4, 12.5),
    "Apple M4 Max": (546, 18.4, 546),
}
#: The names that drivers give to cards which the first catalogue did not have (issue of selfhostllm, LTX-Desktop).
ASKED_FOR = {
    "NVIDIA GeForce RTX 5080": "RTX 5080",
    "NVIDIA GeForce RTX 5070": "RTX 5070",
    "NVIDIA GeForce RTX 5060 Ti": "RTX 5060 Ti 16GB",
    "NVIDIA GeForce RTX 4080 SUPER": "RTX 4080 SUPER",
    "NVIDIA GeForce RTX 4070": "RTX 4070",
    "NVIDIA GeForce RTX 3080": "RTX 3080 10GB",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA L40": "L40",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA A100-PCIE-40GB": "A100 PCIe 40GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80GB",
    "Tesla P100-PCIE-16GB": "P100 PCIe 16GB",
    "NVIDIA GeForce RTX 4060 Laptop GPU": "RTX 4060 Laptop",
}
#: What figures of the files can be; the other confidences come from the user and the machine.
WRITTEN = {Confidence.MEASURED, Confidence.VENDOR, Confidence.PUBLISHED, Confidence.DERIVED, Confidence.ASSUMED}
#: FLOP a clock and unit in 16 bit with float32 accumulation, by the source that derives a rate from them.
PER_CLOCK = {"ga10x": 512, "ad10x": 512, "gb20x": 512, "ga10x-pro": 1024, "ad10x-pro": 1024, "gb20x-pro": 1024}
PER_CLOCK |= {"volta": 1024, "pascal": 256, "xe2": 2048}


def read(name):
    text = (files("reslab.residency._device") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="module")
def rows():
    return read("devices.csv")


@pytest.fixture(scope="module")
def cards():
    return read("cards.csv")


def test_every_measured_device_has_the_same_figures(rows):
    figures = {row["device"]: [] for row in rows}
    for row in rows:
        figures[row["device"]].append(row["figure"])
    assert {tuple(each) for each in figures.values()} == {tuple(figures["T4"])}
    assert len(figures["T4"]) == len(set(figures["T4"]))


def test_every_figure_has_a_source_or_says_how_it_was_derived(rows):
    for row in rows:
        assert row["confidence"] in ("measured", "vendor", "assumed"), row
        if row["confidence"] == "assumed":
            assert row["derived"] or row["source"], row
        else:
            assert row["source"], row


def test_every_figure_of_every_card_says_where_it_is_from(cards):
    sources = {row["source"] for row in read("sources.csv")}
    pairs = {"memory_gib": "memory_by", "bandwidth_gb_s": "bandwidth_by", "bfloat16_tflops": "matrix_by"}
    pairs |= {"float16_tflops": "matrix_by", "attention_tflops": "matrix_by", "float32_tflops": "float32_by"}
    pairs |= {"float8_tflops": "eight_by", "int8_tops": "eight_by"}
    for row in cards:
        for figure, said in pairs.items():
            if row[figure]:
                confidence, source, derived = row[said].split(";", 2)
                assert Confidence(confidence) in WRITTEN, row
                assert source in sources or (not source and confidence == "assumed" and derived), row
                assert derived or confidence != "derived", row
                assert "from memory" not in derived or confidence == "assumed", row


def test_figures_are_physical(cards):
    ranges = {"memory_gib": (3, 400), "bandwidth_gb_s": (60, 9000), "float16_tflops": (2, 2600)}
    ranges |= {"float32_tflops": (2, 200), "float8_tflops": (10, 5100), "int8_tops": (10, 5100)}
    for row in cards:
        for figure, (least, most) in ranges.items():
            assert not row[figure] or least < float(row[figure]) < most, (row["card"], figure)
        if row["float32_tflops"] and not row["card"].startswith("Apple"):
            assert float(row["float32_tflops"]) < float(row["float16_tflops"]), row["card"]


def test_a_derived_rate_is_units_times_clock_times_flop(cards):
    checked = 0
    for row in cards:
        confidence, source, *_ = (row["matrix_by"] or ";").split(";")
        if confidence == "derived" and source in PER_CLOCK:
            rate = int(row["multiprocessors"]) * float(row["boost_mhz"]) * 1e6 * PER_CLOCK[source] / 1e12
            assert float(row["float16_tflops"]) == pytest.approx(rate, rel=0.005), row["card"]
            checked += 1
    assert checked > 50


def test_a_drivers_name_is_one_card_up_to_its_memory(cards):
    bearers = {}
    for row in cards:
        for name in row["names"].split("|"):
            bearers.setdefault(name, []).append(row["card"])
    for name, found in bearers.items():
        sizes = [round(device(each).memory_bytes / GIB) for each in found]
        assert len(set(sizes)) == len(sizes), name
        for each, size in zip(found, sizes, strict=True):
            assert device(name, memory=f"{size} GiB").name == each


@pytest.mark.parametrize("name", devices())
def test_every_figure_of_a_device_has_its_evidence(name):
    table = device(name).table()
    assert table.columns == ["figure", "value", "confidence", "source"]
    assert table["source"].str.len_chars().min() > 2
    assert table["figure"].is_unique().all()
    assert device(name).name == name


@pytest.mark.parametrize("name", MEASURED_ONES)
def test_measured_figures_go_before_the_vendors(name, rows):
    card = device(name)
    own = next(r for r in rows if r["device"] == card.name and r["figure"] == "matrix_bfloat16_tflops")
    assert card.matrix_flops_per_s["bfloat16"] == round(float(own["value"]) * 1e12)


@pytest.mark.parametrize(("name", "card"), ASKED_FOR.items())
def test_the_cards_that_people_have_are_found_by_their_drivers_name(name, card):
    assert device(name).name == card


@pytest.mark.parametrize(("name", "figures"), KNOWN.items())
def test_figures_are_those_of_their_sources(name, figures):
    card = device(name)
    assert (
        card.memory_bytes_per_s / 1e9,
        card.matrix_flops_per_s["bfloat16"] / 1e12,
        card.link_bytes_per_s / 1e9,
    ) == figures


@pytest.mark.parametrize("name", ["rtx4090", "RTX-4090", "NVIDIA GeForce RTX 4090", "GeForce RTX 4090"])
def test_a_card_is_found_however_its_name_is_written(name):
    assert device(name).name == "RTX 4090"


def test_of_two_sizes_under_one_name_the_memory_tells_which():
    assert device("RTX 4060 Ti").name == "RTX 4060 Ti 16GB"
    assert device("NVIDIA GeForce RTX 4060 Ti", memory="8 GiB").name == "RTX 4060 Ti 8GB"
    assert device("RTX 3080", memory="12 GiB").memory_bytes_per_s == 912_400_000_000


def test_a_laptops_card_is_its_own_and_not_its_desktop_namesake():
    laptop, desktop = device("NVIDIA GeForce RTX 4060 Laptop GPU"), device("RTX 4060")
    assert laptop.memory_bytes_per_s == 256 * 10**9 < desktop.memory_bytes_per_s
    assert laptop.evidence["matrix_flops_per_s.bfloat16"].confidence is Confidence.ASSUMED
    assert "RTX 4060 Laptop" in devices("laptop")
    assert "RTX 4060" not in devices("laptop")


def test_a_device_that_does_not_exist_is_one_error_with_the_nearest_of_its_generation():
    for name, tip in {
        "RTX 4065": "device('RTX 4065', like='RTX 4060', memory='8 GiB')",
        "RTX 5095 48GB": "device('RTX 5095 48GB', like='RTX 5090', memory='48 GiB')",
        "RX 7950 XT": "device('RX 7950 XT', like='RX 7900 XT', memory='20 GiB')",
        "zzz": "device('zzz', memory='12 GiB', compute='44 TFLOP/s', bandwidth='288 GB/s')",
    }.items():
        with pytest.raises(DeviceError) as error:
            device(name)
        assert tip in str(error.value)
    assert "'zzz'; devices() lists all" in str(error.value)
    with pytest.raises(DeviceError, match="no device 'RTX 409' to take figures from; did you mean 'RTX 4090'"):
        device("mine", like="RTX 409")
    with pytest.raises(DeviceError, match="no device's name contains 'xyz'"):
        devices("xyz")


def test_a_card_of_ones_own_is_like_another_but_for_what_is_said():
    mine = device("mine", like="RTX 4090", memory="12 GiB", link="5 GB/s", host_memory="32 GiB", disk="2 GB/s")
    like = device("RTX 4090")
    assert (mine.name, mine.memory_bytes, mine.free_bytes) == ("mine", 12 * GIB, 12 * GIB - GIB // 2)
    assert (mine.link_bytes_per_s, mine.link_pageable_bytes_per_s) == (5 * 10**9, like.link_pageable_bytes_per_s // 5)
    assert (mine.host_memory_bytes, mine.pinnable_bytes, mine.disk_bytes_per_s) == (32 * GIB, 32 * GIB, 2 * 10**9)
    assert mine.matrix_flops_per_s == like.matrix_flops_per_s


def test_nothing_that_is_borrowed_or_follows_is_measured_or_given():
    mine = device("RTX 4060 Laptop", like="RTX 4090", memory="8 GiB", link="5 GB/s", host_memory="32 GiB")
    found = {}
    for name, each in mine.evidence.items():
        found.setdefault(each.confidence, set()).add(name)
    assert set(found) == {Confidence.GIVEN, Confidence.ASSUMED}
    assert found[Confidence.GIVEN] == {"memory_bytes", "link_bytes_per_s", "host_memory_bytes"}
    assert mine.evidence["matrix_flops_per_s.bfloat16"].source.startswith("taken from RTX 4090")


def test_compute_and_bandwidth_can_be_given():
    mine = device("mine", like="RTX 4090", compute="33 TFLOP/s", bandwidth="288 GB/s")
    assert mine.memory_bytes_per_s == 288 * 10**9
    assert mine.matrix_flops_per_s["bfloat16"] == mine.matrix_flops_per_s["float16"] == 33 * 10**12
    assert mine.matrix_flops_per_s["float32"] == round(
        82.6e12 / 5
    )  # in proportion: a fifth of the 165 that are measured
    assert mine.attention_flops_per_s["bfloat16"] == round(164e12 / 5)
    assert mine.evidence["matrix_flops_per_s.bfloat16"].confidence is Confidence.GIVEN
    assert mine.evidence["matrix_flops_per_s.float32"].confidence is Confidence.ASSUMED
    typed = device("RTX 4090", compute={"float32": "20 TFLOP/s", "bfloat16": "0.1 PFLOP/s"})
    assert (typed.matrix_flops_per_s["float32"], typed.matrix_flops_per_s["bfloat16"]) == (20 * 10**12, 10**14)


def test_a_card_like_no_other_needs_only_its_own_figures():
    mine = device("a new card", memory="20 GiB", compute="44 TFLOP/s", bandwidth="1 TB/s")
    assert (mine.memory_bytes, mine.memory_bytes_per_s, mine.missing) == (20 * GIB, 10**12, "")
    assert Confidence.MEASURED not in {each.confidence for each in mine.evidence.values()}
    with pytest.raises(DeviceError, match="there is no device 'RTX 490'; did you mean"):
        device("RTX 490", memory="24 GiB")


def test_what_no_source_has_is_missing_and_says_so():
    card = device("NVIDIA GeForce RTX 5090 D")
    assert card.matrix_flops_per_s == {}
    assert "rates missing" in repr(card)
    assert card.missing.startswith("no throughput of RTX 5090 D is known; give compute='44 TFLOP/s'")
    assert dict(card.table().select("figure", "value").rows())["matrix products, bfloat16"] == "unknown"
    assert "No throughput of RTX 5090 D is known" in card._repr_html_()
    assert device("RTX 5090 D", compute="200 TFLOP/s").missing == ""
    assert device("Tesla V100-SXM2-32GB").flops_per_s("matmul", "bfloat16") is None
    assert "bandwidth='288 GB/s'" in device("Apple M5 Ultra").missing


@pytest.mark.parametrize("name", ["memory", "free", "host_memory", "pinnable"])
@pytest.mark.parametrize(
    ("size", "says"),
    [
        (24, "=24 is 24 bytes; did you mean '24 GiB'?"),
        ("24", "='24': did you mean '24 GiB'?"),
        (24.0, "=24.0: did you mean '24 GiB'?"),
        ("12 gb", "='12 gb': did you mean '12 GB'?"),
        ("8g", "='8g': did you mean '8 GiB'?"),
        (-1, "=-1: a size of memory is written '12 GiB'"),
        (True, "=True: a size of memory is written '12 GiB'"),
        ("12 GiB/s", "='12 GiB/s': a size of memory is written '12 GiB'"),
        (float("nan"), "=nan: a size of memory is written '12 GiB'"),
        (float("inf"), "=inf: a size of memory is written '12 GiB'"),
        ("44 TFLOP/s", "='44 TFLOP/s': a size of memory is written '12 GiB'"),
    ],
)
def test_a_size_that_cannot_be_meant_says_how_to_write_it(name, size, says):
    with pytest.raises(DeviceError) as error:
        device("H200", **{name: size})
    assert str(error.value) == name + says


@pytest.mark.parametrize(
    ("name", "rate", "says"),
    [
        ("compute", 44, "compute=44 is 44 FLOP a second; did you mean '44 TFLOP/s'?"),
        ("compute", "288 GB/s", "compute='288 GB/s': a throughput is written '44 TFLOP/s'"),
        ("compute", "44 TFLOPS", "compute='44 TFLOPS': did you mean '44 TFLOP/s'?"),
        (
            "compute",
            "0 TFLOP/s",
            "compute='0 TFLOP/s' is 0 FLOP a second; a throughput is written '44 TFLOP/s'",
        ),
        ("bandwidth", 288, "bandwidth=288 is 288 bytes a second; did you mean '288 GB/s'?"),
        ("bandwidth", "44 TFLOP/s", "bandwidth='44 TFLOP/s': a rate of copies or memory is written '25 GB/s'"),
        ("link", 25, "link=25 is 25 bytes a second; did you mean '25 GB/s'?"),
        ("link", "0 GB/s", "link='0 GB/s' is 0 bytes a second; a rate of copies or memory is written '25 GB/s'"),
        ("disk", "3 GB", "disk='3 GB': a rate of copies or memory is written '25 GB/s'"),
        ("disk", "3", "disk='3': did you mean '3 GB/s'?"),
    ],
)
def test_a_rate_that_cannot_be_meant_says_what_is_wanted(name, rate, says):
    with pytest.raises(DeviceError) as error:
        device("H200", **{name: rate})
    assert str(error.value) == says


def test_less_than_a_mebibyte_is_no_card_and_nothing_can_be_pinned_is():
    with pytest.raises(DeviceError, match="memory='24 KiB' is 24576 bytes"):
        device("H200", memory="24 KiB")
    assert device("H200", pinnable="0 GiB").pinnable_bytes == 0


def test_an_apple_chip_gives_its_gpu_three_quarters_of_its_memory():
    card = device("M4 Max", memory="64 GiB")
    assert (card.kind, card.unified, card.memory_bytes, card.free_bytes) == ("mps", True, 64 * GIB, 48 * GIB)


def test_a_type_that_nobody_measured_has_no_throughput():
    card = device("A100")
    assert card.flops_per_s("matmul", "float8_e4m3fn") is None
    assert card.flops_per_s("attention", "float32") == card.flops_per_s("matmul", "float32")
    assert device("H100").flops_per_s("matmul", "float8_e4m3fn") == 1979 * 10**12


def test_the_table_of_a_device_escapes_its_name():
    assert "&lt;b&gt;" in device("<b>", like="T4")._repr_html_()


def test_all_devices_are_a_table_by_family():
    every = devices()
    assert len(every) == len(set(every)) > 120
    table = every.table()
    assert table["device"].to_list() == list(every)
    assert table["family"].rle_id().n_unique() == table["family"].n_unique()  # a family stands together
    html = devices("blackwell")._repr_html_()
    assert "RTX PRO 6000" in html
    assert "RTX 4090" not in html


def test_a_device_is_plain_data():
    assert dataclasses.asdict(device("T4"))["evidence"]["memory_bytes"]["confidence"] == "assumed"
