"""The widget of notebook 04 in JupyterLab: it runs what is chosen, shows the line for it, says what does not fit."""

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from playwright.sync_api import expect

NOTEBOOK = "04_original_snapshot_resident.ipynb"
#: How the cells begin that the widget needs; nbval runs all the others too.
NEEDED = ("import polars", "plain = ", "links = ", "mid = ", "runs = ", "memories = ")
RUN_MS = 30_000


@pytest.fixture
def widget(jupyter, lab_page):
    """The live widget, in a notebook of the committed cells that it needs; no mode has been run yet."""
    path = jupyter.add(f"notebooks/{NOTEBOOK}")
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.source.startswith(NEEDED)]
    assert len(sources) == len(NEEDED)
    quick = [source if not source.startswith("runs") else "runs = None" for source in sources]
    notebook.cells = [new_code_cell(source) for source in quick]
    nbformat.write(notebook, path)
    page = lab_page.open(NOTEBOOK).run_all().page
    shown = page.locator(".jp-OutputArea-output", has=page.locator("button", has_text="Run"))
    yield shown
    if folder := os.environ.get("RESLAB_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "04_widget.png", full_page=True)


def choose(widget, label, value):
    """Choose in the dropdown below a label."""
    widget.locator(".widget-vbox", has_text=label).last.locator("select").select_option(value)


def test_the_widget_of_notebook_04_runs_what_is_chosen_and_shows_its_line(widget):
    rows, button = widget.locator("tbody tr"), widget.locator("button", has_text="Run")
    expect(widget).to_contain_text("No run yet")
    widget.get_by_role("button", name="snapshot").click()
    choose(widget, "blocks that stay", "6 of 12")
    settings = "settings={'transformer.resident': 6, 'transformer+lora.resident': 6}"
    expect(widget).to_contain_text(f"ltx2.run_mode('snapshot', pipe, request, {settings})")
    button.click()
    expect(widget.locator(".progress-bar")).to_be_visible()
    expect(rows).to_have_count(1, timeout=RUN_MS)
    expect(rows.last).to_contain_text("layerwise(resident=6)")
    assert "snapshot" in widget.locator("img").get_attribute("alt")

    widget.get_by_role("button", name="resident").click()
    choose(widget, "blocks that stay", "as the mode says")
    choose(widget, "memory of the device", "600.0 MiB")
    expect(button).to_be_enabled()
    button.click()
    expect(widget).to_contain_text("resident: It does not fit", timeout=RUN_MS)
    expect(rows).to_have_count(1)
    expect(button).to_be_enabled()
