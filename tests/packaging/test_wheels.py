"""Wheels of all four packages are built, and import from a place that does not know the checkout."""

import json
import subprocess
import sys
import zipfile

import pytest

IMPORT = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
print(json.dumps({name: importlib.import_module(f"reslab.{name}").__file__ for name in sys.argv[2:]}))
"""


@pytest.fixture(scope="module")
def wheels(packages, tmp_path_factory):
    """Build the four wheels with the installed hatchling, offline."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", folder, *(package.folder for package in packages)], check=True)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """Unpack the four wheels over each other in one folder, as an installer does."""
    folder = tmp_path_factory.mktemp("installed")
    for wheel in wheels.values():
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheels_carry_name_and_version(wheels, packages):
    expected = {f"reslab_{package.name}": package.version for package in packages}
    assert {name: path.name.split("-")[1] for name, path in wheels.items()} == expected


def test_wheels_hold_every_module_their_types_and_the_license(wheels, package):
    names = zipfile.ZipFile(wheels[f"reslab_{package.name}"]).namelist()
    sources = {path.relative_to(package.folder / "src").as_posix() for path in package.modules}
    assert sources | {f"reslab/{package.name}/py.typed"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_no_wheel_owns_the_namespace(wheels):
    for wheel in wheels.values():
        assert "reslab/__init__.py" not in zipfile.ZipFile(wheel).namelist()


def test_installed_wheels_import_without_the_checkout(installed, packages, root, tmp_path):
    names = [package.name for package in packages]
    others = [entry for entry in sys.path if entry and not entry.startswith(str(root / "packages"))]
    # -S reads no .pth file, so the editable installs are unknown; -I takes nothing from the environment or the folder
    command = [sys.executable, "-I", "-S", "-c", IMPORT, json.dumps([str(installed), *others]), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {name: str(installed / "reslab" / name / "__init__.py") for name in names}
    assert json.loads(done.stdout) == expected
