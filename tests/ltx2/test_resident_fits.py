"""What the modes need of cards that are not here, and what the reference would decide."""

import pytest

from reslab import ltx2, residency

LARGE = {"width": 1536, "height": 1024, "num_frames": 121}


@pytest.fixture(scope="module")
def run():
    return ltx2.rehearsal("LTX-2.3", **LARGE)


def test_original_holds_the_lora_snapshot_moves_both_transformers_and_resident_holds_them(run):
    rows = {row["mode"]: row for row in ltx2.mode_bounds(run, residency.device("H200")).rows(named=True)}
    transformer = 35.37  # GiB; facts/ltx2.md
    assert rows["snapshot"]["moved_gib"] - rows["original"]["moved_gib"] == pytest.approx(2 * transformer, abs=0.01)
    assert rows["snapshot"]["host_gib"] - rows["original"]["host_gib"] == pytest.approx(2 * transformer, abs=0.01)
    assert rows["resident"]["moved_gib"] == rows["resident"]["host_gib"] == 0
    assert rows["snapshot"]["peak_gib"] < rows["original"]["peak_gib"] < rows["resident"]["peak_gib"]


def test_by_bytes_and_by_the_references_rules():
    card, part = residency.device("H200"), residency.device("H200", memory="71 GiB")
    pro, elsewhere = residency.device("RTX PRO 6000"), {"text_encoder": "layerwise"}
    cases = {"whole": (card, {}), "slice": (part, {}), "96 GiB": (pro, {}), "and placed": (pro, elsewhere)}
    fits = ltx2.resident_fits("LTX-2.3", ltx2.rehearsal("LTX-2.3", **LARGE), cases)
    rows = fits.select("case", "fits", "auto", "reference", "reference_fits").rows()
    assert rows == [
        ("whole", True, "resident", "resident", True),
        ("slice", False, "snapshot", "resident", False),
        ("96 GiB", False, "snapshot", "original", True),
        ("and placed", True, "resident", "original", True),
    ]
    assert ltx2.fits_chart(fits).caption.endswith("fits here: whole; and placed. It does not fit in the 2 other cases.")
