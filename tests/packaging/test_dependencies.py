"""What a package imports is what it asks for, and what is light stays light."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Imported by a dependency only when it is there, and needed then.
NEEDED_BY_OTHERS = {
    "accelerate": "diffusers loads large weights through it",
    "ipywidgets": "tqdm draws its bars in a notebook through it",
    "sentencepiece": "transformers reads Gemma's tokenizer through it",
    "vl-convert-python": "altair draws PNG, SVG and PDF through it",
    "transformers": "diffusers imports the text encoder from it",
}


def imported_modules(package):
    """Yield the dotted names of what the modules of a package import, wherever in a module that stands."""
    for tree in package.modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_distributions(package):
    """Return the distributions that a package imports from, by their names on the package index."""
    owners, found = packages_distributions(), set()
    for name in imported_modules(package):
        top, _, rest = name.partition(".")
        if top == "reslab":
            found.add(f"reslab-{rest.split('.')[0]}")
        elif top not in sys.stdlib_module_names:
            found.add(canonicalize_name(owners[top][0]))
    return found - {f"reslab-{package.name}"}


def declared_distributions(package, *, extras):
    """Return the names of what a package asks for, with or without its extras."""
    lines = list(package.project["dependencies"])
    if extras:
        lines += [line for extra in package.project.get("optional-dependencies", {}).values() for line in extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_every_import_is_declared(package):
    assert imported_distributions(package) <= declared_distributions(package, extras=True)


def test_every_declared_dependency_is_imported_or_has_a_reason(package):
    declared = {name for name in declared_distributions(package, extras=False) if not name.startswith("reslab-")}
    assert declared - imported_distributions(package) <= set(NEEDED_BY_OTHERS)


def loaded_by(statement, *, blocked=()):
    """Run a statement in a fresh interpreter where some modules cannot be imported; return what it loaded."""
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_stages_load_neither_torch_nor_diffusers():
    assert loaded_by("import reslab.stages").isdisjoint({"torch", "diffusers", "transformers", "numpy", "polars"})


@pytest.mark.parametrize("name", ["stages", "profiler", "residency"])
def test_package_imports_where_torch_cannot_be_imported(name):
    assert f"reslab.{name}" in loaded_by(f"import reslab.{name}", blocked=("torch", "diffusers", "transformers"))


STAR = "from reslab.residency import *; assert Plan and bounds"


def test_everything_can_be_imported_by_star_and_torch_only_then():
    assert "torch" not in loaded_by("import reslab.residency as r; assert {'apply', 'rehearse'} <= {*r.__all__}")
    assert "torch" in loaded_by(f"{STAR} and apply and rehearse")


def test_without_torch_a_star_imports_what_needs_none():
    assert "reslab.residency" in loaded_by(f"{STAR}; assert 'apply' not in dir()", blocked=("torch",))


def test_constraints_are_names_and_exact_versions(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []


def test_constraints_pin_each_thing_once(root):
    names = [canonicalize_name(line.split("==")[0]) for line in (root / "constraints.txt").read_text().splitlines()]
    assert sorted(set(names)) == sorted(names)


def test_constraints_pin_everything_that_is_declared(package, root):
    pinned = {canonicalize_name(line.split("==")[0]) for line in (root / "constraints.txt").read_text().splitlines()}
    assert {name for name in declared_distributions(package, extras=True) if not name.startswith("reslab-")} <= pinned
