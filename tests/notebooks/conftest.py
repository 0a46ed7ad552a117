"""The committed notebooks, and the script that rendered them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `notebook_path` each committed notebook in turn."""
    if "notebook_path" in metafunc.fixturenames:
        paths = sorted(NOTEBOOKS.glob("*.ipynb"))
        metafunc.parametrize("notebook_path", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="session")
def render() -> ModuleType:
    """notebooks/render.py as a module."""
    spec = importlib.util.spec_from_file_location("render", NOTEBOOKS / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
