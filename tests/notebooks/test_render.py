"""The render script executes, drops what is not for publishing, and writes the same bytes each time."""

import os
from html.parser import HTMLParser

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


class Pictures(HTMLParser):
    """Collects the alternative texts of a page's pictures, and what it fetches from elsewhere."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.fetched = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            self.texts.append(given.get("alt"))
        if tag in ("script", "link", "img") and (given.get("src") or given.get("href") or "").startswith("http"):
            self.fetched.append(given)


def test_every_picture_on_a_page_has_its_caption_as_alternative_text(notebook_path, render, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path)
    notebook = nbformat.read(notebook_path, as_version=4)
    page = Pictures(render.write_page(notebook_path.stem, notebook).read_text(encoding="utf-8"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [
        output.metadata.get("image/png", {}).get("alt") for output in outputs if "image/png" in output.get("data", {})
    ]
    assert {caption for caption in drawn if caption} <= set(page.texts)  # a video's stills are in a player of its own
    assert not [text for text in page.texts if not text or "No description" in text]
    assert page.fetched == []


def test_a_page_with_a_formula_may_load_what_draws_it(write, render, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path / "site")
    for text, loads in (("# Why?\n\n$a^2$", True), ("# Why?\n\n2 $ or 3", False)):
        page = render.write_page("07_tiny", nbformat.read(write(new_markdown_cell(text)), as_version=4))
        assert bool(Pictures(page.read_text(encoding="utf-8")).fetched) is loads


def test_the_site_lists_all_notebooks_and_leads_from_one_to_the_next(render, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SITE", tmp_path)
    listed = render.write_index().read_text(encoding="utf-8")
    names = [path.stem for path in sorted(render.NOTEBOOKS.glob("*.ipynb"))]
    assert [listed.count(f'href="{name}.html"') for name in names] == [1] * len(names)
    assert f'href="{names[1]}.html">next' in render.links(names[0])
    assert "previous" not in render.links(names[0])
    assert f'href="{names[-2]}.html">previous' in render.links(names[-1])
    assert "next" not in render.links(names[-1])


def test_the_readmes_picture_says_what_the_first_picture_of_notebook_00_shows(render):
    png = render.PICTURE.read_bytes()
    described = png.split(b"iTXtDescription", 1)[1].lstrip(b"\0")
    first = next(cell for cell in nbformat.read(render.PICTURED, as_version=4).cells if cell.cell_type == "code")
    assert described.startswith(first.outputs[0].metadata["image/png"]["alt"].encode())


def test_cells_run_without_bars_and_this_process_keeps_its_own(write, render, capsys, monkeypatch):
    monkeypatch.setenv("RESLAB_PROGRESS", "1")
    path = write(new_code_cell("import os\nos.environ['RESLAB_PROGRESS']"))
    render.commit([path])
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].data == {"text/plain": "'0'"}
    assert os.environ["RESLAB_PROGRESS"] == "1"
