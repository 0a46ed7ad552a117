"""What a user meets at the door of each package: Tab shows what is public, and nothing else."""

import ast
import importlib
import subprocess
import sys

import pytest
from IPython.core.completer import IPCompleter, provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from reslab.profiler import Profiler
from reslab.residency import Plan, apply
from reslab.stages import Pipeline

#: What a user calls on a profiler; the rest of its public methods are called by pipelines.
ON_A_PROFILER = {"note", "profile", "recording", "span", "start", "stop"}
#: What a user reads and calls on a residency; its conductor has the rest.
ON_A_RESIDENCY = {
    "close",
    "counters",
    "device_bytes",
    "execution_device",
    "fetched_bytes",
    "link_bytes_per_s",
    "notes",
    "peak_bytes",
    "plan",
    "table",
    "workload",
}


def completed(text, **namespace):
    """Complete a text as a notebook does, where jedi completes and where it does not."""
    completer, found = IPCompleter(shell=InteractiveShell.instance(), namespace=namespace), []
    for use_jedi in (False, True):
        completer.use_jedi = use_jedi
        with provisionalcompleter():
            names = {each.text.removeprefix(text).lstrip(".") for each in completer.completions(text, len(text))}
        found.append({name for name in names if not name.startswith("_")})
    return found


def facade(package):
    return importlib.import_module(f"reslab.{package.name}")


def test_dir_of_a_facade_is_what_it_exports(package):
    assert dir(facade(package)) == sorted(facade(package).__all__)


def test_tab_on_a_facade_shows_what_it_exports(package):
    module = facade(package)
    assert completed("door.", door=module) == [set(module.__all__)] * 2


def test_every_exported_name_is_there(package):
    module = facade(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_a_name_that_is_not_there_is_no_attribute(package):
    with pytest.raises(AttributeError, match=f"reslab.{package.name}.* has no attribute 'import_module'"):
        facade(package).import_module  # noqa: B018


@pytest.mark.parametrize("name", ["residency", "ltx2"])
def test_each_lazy_name_is_typed_as_it_is_imported(packages, name):
    package = next(each for each in packages if each.name == name)
    tree = package.modules[package.source / "__init__.py"]
    blocks = [
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    typed = {
        alias.name: each.module.removeprefix(f"reslab.{name}.")
        for block in blocks
        for each in block.body
        for alias in each.names
    }
    assert typed == facade(package)._NEEDS_TORCH


def test_without_torch_residency_offers_nothing_that_needs_it():
    code = "import sys; sys.modules['torch'] = None; from reslab import residency; print(*dir(residency))"
    offered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"bounds", "device"} <= set(offered)
    assert {"apply", "rehearse"}.isdisjoint(offered)


def test_tab_on_a_profiler_shows_what_a_user_calls():
    assert completed("prof.", prof=Profiler(memory=None)) == [ON_A_PROFILER] * 2


def test_a_profiler_that_hides_its_callbacks_is_still_an_observer():
    with Profiler(memory=None) as prof:
        prof.begin("run", "lab")
        prof.end()
    assert prof.profile.spans["name"].to_list() == ["lab"]


def test_tab_on_a_residency_shows_what_a_user_calls():
    assert completed("managed.", managed=apply(Pipeline(), Plan.of())) == [ON_A_RESIDENCY] * 2
