"""Notebook 01 in JupyterLab: the video plays, the profile is a table, the chart is drawn offline."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

NOTEBOOK = "01_what_happens.ipynb"


@pytest.fixture
def ran(jupyter, lab_page):
    jupyter.add(f"notebooks/{NOTEBOOK}")
    page = lab_page.open(NOTEBOOK).run_all().page
    if folder := os.environ.get("RESLAB_SCREENSHOTS"):
        cells = page.locator(".jp-Notebook .jp-Cell")
        for i in range(cells.count()):
            cells.nth(i).screenshot(path=Path(folder) / f"{i:02}.png")
    return page


def test_notebook_01_shows_video_table_and_chart(ran):
    video = ran.locator("video").first
    assert video.evaluate("v => v.muted && v.controls")
    video.evaluate("async v => { if (v.readyState < 1) await new Promise(done => v.onloadedmetadata = done) }")
    assert video.evaluate("v => [v.videoWidth, v.videoHeight]") == [128, 64]
    expect(ran.get_by_text("noise by design").first).to_be_visible()
    expect(ran.locator("table", has_text="unattributed").first).to_contain_text("ltx2_lora_switch_stage2")
    chart = ran.locator(".vega-embed svg").first
    expect(chart).to_contain_text("LTX2AVDenoisingStage")
    assert ran.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
