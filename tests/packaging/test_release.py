"""Releases: what `lab.py release` writes, and that each release runs with every sibling that its range admits."""

import datetime
import io
import itertools
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

TODAY = datetime.date.today().isoformat()
PROJECT = '[project]\ndependencies = ["reslab-stages>=0.1,<0.2", "numpy>=2"]\n'
CHANGES = (
    "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-01-01\n\n### Added\n\n- All.\n"
)


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, check=True, text=True).stdout.strip()


@pytest.fixture
def lab(lab_module, tmp_path, monkeypatch):
    """lab.py over a repository of two packages, of which the second stands on the first."""
    packages = [tmp_path / "packages" / name for name in ("stages", "profiler")]
    monkeypatch.setattr(lab_module, "ROOT", tmp_path)
    monkeypatch.setattr(lab_module, "PACKAGES", packages)
    for folder in packages:
        source = folder / "src" / "reslab" / folder.name
        source.mkdir(parents=True)
        (source / "__init__.py").write_text('__version__ = "0.1.0"\n')
        (folder / "pyproject.toml").write_text(PROJECT if folder.name == "profiler" else "[project]\n")
        (folder / "CHANGELOG.md").write_text(CHANGES)
    for key, value in (("NAME", "A"), ("EMAIL", "a@example.org")):
        monkeypatch.setenv(f"GIT_AUTHOR_{key}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{key}", value)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "First")
    return lab_module


def test_a_release_dates_the_changes_and_is_committed_and_tagged(lab, tmp_path):
    lab.release("stages", "0.2.0")
    folder = tmp_path / "packages" / "stages"
    assert (folder / "src/reslab/stages/__init__.py").read_text() == '__version__ = "0.2.0"\n'
    headings = re.findall(r"^## .+$", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings == ["## [Unreleased]", f"## [0.2.0] - {TODAY}", "## [0.1.0] - 2026-01-01"]
    assert git(tmp_path, "log", "--format=%s", "-1", "reslab-stages-0.2.0") == "Release reslab-stages 0.2.0"
    assert git(tmp_path, "status", "--porcelain") == ""


def test_a_release_moves_the_ranges_of_siblings_and_says_so_in_their_changelogs(lab, tmp_path):
    lab.release("stages", "0.2.0")
    profiler = tmp_path / "packages" / "profiler"
    assert '"reslab-stages>=0.2,<0.3", "numpy>=2"' in (profiler / "pyproject.toml").read_text()
    assert (
        "## [Unreleased]\n\n### Changed\n\n- Stands on reslab-stages 0.2.\n\n### Added\n\n- A thing."
        in (profiler / "CHANGELOG.md").read_text()
    )


def test_a_patch_leaves_the_ranges_that_admit_it(lab, tmp_path):
    lab.release("stages", "0.1.1")
    assert (tmp_path / "packages" / "profiler" / "pyproject.toml").read_text() == PROJECT


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((), "wants a package and a version: lab.py release residency 0.2.0"),
        (("unet", "0.2.0"), "wants a package and a version"),
        (("stages", "0.2"), "wants a package and a version"),
        (("stages", "0.1.0"), "is at 0.1.0, and a release goes up: 0.1.0 does not"),
    ],
)
def test_what_cannot_be_released_is_refused_and_nothing_is_written(lab, tmp_path, asked, message):
    with pytest.raises(SystemExit, match=message):
        lab.release(*asked)
    assert git(tmp_path, "status", "--porcelain") == ""


def test_changes_of_your_own_and_a_changelog_without_changes_are_named(lab, tmp_path):
    lab.release("stages", "0.2.0")
    with pytest.raises(SystemExit, match=r"nothing is unreleased in packages/stages/CHANGELOG\.md"):
        lab.release("stages", "0.3.0")
    (tmp_path / "packages" / "stages" / "new.py").touch()
    with pytest.raises(SystemExit, match="commit or drop your own changes first"):
        lab.release("stages", "0.3.0")


IMPORT = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
for name in sys.argv[2:]:
    module = importlib.import_module(f"reslab.{name}")
    [getattr(module, each) for each in module.__all__]
    print(name, module.__version__)
"""


@pytest.fixture(scope="module")
def releases(root, packages):
    """Which commit of this history released which version of each package."""
    found = {package.name: {} for package in packages}
    for line in git(root, "log", "--format=%H %s", "--grep=^Release reslab-").splitlines():
        commit, _, name, version = line.split()
        found[name.removeprefix("reslab-")][Version(version)] = commit
    if not all(found.values()):
        pytest.skip("the history of this clone does not go back to a release of each package")
    return found


@pytest.fixture(scope="module")
def unpacked(root, releases, tmp_path_factory):
    """Build and unpack the wheel of a release, once."""
    folder, done = tmp_path_factory.mktemp("releases"), {}

    def build(name, version):
        target = folder / f"{name}-{version}"
        if target not in done:
            archive = ["git", "archive", releases[name][version], f"packages/{name}"]
            packed = io.BytesIO(subprocess.run(archive, cwd=root, capture_output=True, check=True).stdout)
            with tarfile.open(fileobj=packed) as tar:
                tar.extractall(target / "source", filter="data")
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
            subprocess.run([*build, "-w", target, target / "source" / "packages" / name], check=True)
            zipfile.ZipFile(next(target.glob("*.whl"))).extractall(target / "installed")
            done[target] = target / "installed"
        return done[target]

    return build


def siblings(root, releases, name, version):
    """Return the versions of each sibling that a release admits, the oldest first."""
    text = git(root, "show", f"{releases[name][version]}:packages/{name}/pyproject.toml")
    asked = map(Requirement, tomllib.loads(text)["project"]["dependencies"])
    return {
        requirement.name.removeprefix("reslab-"): sorted(
            each for each in releases[requirement.name.removeprefix("reslab-")] if each in requirement.specifier
        )
        for requirement in asked
        if requirement.name.startswith("reslab-")
    }


def test_the_newest_release_imports_beside_the_oldest_and_the_newest_siblings_it_admits(
    root, releases, unpacked, package, tmp_path
):
    version = max(releases[package.name])
    admitted = siblings(root, releases, package.name, version)
    assert all(admitted.values()), f"no release is in a range of {package.name} {version}: {admitted}"
    others = [entry for entry in sys.path if entry and not entry.startswith(str(root / "packages"))]
    for chosen in {tuple((name, each[end]) for name, each in admitted.items()) for end in (0, -1)}:
        folders = [str(unpacked(*each)) for each in ((package.name, version), *chosen)]
        # -S reads no .pth file, so the editable installs are unknown; -I takes nothing from the environment
        command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", IMPORT, json.dumps([*folders, *others])]
        command += [name for name, _ in chosen] + [package.name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said = [f"{name} {each}" for name, each in (*chosen, (package.name, version))]
        assert done.stdout.splitlines() == said


def test_tags_name_the_commits_of_releases(root, releases):
    tags = set(git(root, "tag", "--list", "reslab-*").splitlines())
    for name, version in itertools.chain.from_iterable(((n, v) for v in found) for n, found in releases.items()):
        if f"reslab-{name}-{version}" in tags:
            assert git(root, "rev-list", "-1", f"reslab-{name}-{version}") == releases[name][version]
