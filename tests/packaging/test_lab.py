"""lab.py keeps what is yours: the torch that you have, the notebooks that you changed."""

import re
import subprocess
import sys
import venv
from types import SimpleNamespace

import pytest

TORCH_RECORD = "torch/__init__.py,,\ntorch-2.9.1+yours.dist-info/METADATA,,\n../../../bin/torchrun,,\n"
TORCH_METADATA = "Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1+yours\n"


@pytest.fixture
def lab(lab_module, tmp_path, monkeypatch):
    """lab.py as a module which takes a temporary folder for the checkout."""
    module = lab_module
    inside = {"ROOT": tmp_path, "MY": tmp_path / "my", "VENV": tmp_path / ".venv"}
    inside["PYTHON"] = inside["VENV"] / module.PYTHON.relative_to(module.VENV)
    for name, value in inside.items():
        monkeypatch.setattr(module, name, value)
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\ntorch==2.13.0\n")
    return module


@pytest.fixture
def python_with_torch(lab, tmp_path):
    """Another Python that has a torch, here one of a single line."""
    venv.create(tmp_path / "yours", with_pip=False)
    python = tmp_path / "yours" / lab.PYTHON.relative_to(lab.VENV)
    site = lab.Path(lab.ask(python, lab.PURELIB))
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text("mine = True\n")
    (site / "torch-2.9.1+yours.dist-info").mkdir()
    (site / "torch-2.9.1+yours.dist-info" / "METADATA").write_text(TORCH_METADATA)
    (site / "torch-2.9.1+yours.dist-info" / "RECORD").write_text(TORCH_RECORD)
    (site / "neighbour.py").write_text("stranger = True\n")
    return str(python)


@pytest.fixture
def no_pip(lab, monkeypatch):
    """Environments without pip, which would take most of the time: they are asked what they see, and get nothing."""
    monkeypatch.setattr(lab, "step", lambda title, *command: venv.create(lab.VENV, with_pip=False))


def test_a_new_environment_sees_the_torch_that_is_there(lab, python_with_torch, no_pip, monkeypatch, capsys):
    monkeypatch.setattr(lab.sys, "executable", python_with_torch)
    lab.create_venv()
    assert "keep torch 2.9.1+yours" in capsys.readouterr().out
    assert lab.ask(lab.PYTHON, "import torch; print(torch.mine)") == "True"


def test_a_new_environment_sees_no_neighbour_of_that_torch(lab, python_with_torch, no_pip, monkeypatch):
    monkeypatch.setattr(lab.sys, "executable", python_with_torch)
    lab.create_venv()
    assert lab.ask(lab.PYTHON, "import neighbour; print(neighbour.stranger)") == ""


def test_where_links_are_not_allowed_torch_is_installed_anew(lab, python_with_torch, no_pip, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(lab.sys, "executable", python_with_torch)
    monkeypatch.setattr(lab.Path, "symlink_to", refuse)
    lab.create_venv()
    assert "torch is installed anew" in capsys.readouterr().out
    assert lab.ask(lab.PYTHON, "import torch; print(torch.mine)") == ""


def test_pip_takes_the_torch_that_is_there_for_the_one_it_wants(lab, python_with_torch, monkeypatch, capsys):
    monkeypatch.setattr(lab.sys, "executable", python_with_torch)
    lab.create_venv()
    pip = [lab.PYTHON, "-m", "pip", "install", "--no-index", "-c", lab.write_pins(), "torch>=2.6"]
    assert "already satisfied: torch" in subprocess.run(pip, capture_output=True, text=True, check=True).stdout


def test_pins_follow_an_installed_torch_and_leave_the_rest(lab, python_with_torch, monkeypatch):
    monkeypatch.setattr(lab, "PYTHON", python_with_torch)
    lab.VENV.mkdir()
    assert lab.write_pins().read_text().split() == ["numpy==2.4.6", "torch==2.9.1+yours"]


def test_pins_are_the_tested_ones_without_an_installed_torch(lab, monkeypatch):
    monkeypatch.setattr(lab, "find_torch", lambda python: [])
    lab.VENV.mkdir()
    assert lab.write_pins().read_text().split() == ["numpy==2.4.6", "torch==2.13.0"]


def test_setup_does_nothing_twice_and_something_after_a_change(lab, monkeypatch):
    done = []
    monkeypatch.setattr(lab, "PACKAGES", [])
    monkeypatch.setattr(lab, "create_venv", lab.VENV.mkdir)
    monkeypatch.setattr(lab, "step", lambda title, *command: done.append(title))
    monkeypatch.setattr(lab, "find_torch", lambda python: [])
    (lab.ROOT / "pyproject.toml").write_text("[dependency-groups]\n")
    lab.setup()
    lab.setup()
    assert len(done) == 2
    (lab.ROOT / "constraints.txt").write_text("numpy==2.4.7\n")
    monkeypatch.setattr(lab, "create_venv", lambda: None)
    lab.setup()
    assert len(done) == 4


@pytest.fixture
def notebooks(lab):
    """A folder of one notebook, copied to my/ once."""
    folder = lab.ROOT / "notebooks"
    folder.mkdir()
    files = SimpleNamespace(theirs=folder / "01_a.ipynb", mine=lab.MY / "01_a.ipynb")
    files.theirs.write_text("old")
    lab.copy_notebooks()
    return files


def test_an_untouched_copy_follows_the_original(lab, notebooks):
    notebooks.theirs.write_text("new")
    lab.copy_notebooks()
    assert notebooks.mine.read_text() == "new"


def test_a_changed_copy_stays_and_is_named(lab, notebooks, capsys):
    notebooks.mine.write_text("mine")
    notebooks.theirs.write_text("new")
    lab.copy_notebooks()
    assert notebooks.mine.read_text() == "mine"
    assert capsys.readouterr().out == "- my/01_a.ipynb is kept, since you changed it; move it to get the new one\n"


def test_a_changed_copy_that_was_moved_away_is_replaced(lab, notebooks):
    notebooks.mine.write_text("mine")
    notebooks.mine.rename(notebooks.mine.with_name("kept.ipynb"))
    lab.copy_notebooks()
    assert notebooks.mine.read_text() == "old"


def test_a_step_that_fails_shows_what_it_said(lab):
    with pytest.raises(SystemExit, match="no such thing\n\nlook: failed"):
        lab.step("look", sys.executable, "-c", "import sys; sys.exit('no such thing')")


@pytest.fixture
def gpu_run(lab, monkeypatch):
    """What `test-gpu` runs, in a checkout of three notebooks, where torch says that the device is `device`."""
    ran = SimpleNamespace(device="cuda:1", command=None)
    (lab.ROOT / "notebooks").mkdir()
    for name in ("00_a", "01_b", "08_c"):
        (lab.ROOT / "notebooks" / f"{name}.ipynb").touch()
    monkeypatch.setattr(lab, "ask", lambda python, code: ran.device)
    monkeypatch.setattr(lab, "run", lambda *command: setattr(ran, "command", command))
    return ran


def test_test_gpu_runs_the_notebooks_that_compute_lax(lab, gpu_run, capsys):
    lab.test_gpu("-k", "names")
    assert [path.stem for path in gpu_run.command if isinstance(path, lab.Path)][1:] == ["01_b", "08_c"]
    assert {"--nbval-lax", "-k", "names"} <= set(gpu_run.command)
    assert capsys.readouterr().out.startswith("- run notebooks 01, 02, 03, 04, 05, 08 on cuda:1;")


@pytest.mark.parametrize(("device", "asked", "told"), [("cpu", None, "torch sees none here"), ("", "cuda:9", "cuda:9")])
def test_test_gpu_without_a_gpu_is_one_line_and_an_error(lab, gpu_run, monkeypatch, device, asked, told):
    gpu_run.device = device
    monkeypatch.delenv("RESLAB_DEVICE")
    if asked:
        monkeypatch.setenv("RESLAB_DEVICE", asked)
    with pytest.raises(SystemExit) as stopped:
        lab.test_gpu()
    assert str(stopped.value).startswith("test-gpu wants a GPU, and ")
    assert told in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert gpu_run.command is None


def test_the_notebooks_of_test_gpu_are_there(root, lab):
    there = {path.name[:2] for path in (root / "notebooks").glob("*.ipynb")}
    assert set(lab.ON_GPU) - there <= {"03", "04"}  # those that are being written


def ask_lab(root, *words):
    """Run the real lab.py."""
    return subprocess.run([sys.executable, "lab.py", *words], cwd=root, capture_output=True, text=True, check=False)


def test_an_unknown_command_names_the_known_ones(root):
    refused = ask_lab(root, "tset")
    assert refused.returncode == 2
    assert {"setup", "demo", "test", "test-gpu"} <= set(re.findall(r"[\w-]+", refused.stderr))


def test_makefile_names_every_command_of_lab(root):
    targets = re.findall(r"^([\w-]+): *; .* lab\.py \1\b", (root / "Makefile").read_text(), re.MULTILINE)
    told = re.findall(r"^  ([a-z-]+) +[A-Z]", ask_lab(root, "-h").stdout, re.MULTILINE)
    assert targets == told
