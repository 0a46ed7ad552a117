"""What the package's README shows is what happens."""

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
