"""One word a thing, one thing a word: names are unique among classes, files and what the packages export."""

import ast
import importlib
from collections import defaultdict
from types import SimpleNamespace

import pytest

from reslab import stages
from reslab.stages import support


def repeated(named):
    """Return the names that stand for more than one thing, with where each of them is."""
    places = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def classes(modules):
    return [
        (node.name, f"{path.name}:{node.lineno}")
        for path, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]


def files(modules):
    return [(path.name, str(path)) for path in modules if path.name != "__init__.py"]


def public_classes(facades):
    """Return each public class with the packages that export it; one that two export is listed once."""
    objects = {}
    for facade in facades:
        for name in facade.__all__:
            if isinstance(value := getattr(facade, name), type):
                objects.setdefault((name, id(value)), facade.__name__)
    return [(name, facade) for (name, _), facade in objects.items()]


def test_no_two_classes_of_a_package_share_a_name(package):
    assert repeated(classes(package.modules)) == {}


def test_no_two_files_of_a_package_share_a_name(package):
    assert repeated(files(package.modules)) == {}


def test_no_two_public_classes_share_a_name(packages):
    names = ["stages.support", *(package.name for package in packages)]
    assert repeated(public_classes([importlib.import_module(f"reslab.{name}") for name in names])) == {}


def test_stages_offers_users_no_helper_of_sibling_packages():
    assert set(stages.__all__).isdisjoint(support.__all__)


@pytest.mark.parametrize("find", [classes, files], ids=["classes", "files"])
def test_a_name_that_is_used_twice_is_found(tmp_path, find):
    modules = {tmp_path / folder / "_unit.py": ast.parse("class Unit: ...") for folder in ("one", "two")}
    assert [len(places) for places in repeated(find(modules)).values()] == [2]


def test_a_public_class_of_two_packages_is_found_and_one_that_both_export_is_not():
    one, two, shared = type("Blank", (), {}), type("Blank", (), {}), type("Gib", (), {})
    facades = [
        SimpleNamespace(__name__=name, __all__=["Blank", "Gib"], Blank=blank, Gib=shared)
        for name, blank in (("one", one), ("two", two))
    ]
    assert repeated(public_classes(facades)) == {"Blank": ["one", "two"]}
