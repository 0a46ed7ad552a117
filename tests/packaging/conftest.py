"""The four packages, as the packaging tests see them: by their files, not by importing them."""

import ast
import importlib.util
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("stages", "profiler", "residency", "ltx2")


@dataclass(frozen=True, kw_only=True)
class Package:
    name: str

    @property
    def folder(self) -> Path:
        return ROOT / "packages" / self.name

    @property
    def source(self) -> Path:
        return self.folder / "src" / "reslab" / self.name

    @property
    def modules(self) -> dict[Path, ast.Module]:
        return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(self.source.rglob("*.py"))}

    @property
    def project(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    @property
    def version(self) -> str:
        text = (self.source / "__init__.py").read_text(encoding="utf-8")
        return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]

    def read(self, file: str) -> str:
        return (self.folder / file).read_text(encoding="utf-8")


@pytest.fixture(params=NAMES)
def package(request: pytest.FixtureRequest) -> Package:
    """Each of the four packages in turn."""
    return Package(name=request.param)


@pytest.fixture(scope="session")
def packages() -> list[Package]:
    """All four packages, the one that others stand on first."""
    return [Package(name=name) for name in NAMES]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def lab_module() -> ModuleType:
    """lab.py as a module."""
    spec = importlib.util.spec_from_file_location("lab", ROOT / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
