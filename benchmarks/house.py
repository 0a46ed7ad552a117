"""Measure the house: files, lines, import loops, files that one other reads, public names, comments.

    python benchmarks/house.py [ROOT …]

One table a root, each a checkout of this repository, so that a commit stands beside another. Imports inside functions
and under TYPE_CHECKING count like any other; what an import really loads is counted in a fresh interpreter.
"""

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("stages", "profiler", "residency", "ltx2")
LOADED = """
import sys
from reslab.residency import apply
names = [name for name in sys.modules if name.startswith("reslab.")]
print(len(names), sum("residency" in name for name in names), sum("_engine" in name for name in names))
"""


def sources(root: Path, package: str) -> list[Path]:
    """Return the package's Python files; those of one line are no rooms and are left out."""
    files = sorted((root / "packages" / package / "src" / "reslab" / package).rglob("*.py"))
    return [path for path in files if len(path.read_text().splitlines()) > 1]


def module_name(path: Path) -> str:
    """Return the dotted name under which a file is imported."""
    parts = path.with_suffix("").parts
    dotted = ".".join(parts[len(parts) - 1 - parts[::-1].index("reslab") :])
    return dotted.removesuffix(".__init__")


def imported(tree: ast.AST, name: str, is_package: bool, known: set[str]) -> set[str]:
    """Return the modules of ours that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*here, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in known else base)
    return {module for module in found if module in known and module != name}


def graph(root: Path) -> dict[str, set[str]]:
    """Return which modules each module of the four packages imports."""
    paths = {module_name(path): path for package in PACKAGES for path in sources(root, package)}
    for package in PACKAGES:  # folders whose __init__ is one line are still names to import from
        for path in (root / "packages" / package / "src" / "reslab" / package).rglob("__init__.py"):
            paths.setdefault(module_name(path), path)
    known = set(paths)
    return {
        name: imported(ast.parse(path.read_text()), name, path.name == "__init__.py", known)
        for name, path in paths.items()
    }


def loops(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, however they do (Tarjan 1972: strongly connected)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(stack[at:])
            del stack[at:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(sorted(group) for group in found if len(group) > 1)


def comment_lines(path: Path) -> int:
    """Count the lines that are a comment alone."""
    with path.open("rb") as file:
        tokens = tokenize.tokenize(io.BytesIO(file.read()).readline)
        return sum(token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip() for token in tokens)


def public_names(path: Path) -> int:
    """Count the names of a facade's `__all__`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AugAssign) and ast.unparse(node).startswith("__all__ ="):
            return len({leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)})
    return 0


def rows(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each figure's name and value."""
    edges = graph(root)
    importers = {name: sum(name in targets for targets in edges.values()) for name in edges}
    for package in PACKAGES:
        files = sources(root, package)
        lengths = sorted(len(path.read_text().splitlines()) for path in files)
        p90 = statistics.quantiles(lengths, n=10)[-1]
        comments = sum(map(comment_lines, files)) / sum(lengths)
        facade = root / "packages" / package / "src" / "reslab" / package / "__init__.py"
        yield (
            f"{package}: files; lines; median, p90, max; public names; comment lines",
            f"{len(files)}; {sum(lengths):,}; {statistics.median(lengths):.0f}, {p90:.0f}, {lengths[-1]}; "
            f"{public_names(facade)}; {comments:.1%}",
        )
    yield "import loops", str(len(loops(edges)))
    for group in loops(edges):
        yield "  a loop of", ", ".join(name.removeprefix("reslab.") for name in group)
    yield (
        "files with one importer",
        str(sum(count == 1 for name, count in importers.items() if name.rpartition(".")[2].startswith("_"))),
    )
    ours = ":".join(str(root / "packages" / package / "src") for package in PACKAGES)
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {ours.split(':')!r}\n{LOADED}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    yield "modules loaded by `from reslab.residency import apply`: all, residency, engine", loaded.stdout.strip()


def main() -> None:
    """Print a table for each root."""
    for root in [Path(argument).resolve() for argument in sys.argv[1:] or [Path(__file__).parent.parent]]:
        print(root.name)
        for name, value in rows(root):
            print(f"  {name:<90} {value}")


if __name__ == "__main__":
    main()
