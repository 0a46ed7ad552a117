"""JupyterLab opens a notebook, runs it, and shows what it says."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import expect

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def test_a_notebook_runs_and_shows_its_output(jupyter, lab_page):
    cells = [new_markdown_cell("# Is this a browser?"), new_code_cell("6 * 7"), new_code_cell("print('done')")]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), jupyter.folder / "tiny.ipynb")
    lab_page.open("tiny.ipynb")
    expect(lab_page.outputs).to_have_count(0)
    lab_page.run_all()
    expect(lab_page.page.get_by_role("heading", name="Is this a browser?")).to_be_visible()
    expect(lab_page.outputs).to_have_text(["42", "done"])
