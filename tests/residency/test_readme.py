"""What the package's README shows is what happens."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "packages" / "residency" / "README.md"


def test_plan_of_the_readme_fits_its_card_as_the_readme_says():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    (shown,) = re.findall(r"True, with ([\d.]+) GiB at the tightest stage", code)
    limits = names["limits"]
    assert limits.fits
    assert f"{limits.peak_bytes / 2**30:.2f}" == shown
