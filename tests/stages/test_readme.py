"""What the package's README shows is what happens."""

import doctest
import re
from pathlib import Path

README = Path(__file__).parents[2] / "packages" / "stages" / "README.md"


def test_example_of_the_readme_gives_the_result_that_it_shows():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    *before, last = code.strip().splitlines()
    call, shown = last.split("  # ")
    names = {}
    exec("\n".join(before), names)
    assert eval(call, names) == int(shown) == 32


def test_sessions_of_the_readme_give_what_they_show(monkeypatch):
    monkeypatch.setenv("RESLAB_PROGRESS", "0")
    sessions = re.findall(r"```pycon\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, "README", str(README), 0)
    assert len(test.examples) >= 8
    assert doctest.DocTestRunner().run(test).failed == 0
