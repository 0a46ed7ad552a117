"""The catalogue: every figure has a source, every name is found, what a person says of their card goes first."""

import csv
from importlib.resources import files

import pytest

from reslab.residency import Confidence, DeviceError, device, devices

GIB = 2**30
ASKED_FOR = (
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
}


@pytest.fixture(scope="module")
def rows():
    text = (files("reslab.residency._device") / "data" / "devices.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_every_device_has_the_same_figures(rows):
    figures = {name: [row["figure"] for row in rows if row["device"] == name] for name in devices()}
    assert {tuple(each) for each in figures.values()} == {tuple(figures["T4"])}
    assert len(figures["T4"]) == len(set(figures["T4"]))


def test_every_figure_has_a_source_or_says_how_it_was_derived(rows):
    for row in rows:
        assert row["confidence"] in ("measured", "vendor", "assumed"), row
        if row["confidence"] == "assumed":
            assert row["derived"] or row["source"], row
        else:
            assert row["source"], row


@pytest.mark.parametrize("name", devices())
def test_every_figure_of_a_device_has_its_evidence(name):
    table = device(name).table()
    assert table.columns == ["figure", "value", "confidence", "source"]
    assert table["source"].str.len_chars().min() > 2
    assert table["figure"].is_unique().all()


@pytest.mark.parametrize("name", ASKED_FOR)
def test_the_cards_that_people_ask_about_are_there(name):
    assert device(name).memory_bytes > 8 * GIB


@pytest.mark.parametrize(("name", "figures"), KNOWN.items())
def test_figures_are_those_of_their_sources(name, figures):
    card = device(name)
    assert (
        card.memory_bytes_per_s / 1e9,
        card.matrix_flops_per_s["bfloat16"] / 1e12,
        card.link_bytes_per_s / 1e9,
    ) == figures


@pytest.mark.parametrize("name", ["rtx4090", "RTX-4090", "NVIDIA GeForce RTX 4090"])
def test_a_card_is_found_however_its_name_is_written(name):
    assert device(name).name == "RTX 4090"


def test_a_device_that_does_not_exist_is_one_error_with_the_nearest_names():
    with pytest.raises(DeviceError) as error:
        device("H20")
    assert "there is no device 'H20'; did you mean 'H200'" in str(error.value)
    assert "device('H20', like='RTX 4090', memory='12 GiB')" in str(error.value)
    with pytest.raises(DeviceError, match="there are: T4, L4"):
        device("zzz")


def test_a_card_of_ones_own_is_like_another_but_for_what_is_said():
    mine = device("mine", like="RTX 4090", memory="12 GiB", link="5 GB/s", host_memory="32 GiB", disk="2 GB/s")
    like = device("RTX 4090")
    assert (mine.name, mine.memory_bytes, mine.free_bytes) == ("mine", 12 * GIB, 12 * GIB - GIB // 2)
    assert (mine.link_bytes_per_s, mine.link_pageable_bytes_per_s) == (5 * 10**9, like.link_pageable_bytes_per_s // 5)
    assert (mine.host_memory_bytes, mine.pinnable_bytes, mine.disk_bytes_per_s) == (32 * GIB, 32 * GIB, 2 * 10**9)
    assert mine.matrix_flops_per_s == like.matrix_flops_per_s
    confidence = {name: each.confidence for name, each in mine.evidence.items()}
    assert confidence["memory_bytes"] is confidence["link_bytes_per_s"] is Confidence.GIVEN
    assert confidence["matrix_flops_per_s.bfloat16"] is Confidence.MEASURED


@pytest.mark.parametrize("size", ["12", "12 gb", -1, 1.5, "12 GiB/s", True])
def test_a_size_that_cannot_be_read_says_how_to_write_it(size):
    with pytest.raises(ValueError, match=r'is not a size in bytes; write a whole number, or a text such as "12 GiB"'):
        device("H200", memory=size)


def test_a_type_that_nobody_measured_has_no_throughput():
    card = device("H100")
    assert card.flops_per_s("matmul", "float8_e4m3fn") is None
    assert card.flops_per_s("attention", "float32") == card.flops_per_s("matmul", "float32")


def test_the_table_of_a_device_escapes_its_name():
    assert "&lt;b&gt;" in device("<b>", like="T4")._repr_html_()
