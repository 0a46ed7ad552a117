"""docs/glossary.md says what the packages say, and `help(residency.Plan)` the part of it that a plan needs."""

import importlib.util
import inspect

import pytest

from reslab import residency
from reslab.residency._plan._placement import FIELDS, Place
from reslab.residency._plan._plan_help import WORDS, plan_help

#: The words that STYLE asks for.
FIELD = """stage component block placement resident swap layerwise prefetch evict slot pool pinned host device H2D peak
step pass latent denoise refine decode argument user schedule release"""


@pytest.fixture(scope="module")
def glossary(root):
    """docs/glossary.py as a module."""
    spec = importlib.util.spec_from_file_location("glossary", root / "docs" / "glossary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_glossary_is_what_its_script_writes(glossary):
    assert glossary.TARGET.read_text(encoding="utf-8") == glossary.text(), "run `python docs/glossary.py`"


def test_the_help_of_a_plan_is_in_the_glossary(glossary):
    assert plan_help() in inspect.getdoc(residency.Plan)
    assert plan_help() in glossary.text()


def test_the_glossary_has_every_choice_of_every_package_with_a_sentence(glossary):
    kinds = [kind for package in glossary.PACKAGES for kind in glossary.described(package)]
    written = glossary.text()
    assert {"Kind", "Change", "PresetName", "Act", "DecodeTiling"} <= {kind.__name__ for kind in kinds}
    for member in (member for kind in kinds for member in kind):
        assert member.doc.endswith(".")
        assert f'- "{member}": {member.doc}' in written


def test_the_help_of_a_plan_has_every_word_of_the_field():
    assert [word for word in FIELD.split() if word not in WORDS] == []
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in WORDS.values())
    assert list(WORDS) == sorted(WORDS, key=str.casefold)


def test_the_help_of_a_plan_names_every_place_and_each_of_its_settings():
    unwrapped = " ".join(plan_help().split())
    for place in Place:
        own = ", ".join(f"`{name}`" for name in FIELDS[place]) or "It has no settings"
        assert f'- "{place}": {place.doc} {f"Settings: {own}" if FIELDS[place] else own}.' in unwrapped
