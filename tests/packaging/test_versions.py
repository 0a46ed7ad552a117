"""Versions, changelogs and the ranges that siblings ask for are held together."""

import re

from packaging.requirements import Requirement
from packaging.version import Version


def siblings_of(package, packages):
    """Yield what a package asks of its siblings, with the sibling that is here."""
    here = {f"reslab-{sibling.name}": sibling for sibling in packages}
    for requirement in map(Requirement, package.project["dependencies"]):
        if requirement.name in here:
            yield requirement, here[requirement.name]


def test_changelog_opens_with_unreleased_and_then_this_version(package):
    headings = re.findall(r"^## \[(.+?)\]", package.read("CHANGELOG.md"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", package.version]


def test_changelog_uses_the_words_of_keep_a_changelog(package):
    sections = re.findall(r"^### (.+)$", package.read("CHANGELOG.md"), re.MULTILINE)
    assert sections
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_changelog_has_no_empty_section(package):
    assert not re.search(r"^### .+\n+(?=#|\Z)", package.read("CHANGELOG.md"), re.MULTILINE)


def test_sibling_ranges_admit_the_sibling_that_is_here(package, packages):
    for requirement, sibling in siblings_of(package, packages):
        assert sibling.version in requirement.specifier


def test_sibling_ranges_end_before_the_next_minor_version(package, packages):
    for requirement, sibling in siblings_of(package, packages):
        version = Version(sibling.version)
        assert f"{version.major}.{version.minor + 1}.0" not in requirement.specifier


def test_siblings_are_asked_for_in_one_direction(package, packages):
    below = packages[: [sibling.name for sibling in packages].index(package.name)]
    asked = [sibling.name for _, sibling in siblings_of(package, packages)]
    assert set(asked) <= {sibling.name for sibling in below}
    assert bool(asked) == bool(below)


def test_license_is_the_one_of_the_whole(package, root):
    assert package.read("LICENSE") == (root / "LICENSE").read_text(encoding="utf-8")
    assert package.project["license"] == "Apache-2.0"
