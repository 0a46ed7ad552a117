"""What importing and using stages loads: the standard library alone."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "numpy", "polars", "altair", "IPython")


def loaded(code):
    """The heavy modules that are loaded after this code, in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_importing_stages_loads_the_standard_library_alone():
    assert loaded("import reslab.stages") == []


def test_running_observing_and_showing_a_pipeline_loads_the_standard_library_alone():
    code = """
from reslab.stages import Pipeline, stage
pipeline = Pipeline({"vae": 1}).add(stage(lambda vae, a: {"b": a + vae}), name="add")
pipeline._repr_html_()
class Silent:
    def begin(self, kind, name, index=-1, nbytes=0): pass
    def end(self, error=None): pass
with pipeline.observe(Silent()):
    assert pipeline.run(a=1).b == 2
"""
    assert loaded(code) == []


def test_this_test_would_see_a_heavy_module():
    pytest.importorskip("numpy")
    assert loaded("import numpy") == ["numpy"]
