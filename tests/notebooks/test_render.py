"""The render script executes, drops what is not for publishing, and writes the same bytes each time."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

WIDGET = "import ipywidgets\nipywidgets.IntSlider(7)"


@pytest.fixture
def write(tmp_path):
    """Write a notebook of these cells with random ids and stray metadata."""

    def write(*cells):
        path = tmp_path / "07_tiny.ipynb"
        nbformat.write(new_notebook(cells=list(cells), metadata={"stray": 1}), path)
        return path

    return write


def test_commit_writes_the_same_bytes_again(write, render, capsys):
    path = write(new_markdown_cell("# Why?"), new_code_cell(WIDGET), new_code_cell("6 * 7"), new_code_cell("6 * 7"))
    render.commit([path])
    first = path.read_bytes()
    render.commit([path])
    assert path.read_bytes() == first
    assert len({cell.id for cell in nbformat.read(path, as_version=4).cells}) == 4


def test_commit_keeps_tags_and_text_and_drops_live_views(write, render, capsys):
    path = write(new_code_cell(WIDGET, metadata={"tags": ["demo"], "collapsed": True}))
    render.commit([path])
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].metadata == {"tags": ["demo"]}
    assert notebook.cells[0].outputs[0].data == {"text/plain": "IntSlider(value=7)"}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_commit_refuses_a_cell_that_warns(write, render):
    path = write(new_code_cell("import warnings\nwarnings.warn('old')"))
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="a cell wrote to stderr"):
        render.commit([path])
    assert path.read_bytes() == before


def test_a_cell_that_raises_names_its_notebook(write, render):
    with pytest.raises(SystemExit, match=r"(?s)07_tiny\.ipynb: .*ZeroDivisionError"):
        render.commit([write(new_code_cell("1 / 0"))])


def test_demo_prints_tagged_cells_and_writes_a_page(write, render, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path / "site")
    tagged = {"tags": ["demo"]}
    path = write(new_code_cell("'quiet'"), new_code_cell("print('said')\n6 * 7", metadata=tagged))
    before = path.read_bytes()
    render.demo([path])
    printed = capsys.readouterr().out
    assert [word in printed for word in ("said", "42", "quiet")] == [True, True, False]
    assert "quiet" in (tmp_path / "site" / "07_tiny.html").read_text(encoding="utf-8")
    assert path.read_bytes() == before


def test_demo_prints_a_table_where_the_notebook_shows_one(write, render, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path / "site")
    table = "<table><tr><th>stage</th><th>host</th></tr><tr><td>a &amp; b</td><td><b>385</b> ms</td></tr></table>"
    shown = f"class Shown:\n    __repr__ = lambda self: 'Shown()'\n    _repr_html_ = lambda self: {table!r}\nShown()"
    render.demo([write(new_code_cell(shown, metadata={"tags": ["demo"]}))])
    printed = capsys.readouterr().out
    assert "\nstage  host\na & b  385 ms\n" in printed
    assert "Shown()" not in printed


def test_a_page_has_the_notebooks_title(write, render, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path / "site")
    page = render.write_page("07_tiny", nbformat.read(write(new_markdown_cell("# Why?\n\nText.")), as_version=4))
    assert "<title>Why?</title>" in page.read_text(encoding="utf-8")


def test_a_page_loads_no_code_from_elsewhere_but_formulas(write, render, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path / "site")
    path = write(new_markdown_cell("# Why?"))
    render.pages([path])
    page = (tmp_path / "site" / "07_tiny.html").read_text(encoding="utf-8")
    assert "require.min.js" not in page
