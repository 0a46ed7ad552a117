"""docs/architecture.md is what the code is: its picture follows from the imports, and every file it names is there."""

import importlib.util
import re

import pytest

NAMED = r"`((?:stages|profiler|residency|ltx2|tests|_\w+)/[\w./]+)`"


@pytest.fixture(scope="module")
def architecture(root):
    """docs/architecture.py as a module."""
    spec = importlib.util.spec_from_file_location("architecture", root / "docs" / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_imports(architecture):
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.page(text) == text, "run python docs/architecture.py"


def test_an_arrow_that_follows_from_others_is_left_out(architecture):
    edges = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert architecture.reduced(edges) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_every_file_and_folder_that_the_page_names_is_there(architecture, root):
    named = re.findall(NAMED, architecture.PAGE.read_text(encoding="utf-8"))
    assert len(named) > 10
    for name in named:
        package = name.split("/")[0].removeprefix("_")
        places = [root / name, root / "packages" / package / "src" / "reslab" / name]
        places.append(root / "packages" / "residency" / "src" / "reslab" / "residency" / name)
        assert any(place.exists() for place in places), name


def test_no_two_rooms_stand_on_each_other(architecture):
    edges = architecture.rooms(architecture.house().graph(architecture.ROOT, at_load=True))
    assert [name for name in edges if name in architecture.below(edges, name)] == []
