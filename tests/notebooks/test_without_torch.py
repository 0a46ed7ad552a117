"""Notebook 00 runs where there is no torch: every cell, and every picture and table that it shows."""

import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "00_what_does_offloading_cost.ipynb"
RUN = f"""
import sys
blocked = dict.fromkeys(("torch", "diffusers", "transformers", "accelerate", "peft"))
sys.modules.update(blocked)  # None: importing it is an ImportError
import nbformat
from IPython.core.interactiveshell import InteractiveShell

shell, shown = InteractiveShell.instance(), 0
for cell in nbformat.read({str(NOTEBOOK)!r}, as_version=4).cells:
    if cell.cell_type == "code":
        done = shell.run_cell(cell.source)
        done.raise_error()
        if done.result is not None:
            formats, _ = shell.display_formatter.format(done.result)
            shown += "image/png" in formats
assert {{name: sys.modules[name] for name in blocked}} == blocked
print("pictures:", shown)
"""


def test_notebook_00_runs_and_draws_without_torch():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    assert done.stdout.endswith("pictures: 4\n")
