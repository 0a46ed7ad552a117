"""Write docs/glossary.md: the settings of a plan, the words of the field, and every choice of the four packages.

    python docs/glossary.py

The settings and words are the help of `residency.Plan`. The choices are all enums whose members carry a sentence, found
by walking the packages. A test in tests/packaging fails while the file differs from what this script would write.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from reslab.residency._plan._plan_help import first_line, members, plan_help
from reslab.stages.support import Described

TARGET = Path(__file__).with_suffix(".md")
PACKAGES = ("stages", "profiler", "residency", "ltx2")
_HEAD = """# Glossary

Written by `python docs/glossary.py`; do not edit it by hand. The part up to the choices of each package is what
`help(residency.Plan)` shows.
"""


def text() -> str:
    """Return the glossary as Markdown."""
    return "\n".join((_HEAD, plan_help(), "", *(line for name in PACKAGES for line in _choices(name))))


def described(package: str) -> list[type[Described]]:
    """Return the enums of a package whose members carry a sentence, by name."""
    root = importlib.import_module(f"reslab.{package}")
    names = [root.__name__, *(each.name for each in pkgutil.walk_packages(root.__path__, f"{root.__name__}."))]
    modules = (importlib.import_module(name) for name in names)
    return sorted(
        (kind for module in modules for _name, kind in inspect.getmembers(module, _is_enum) if _is_own(kind, module)),
        key=lambda kind: kind.__name__,
    )


def _is_enum(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Described) and value is not Described


def _is_own(kind: type, module: ModuleType) -> bool:
    return kind.__module__ == module.__name__


def _choices(package: str) -> Iterator[str]:
    kinds = described(package)
    if kinds:
        yield from (f"## Choices of reslab.{package}", "")
    for kind in kinds:
        yield from (f"### {kind.__name__}", "", first_line(kind), "", *members(kind), "")


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
