"""What is committed names no one machine, and the modules keep to the house style where a machine can tell."""

import ast
import re
import subprocess

import pytest

# Written with character classes so that this file does not name what it looks for. An example may speak of "me".
HOME = re.compile(r"(?<![\w.])/(?:home|Users|root)/(?!me\b)[\w.-]+|[A-Z]:\\[U]sers\\")
HOST = re.compile(r"[p]ypi\.org|[p]ythonhosted\.org|[r]egistry\.npmjs|[d]eb\.debian|--(?:extra-)?index-[u]rl")


@pytest.fixture(scope="module")
def tracked(root):
    """Every tracked text file with its text."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    files = [root / name for name in names.split("\0") if name]
    return {file: file.read_bytes().decode(errors="ignore") for file in files if file.is_file()}


def functions(tree):
    """Yield the functions and methods of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function):
    """Count the lines of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("pattern", [HOME, HOST], ids=["home folder", "registry host"])
def test_no_tracked_file_names_a_machine(tracked, pattern):
    assert {str(file): found[0] for file, text in tracked.items() if (found := pattern.search(text))} == {}


def test_namespace_has_no_module_of_its_own(packages):
    assert [package.name for package in packages if (package.source.parent / "__init__.py").exists()] == []


def test_every_module_opens_with_a_docstring(package):
    assert [path.name for path, tree in package.modules.items() if not ast.get_docstring(tree)] == []


def test_no_function_is_longer_than_forty_lines(package):
    long = {
        f"{path.name}:{f.name}" for path, tree in package.modules.items() for f in functions(tree) if body_lines(f) > 40
    }
    assert long == set()


def test_facade_names_its_version_and_its_public_names(package):
    facade = package.modules[package.source / "__init__.py"]
    assigned = {getattr(t, "id", "") for node in facade.body if isinstance(node, ast.Assign) for t in node.targets}
    assigned |= {getattr(node.target, "id", "") for node in facade.body if isinstance(node, ast.AnnAssign)}
    assert {"__version__", "__all__"} <= assigned
