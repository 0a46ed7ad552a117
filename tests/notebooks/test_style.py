"""The committed notebooks keep to the house style, as far as a machine can tell."""

import re
from itertools import pairwise
from pathlib import Path
from statistics import median

import nbformat
import pytest

IGNORED = re.compile(r"nbval[-_](ignore[-_]output|skip)", re.IGNORECASE)
OURS = re.compile(r"^\s*(?:from|import) reslab\b", re.MULTILINE)


@pytest.fixture
def notebook(notebook_path):
    """A committed notebook."""
    return nbformat.read(notebook_path, as_version=4)


@pytest.fixture
def code(notebook):
    """Its code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_ignored(cell):
    """Tell whether nbval compares nothing of what this cell shows."""
    return bool(IGNORED.search(" ".join(cell.metadata.get("tags", [])) + cell.source))


def test_file_is_numbered(notebook_path):
    assert re.fullmatch(r"\d\d_[a-zA-Z0-9_]+", notebook_path.stem)


def test_title_is_a_question(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# .+\?$", notebook.cells[0].source.splitlines()[0])


def test_there_is_as_much_text_as_code(notebook, code):
    assert len(notebook.cells) - len(code) >= len(code)


def test_code_cells_are_short(code):
    lengths = [len(cell.source.splitlines()) for cell in code]
    assert max(lengths) <= 15
    assert median(lengths) < 5


def test_a_cell_imports_at_most_three_of_ours(code):
    assert max(len(OURS.findall(cell.source)) for cell in code) <= 3


def test_no_cell_changes_its_environment(code):
    assert [cell.source for cell in code if re.search(r"sys\.path|^\s*[%!].*\bpip\b|%%time", cell.source, re.M)] == []


def test_every_ignored_cell_is_followed_by_an_assertion(code):
    unheld = [cell.source for cell, after in pairwise([*code, None]) if is_ignored(cell) and not holds(after)]
    assert unheld == []


def holds(cell):
    """Tell whether a code cell asserts something."""
    return cell is not None and re.search(r"^\s*assert ", cell.source, re.MULTILINE)


def test_fewer_than_one_cell_in_twenty_is_ignored():
    paths = Path(__file__).resolve().parents[2].glob("notebooks/*.ipynb")
    cells = [cell for path in paths for cell in nbformat.read(path, as_version=4).cells]
    assert 20 * sum(map(is_ignored, cells)) < max(len(cells), 1)


def test_notebook_is_committed_executed_from_the_top(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_notebook_shows_no_error(code):
    outputs = [output for cell in code for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


def test_notebook_is_as_the_render_script_writes_it(notebook_path, notebook, render):
    text = nbformat.writes(render.clean(notebook)) + "\n"
    assert notebook_path.read_text(encoding="utf-8") == text, "render it: python lab.py notebooks"
