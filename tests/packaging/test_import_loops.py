"""No two modules of the packages import each other, imports inside functions and under TYPE_CHECKING counted."""

from importlib import util

import pytest


@pytest.fixture(scope="module")
def house(root):
    """The benchmark that reads the imports of a checkout from its syntax trees."""
    spec = util.spec_from_file_location("house", root / "benchmarks" / "house.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_import_loop_is_left_in_any_package(house, root):
    assert house.loops(house.graph(root)) == []


@pytest.mark.parametrize(
    "back",
    [
        "from reslab.stages._one import One",
        "def late():\n    from reslab.stages import _one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import reslab.stages._one",
        "from . import _one",
    ],
    ids=["at the top", "inside a function", "for types", "relative"],
)
def test_a_loop_is_found_however_it_is_closed(house, tmp_path, back):
    folder = tmp_path / "packages" / "stages" / "src" / "reslab" / "stages"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "_one.py").write_text("from reslab.stages._two import two\nOne = two\n")
    (folder / "_two.py").write_text(f"{back}\ntwo = 2\n")
    assert house.loops(house.graph(tmp_path)) == [["reslab.stages._one", "reslab.stages._two"]]
