"""Notebook 05 as it is committed: opened in JupyterLab and not run, it shows what was rehearsed."""

from playwright.sync_api import expect

NOTEBOOK = "05_rehearse_22B_on_a_laptop.ipynb"


def test_notebook_05_shows_its_charts_and_its_account_before_it_is_run(jupyter, lab_page):
    jupyter.add(f"notebooks/{NOTEBOOK}")
    page = lab_page.open(NOTEBOOK).page
    charts = page.locator(".vega-embed svg")
    expect(charts).to_have_count(2)
    expect(charts.first).to_be_visible()
    expect(charts.first).to_contain_text("transformer")
    expect(page.get_by_text("Rehearsal('LTX-2.3, two stages': 130 calls").first).to_be_visible()
