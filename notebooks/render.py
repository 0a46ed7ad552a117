"""Render the notebooks: execute them, and write what a reader is to see.

A committed notebook is read on the web by people who never run it, and compared cell by cell by people who do. So it is
executed from the top in a fresh kernel, and only what is the same on every machine stays in it: no view of a live
widget (what the cell shows beside it, a table or a picture, stays), no timings, no versions, and cell ids that follow
from the cells' text. A cell that writes to stderr is an error, because a warning is not something to publish.

    python notebooks/render.py commit            # all of them, in place; `lab.py notebooks` calls this
    python notebooks/render.py pages             # as they are, as web pages in site/; `lab.py site`
    python notebooks/render.py picture           # the README's picture, which is the first one of notebook 00
    python notebooks/render.py demo 01_….ipynb   # execute, print the cells tagged "demo", write a page; `lab.py demo`

Run it with the Python of .venv, as lab.py does. tests/notebooks holds what is committed to the same rules.
"""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from html import escape
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parent
SITE = NOTEBOOKS.parent / "site"
PICTURE = NOTEBOOKS.parent / "docs" / "offloading.png"
PICTURED = NOTEBOOKS / "00_what_does_offloading_cost.ipynb"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
VEGA_LITE = "application/vnd.vegalite.v5+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Encrypted, because a kernel that is not says so on stderr.
CLIENT = Config(
    NotebookClient={"timeout": 600, "kernel_name": "python3", "record_timing": False},
    KernelManager={"transport_encryption": "auto"},
)
# A page needs no script of a notebook's; one would be fetched from elsewhere. MathJax is, where there is a formula.
NOTHING = "data:text/javascript,"
FORMULA = re.compile(r"\$[^$\n]+\$|\\\(|\\\[")


def commit(paths: list[Path]) -> None:
    """Execute notebooks and write them back as they are to be committed."""
    for path in paths:
        text = nbformat.writes(clean(execute(path))) + "\n"
        path.write_text(text, encoding="utf-8", newline="\n")
        say(f"{path.name} is executed and rendered")
        if path == PICTURED:
            picture([path])


def pages(paths: list[Path]) -> None:
    """Write notebooks as they are to web pages."""
    for path in paths:
        say(f"wrote {write_page(path.stem, nbformat.read(path, as_version=4))}")
    say(f"wrote {write_index()}")


def picture(paths: list[Path]) -> None:
    """Draw the README's picture: execute notebook 00 as far as its first picture, and save that on white."""
    from reslab.profiler import Figure

    notebook = nbformat.read(PICTURED, as_version=4)
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells = notebook.cells[: first + 1]
    spec = run_cells(notebook, PICTURED).cells[first].outputs[0].data[VEGA_LITE]
    Figure(spec=spec, caption=spec["description"]).save(PICTURE, look="paper")
    say(f"drew {PICTURE}")


def demo(paths: list[Path]) -> None:
    """Execute notebooks without changing them, print the text of the cells tagged `demo` and write web pages."""
    for path in paths:
        say(f"run {path.name}")
        notebook = clean(execute(path))
        for text in demo_texts(notebook):
            print(f"\n{text}\n")
        say(f"wrote {write_page(path.stem, notebook)}")


def execute(path: Path) -> NotebookNode:
    """Run every cell of a notebook in a fresh kernel of this environment and return it with its outputs."""
    return run_cells(nbformat.read(path, as_version=4), path)


def run_cells(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Run every cell of a notebook that is at hand."""
    resources = {"metadata": {"path": str(path.parent)}}
    # a bar is for the one who waits; written down it stands at 0 % for ever
    environment = os.environ | {"RESLAB_PROGRESS": "0"}
    client = NotebookClient(notebook, config=CLIENT, resources=resources)
    try:
        return client.execute(env=environment)
    except CellExecutionError as error:
        sys.exit(f"{path.name}: {error}")


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop from an executed notebook what differs between machines, or cannot be shown without a kernel."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = 5
    for cell, name in zip(notebook.cells, cell_ids(notebook.cells), strict=True):
        cell.id = name
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = [clean_output(output) for output in cell.outputs]
    return notebook


def cell_ids(cells: list[NotebookNode]) -> Iterator[str]:
    """Name each cell by its text, so that inserting a cell renames no other; equal cells are counted."""
    seen: Counter[str] = Counter()
    for cell in cells:
        name = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def clean_output(output: NotebookNode) -> NotebookNode:
    """Take the live view out of what a cell showed, and refuse what it wrote to stderr."""
    if output.get("name") == "stderr":
        sys.exit(f"a cell wrote to stderr, which is not to be published:\n{output.text}")
    if "data" in output:
        output.data.pop(WIDGET_VIEW, None)
    return output


def demo_texts(notebook: NotebookNode) -> Iterator[str]:
    """Yield what the cells tagged `demo` show, as text."""
    for cell in notebook.cells:
        if "demo" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                yield (output.text if output.output_type == "stream" else as_text(output.data)).rstrip()


def as_text(data: NotebookNode) -> str:
    """Return what a cell showed as text: a table where Python would print one line of what is a table in a notebook."""
    tables = Tables()
    tables.feed(data.get("text/html", ""))
    printed = data["text/plain"]
    return printed if "\n" in printed else "\n\n".join(map(aligned, tables.found)) or printed


class Tables(HTMLParser):
    """Collects the cells of the tables in a page as text: `found` has a list of rows for each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row or a cell."""
        self.inside = tag in ("td", "th") or (self.inside and tag != "tr")
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self.found[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        """Keep the text of a cell."""
        if self.inside:
            self.found[-1][-1][-1] += data


def aligned(rows: list[list[str]]) -> str:
    """Align the columns of a table."""
    texts = [[cell.strip() for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*texts, fillvalue="")]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)


def write_page(name: str, notebook: NotebookNode) -> Path:
    """Write a notebook as one web page, its pictures and videos inside."""
    SITE.mkdir(exist_ok=True)
    page = SITE / f"{name}.html"
    has_formula = any(FORMULA.search(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    urls = {"require_js_url": NOTHING} | ({} if has_formula else {"mathjax_url": NOTHING})
    exporter = HTMLExporter(config=Config(HTMLExporter=urls))
    body, _ = exporter.from_notebook_node(described(notebook), {"metadata": {"name": title(notebook)}})
    page.write_text(body.replace("<main>", f"{links(name)}<main>", 1), encoding="utf-8")
    return page


def title(notebook: NotebookNode) -> str:
    """Return the question that a notebook asks."""
    return str(notebook.cells[0].source.splitlines()[0].removeprefix("# "))


def described(notebook: NotebookNode) -> NotebookNode:
    """Return a copy in which each picture has its caption as alternative text, which the exporter would drop."""
    notebook = deepcopy(notebook)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output):
        told = output.metadata.get("image/png", {}) if "image/png" in output.data else {}
        if "alt" in told and "text/html" not in output.data:
            size = "".join(f' {side}="{told[side]}"' for side in ("width", "height") if side in told)
            source = output.data["image/png"].strip()
            picture = f'<img alt="{escape(told["alt"])}"{size} src="data:image/png;base64,{source}">'
            output.data = nbformat.from_dict({"text/html": picture, "text/plain": output.data["text/plain"]})
    return notebook


def links(name: str) -> str:
    """Return the links from a page to the one before, the list of all, and the one after."""
    names = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    place = names.index(name) if name in names else None
    before = names[place - 1] if place else None
    after = names[place + 1] if place is not None and place + 1 < len(names) else None
    ends = [(before, "previous"), ("index", "all notebooks"), (after, "next")]
    anchors = [f'<a href="{target}.html">{word}</a>' for target, word in ends if target]
    return f'<nav aria-label="notebooks" style="padding:8px 16px;font-family:sans-serif">{" · ".join(anchors)}</nav>'


def write_index() -> Path:
    """Write the page that lists the notebooks, each by its question."""
    asked = {path.stem: title(nbformat.read(path, as_version=4)) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    rows = "".join(f'<li>{name[:2]} <a href="{name}.html">{escape(asked[name])}</a></li>' for name in asked)
    page = SITE / "index.html"
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Residency Lab</title></head>'
    body = f'<body style="font-family:sans-serif"><h1>Residency Lab</h1><ul style="list-style:none">{rows}</ul></body>'
    page.write_text(f"{head}{body}</html>", encoding="utf-8")
    return page


def say(line: str) -> None:
    """Print one line, at once."""
    print(f"- {line}", flush=True)


if __name__ == "__main__":
    commands = {"commit": commit, "pages": pages, "picture": picture, "demo": demo}
    word, *names = sys.argv[1:]
    commands[word]([Path(name).resolve() for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")))
