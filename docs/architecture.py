"""Write the picture in docs/architecture.md: the rooms of the four packages and what each stands on, from the imports.

    python docs/architecture.py            # writes it; a test holds the page to the code

A room is a folder of a package, or a private file that lies in none; a package without folders is one room. What a
package offers is imported from its facade, so an arrow to another package ends at its border. Imports inside functions
are left out, as those by which a display method asks for its report; so is an arrow that follows from others.
"""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- from the imports -->\n", "<!-- end -->\n"
PACKAGES = ("stages", "profiler", "residency", "ltx2")
EDGES = dict[str, set[str]]


def rooms(edges: EDGES) -> EDGES:
    """Return which rooms and packages each room imports; what a facade imports is its package."""
    found: EDGES = {package: set() for package in PACKAGES}
    for module, targets in edges.items():
        if (name := room(module)) not in PACKAGES:
            found.setdefault(name, set()).update(map(room, targets))
    return {name: targets - {name, name.partition(".")[0]} for name, targets in found.items()}


def room(module: str) -> str:
    """Return the room of a module, or its package where it is public, or where the package is one room.

    >>> room("reslab.residency._plan._plan"), room("reslab.residency._units"), room("reslab.profiler.toy")
    ('residency._plan', 'residency._units', 'profiler')
    """
    package, *rest = module.split(".")[1:]
    return f"{package}.{rest[0]}" if package != "stages" and rest and rest[0].startswith("_") else package


def reduced(edges: EDGES) -> EDGES:
    """Return the arrows that do not follow from others.

    >>> reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    {'a': {'b'}, 'b': {'c'}, 'c': set()}
    """
    return {
        name: {target for target in targets if not any(target in below(edges, other) for other in targets - {target})}
        for name, targets in edges.items()
    }


def below(edges: EDGES, name: str) -> set[str]:
    """Return everything that a room stands on; a package stands on the packages that its rooms import."""
    found, left = set(), [name]
    while left:
        one = left.pop()
        parts = edges[one].union(*(edges[each] for each in edges if one in PACKAGES and each.startswith(f"{one}.")))
        new = {each for each in parts if each in PACKAGES or one not in PACKAGES} - found
        found |= new
        left += new
    return found


def picture() -> str:
    """Return the picture as Mermaid, which GitHub and JupyterLab draw."""
    edges = rooms(house().graph(ROOT, at_load=True))
    lines = ["```mermaid", "flowchart TD", "    stages"]
    for package in PACKAGES[1:]:
        own = sorted(name for name in edges if name.startswith(f"{package}."))
        lines += [
            f"    subgraph {package}",
            *(f'        {key(name)}["{name.split(".")[1]}"]' for name in own),
            "    end",
        ]
    arrows = sorted((name, target) for name, targets in reduced(edges).items() for target in targets)
    lines += [f"    {key(name)} --> {key(target)}" for name, target in arrows]
    return "\n".join([*lines, "```", ""])


def key(name: str) -> str:
    """Return the name under which Mermaid knows a room or a package."""
    return name.replace(".", "")


def house():
    """Return benchmarks/house.py, which reads the imports."""
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(text: str) -> str:
    """Return the page with the picture as it is now."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + picture() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
