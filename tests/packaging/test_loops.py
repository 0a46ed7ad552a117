"""No module imports one that imports it, in whatever way: at the top, inside a function, or for types alone."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def house():
    """benchmarks/house.py as a module."""
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_residency_outside_the_engine_has_no_import_loop():
    measured = house()
    found = measured.loops(measured.graph(ROOT))
    outside = [group for group in found if any("residency" in name and "_engine" not in name for name in group)]
    assert outside == []


def test_a_loop_through_a_function_is_found(tmp_path):
    for package in ("stages", "profiler", "residency", "ltx2"):
        folder = tmp_path / "packages" / package / "src" / "reslab" / package
        folder.mkdir(parents=True)
        (folder / "_one.py").write_text(f"from reslab.{package} import _two\n\nx = _two\n")
        (folder / "_two.py").write_text("def ask():\n    from reslab.stages._one import x\n\n    return x\n")
    measured = house()
    assert measured.loops(measured.graph(tmp_path)) == [["reslab.stages._one", "reslab.stages._two"]]
