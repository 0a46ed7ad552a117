"""Measure the house: files, lines, import loops, files that one other reads, public names, comments.

    python benchmarks/house.py [ROOT …]

One table a root, each a checkout of this repository, so that a commit stands beside another. Imports inside functions
and under TYPE_CHECKING count like any other, but for the modules behind `apply`, which are those that loading it loads.
"""

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("stages", "profiler", "residency", "ltx2")


def sources(root: Path, package: str) -> list[Path]:
    """Return the package's Python files; those of one line are no rooms and are left out."""
    files = sorted((root / "packages" / package / "src" / "reslab" / package).rglob("*.py"))
    return [path for path in files if len(path.read_text().splitlines()) > 1]


def module_name(path: Path) -> str:
    """Return the dotted name under which a file is imported."""
    parts = path.with_suffix("").parts
    dotted = ".".join(parts[len(parts) - 1 - parts[::-1].index("reslab") :])
    return dotted.removesuffix(".__init__")


def imported(nodes: Iterable[ast.AST], name: str, is_package: bool, known: set[str]) -> set[str]:
    """Return the modules of ours that a module imports by these statements."""
    found: set[str] = set()
    for node in nodes:
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


def graph(root: Path, *, at_load: bool = False) -> dict[str, set[str]]:
    """Return which modules each module of the four packages imports: anywhere in it, or when it is loaded."""
    paths = {module_name(path): path for package in PACKAGES for path in sources(root, package)}
    for package in PACKAGES:  # folders whose __init__ is one line are still names to import from
        for path in (root / "packages" / package / "src" / "reslab" / package).rglob("__init__.py"):
            paths.setdefault(module_name(path), path)
    known, edges = set(paths), {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text())
        edges[name] = imported(tree.body if at_load else ast.walk(tree), name, path.name == "__init__.py", known)
    return edges


def reached(edges: dict[str, set[str]], start: str) -> set[str]:
    """Return the modules that loading one loads, without what the facade of its own package adds."""
    facade, found, left = ".".join(start.split(".")[:2]), {start}, [start]
    while left:
        new = edges[left.pop()] - found - {facade}
        found |= new
        left += new
    return found


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
    edges, facades = graph(root), [f"reslab.{package}" for package in PACKAGES]
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
        str(sum(count == 1 for name, count in importers.items() if is_private(name))),
    )
    own = [name for name in importers if not any(edges[facade] >= {name} for facade in facades)]
    yield "  of them those that no facade exports", str(sum(importers[name] == 1 for name in own if is_private(name)))
    loaded = reached(graph(root, at_load=True), "reslab.residency._engine._apply")
    residency = [name for name in loaded if name.startswith("reslab.residency.")]
    engine = sum("._engine." in name for name in residency)
    yield "modules behind `apply`: all, residency's, the engine's", f"{len(loaded)}, {len(residency)}, {engine}"


def is_private(name: str) -> bool:
    """Tell whether a module is no facade."""
    return name.rpartition(".")[2].startswith("_")


def main() -> None:
    """Print a table for each root."""
    for root in [Path(argument).resolve() for argument in sys.argv[1:] or [Path(__file__).parent.parent]]:
        print(root.name)
        for name, value in rows(root):
            print(f"  {name:<90} {value}")


if __name__ == "__main__":
    main()
