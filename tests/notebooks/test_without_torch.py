"""Notebook 00 runs where there is no torch, with every picture and table; what cannot be had there is said at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "00_what_does_offloading_cost.ipynb"
BLOCK = """
import sys
blocked = dict.fromkeys(("torch", "diffusers", "transformers", "accelerate", "peft"))
sys.modules.update(blocked)  # None: importing it is an ImportError
"""
RUN = f"""
import sys
{BLOCK}
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


REFUSED = f"""{BLOCK}
import json
from reslab import ltx2

try:
    ltx2.rehearsal("LTX-2.3", **json.loads(sys.argv[1]))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"width": 1280, "height": 720, "num_frames": 121}, ["height=720", "704", "width=1280, height=704"]),
        ({"width": 720, "height": 1280, "num_frames": 121}, ["width=720", "704", "width=704, height=1280"]),
        ({"width": 768, "height": 512, "num_frames": 120}, ["num_frames=120", "121", "width=768, height=512"]),
        ({"width": 1024, "height": 768, "num_frames": 97}, ["LTX-2.3 1024×768×97", "torch", "that ships is width="]),
        ({"width": 768, "height": 512, "num_frames": 121, "stages": "one"}, ["these settings", "torch"]),
        ({"width": 0, "height": 512}, ["width=0", "64", "that ships is width=768, height=512"]),
    ],
)
def test_a_refused_or_unknown_size_names_the_nearest_that_ships_without_torch(request_, said):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, json.dumps(request_)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(each in done.stdout for each in said), done.stdout


@pytest.mark.parametrize("size", [(1280, 704), (704, 1280), (960, 576), (1280, 768)])
def test_sizes_near_720p_and_upright_ship(size):
    width, height = size
    code = f"""{BLOCK}
from reslab import ltx2
for name in ("LTX-2", "LTX-2.3", "LTX-2.3 distilled"):
    ltx2.rehearsal(name, width={width}, height={height}, num_frames=121)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_refused_size_is_refused_before_torch_is_imported():
    code = """
import sys
from reslab import ltx2
try:
    ltx2.rehearsal("LTX-2.3", width=1280, height=720, num_frames=121)
except ValueError:
    print([name for name in ("torch", "diffusers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
