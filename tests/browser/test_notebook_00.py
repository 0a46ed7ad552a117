"""Notebook 00 in JupyterLab: four charts drawn offline, and the tables that answer for a card."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

NOTEBOOK = "00_what_does_offloading_cost.ipynb"


@pytest.fixture
def ran(jupyter, lab_page):
    jupyter.add(f"notebooks/{NOTEBOOK}")
    page = lab_page.open(NOTEBOOK).run_all().page
    if folder := os.environ.get("RESLAB_SCREENSHOTS"):
        cells = page.locator(".jp-Notebook .jp-Cell")
        for i in range(cells.count()):
            cells.nth(i).screenshot(path=Path(folder) / f"00_{i:02}.png")
    return page


def test_notebook_00_draws_its_charts_and_answers_for_a_card(ran):
    charts = ran.locator(".vega-embed svg")
    expect(charts).to_have_count(4)
    for place, text in enumerate(("time streamed", "none: streaming is free", "blocks stay", "66.6 GiB")):
        expect(charts.nth(place)).to_contain_text(text)
    expect(ran.get_by_text("It fits: ").first).to_be_visible()
    assert ran.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
