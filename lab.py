"""Run Residency Lab: `python lab.py demo`, or `make demo`, in a fresh clone with nothing but Python.

Every command first makes `.venv`, the environment of this clone, where it is missing or out of date: pip, the versions
of constraints.txt, the four packages editable. A torch that is already installed, in `.venv` or in the Python that runs
this file, is kept: the new `.venv` sees it where it lies, and pip is told to want no other version.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV, MY = ROOT / ".venv", ROOT / "my"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PACKAGES = [ROOT / "packages" / name for name in ("stages", "profiler", "residency", "ltx2")]
RENDER = ROOT / "notebooks" / "render.py"
DEMO = ["notebooks/00_what_does_offloading_cost.ipynb", "notebooks/01_what_happens.ipynb"]

# Under another Python: the version of its torch, then where torch and all that it requires there lie.
TORCH = """
import importlib.metadata as metadata, re
found, wanted = {}, ["torch"]
while wanted:
    name = wanted.pop().lower()
    if name not in found and list(metadata.distributions(name=name)):
        found[name] = metadata.distribution(name)
        wanted += [re.match(r"[\\w.-]+", line)[0] for line in found[name].requires or () if "extra ==" not in line]
print(found["torch"].version)
for part in found.values():
    for top in sorted({file.parts[0] for file in part.files or ()} - {"..", "__pycache__"}):
        print(part.locate_file(top))
"""
PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"
DEVICE = "from reslab.ltx2 import default_device; print(default_device())"
#: The engine's bits do not depend on the processor, so they are held under another instruction set than its best, too.
OTHER_ISA = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
IDENTITY = ["-m", "identity", "tests/residency/test_engine.py", "tests/residency/test_engine_files.py"]
ON_GPU = ("01", "02", "03", "04", "05", "08")  # 00 runs without torch


def setup():
    """Make .venv, once for each state of constraints.txt and the pyproject.toml files."""
    stamp, wanted = VENV / "reslab.stamp", fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists():
        create_venv()
    install = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", write_pins()]
    step("install the build backend", *install, "hatchling", "editables")
    editable = [word for package in PACKAGES for word in ("-e", package)]
    step("install the packages and their tools (minutes)", *install, "--no-build-isolation", *editable, *tools())
    stamp.write_text(wanted)


def fingerprint():
    """Hash what decides the content of .venv."""
    files = [ROOT / "constraints.txt", ROOT / "pyproject.toml", *(package / "pyproject.toml" for package in PACKAGES)]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def create_venv():
    """Make an empty .venv which sees the torch of the Python that runs this, if there is one."""
    step(f"make .venv with Python {sys.version.split()[0]}", sys.executable, "-m", "venv", VENV)
    torch = find_torch(sys.executable)
    if torch and link(torch[1:], VENV / "kept"):
        Path(ask(PYTHON, PURELIB), "kept.pth").write_text(f"{VENV / 'kept'}\n", encoding="utf-8")
        say(f"keep torch {torch[0]}, which {sys.executable} has")


def link(paths, folder):
    """Link torch and what it requires into a folder: its neighbours there are none of ours."""
    folder.mkdir()
    try:
        for path in map(Path, paths):
            (folder / path.name).symlink_to(path, target_is_directory=path.is_dir())
    except OSError as error:
        say(f"torch is installed anew, since this system lets nobody link to the one that is there ({error.strerror})")
    else:
        return True


def find_torch(python):
    """Return the version of the torch that an interpreter has and the paths of its parts, or nothing."""
    return ask(python, TORCH).splitlines()


def ask(python, code):
    """Return what a line of Python prints under another interpreter; nothing where it fails."""
    return subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def write_pins():
    """Write the constraints to use: the tested ones, but for an installed torch its own version, whatever that is."""
    pins, torch = (ROOT / "constraints.txt").read_text().splitlines(), find_torch(PYTHON)
    if torch:
        pins = [pin for pin in pins if not pin.startswith("torch==")] + [f"torch=={torch[0]}"]
    path = VENV / "constraints.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


def tools():
    """List what the root pyproject.toml wants beside the packages."""
    import tomllib

    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    return [requirement for group in groups.values() for requirement in group]


def demo():
    """Run the first two notebooks, print what they found and write them as web pages."""
    run(PYTHON, RENDER, "demo", *DEMO)


def lab(*options):
    """Open JupyterLab on your own copy of the notebooks, in my/."""
    copy_notebooks()
    run(PYTHON, "-m", "jupyterlab", f"--ServerApp.root_dir={MY}", *options)


def copy_notebooks():
    """Copy notebooks to my/ where they are new or untouched; one that was changed there stays as it is."""
    MY.mkdir(exist_ok=True)
    record = MY / ".copied.json"
    copied = json.loads(record.read_text()) if record.exists() else {}
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        target, new, known = MY / source.name, digest(source), copied.get(source.name)
        if target.exists() and digest(target) not in (known, new):
            say(f"my/{source.name} is kept, since you changed it" + ("; move it to get the new one" * (new != known)))
        else:
            shutil.copyfile(source, target)
            copied[source.name] = new
    record.write_text(json.dumps(copied, indent=1))


def digest(path):
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check():
    """Lint, format, direction of imports, types."""
    step("ruff check", PYTHON, "-m", "ruff", "check")
    step("ruff format", PYTHON, "-m", "ruff", "format", "--check")
    step("import-linter", PYTHON.with_name("lint-imports"), "--no-cache")
    step("mypy", PYTHON, "-m", "mypy")


def test(*options):
    """Check, then run the unit, property, doc, notebook, packaging and browser tests, as CI does."""
    check()
    run(PYTHON, "-m", "pytest", "-q", "-n", "2", "--dist", "loadscope", *options)
    if not options:
        say("the engine's bits once more, on " + " ".join(f"{name}={value}" for name, value in OTHER_ISA.items()))
        run(PYTHON, "-m", "pytest", "-q", *IDENTITY, env=os.environ | OTHER_ISA)


def test_gpu(*options):
    """Run notebooks 01 to 05 and 08 on a GPU, where the assertions in their cells decide."""
    device = ask(PYTHON, DEVICE)  # RESLAB_DEVICE where it is set
    if device in ("", "cpu"):
        said = (
            f"RESLAB_DEVICE={os.environ['RESLAB_DEVICE']}" if "RESLAB_DEVICE" in os.environ else "torch sees none here"
        )
        sys.exit(f"test-gpu wants a GPU, and {said}; `test` runs the same notebooks on the CPU")
    say(f"run notebooks {', '.join(ON_GPU)} on {device}; 08 takes up to ten minutes")
    paths = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.name[:2] in ON_GPU]
    lax = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    run(PYTHON, "-m", "pytest", "-q", "-o", "addopts=", *lax, *paths, *options)


def notebooks(*paths):
    """Execute and render the committed notebooks, all or the named ones."""
    run(PYTHON, RENDER, "commit", *paths)


def bench(*names):
    """Run the benchmarks, all or the named ones, one after the other."""
    for script in sorted((ROOT / "benchmarks").glob("[!_]*.py")):
        if not names or script.stem in names:
            run(PYTHON, script)


def rehearsals(*options):
    """Make the rehearsals that ship again, all or, with --missing, those that are not there: minutes."""
    run(PYTHON, "-m", "reslab.ltx2._rehearsal", *options)


def release(package="", version=""):
    """Release a package: its version, a dated section of its CHANGELOG, the ranges of its siblings, a commit, a tag."""
    folder, name = ROOT / "packages" / package, f"reslab-{package}"
    if folder not in PACKAGES or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit("release wants a package and a version: lab.py release residency 0.2.0")
    if git("status", "--porcelain"):
        sys.exit("release commits what it writes, so commit or drop your own changes first")
    source = folder / "src" / "reslab" / package / "__init__.py"
    before = re.search(r'^__version__ = "(.+)"$', source.read_text(encoding="utf-8"), re.MULTILINE)[1]
    if numbers(version) <= numbers(before):
        sys.exit(f"{name} is at {before}, and a release goes up: {version} does not")
    changes = folder / "CHANGELOG.md"
    if not re.search(r"^## \[Unreleased\]\n+###", changes.read_text(encoding="utf-8"), re.MULTILINE):
        sys.exit(f"nothing is unreleased in {changes.relative_to(ROOT)}")
    replace(source, f'__version__ = "{before}"', f'__version__ = "{version}"')
    replace(changes, "## [Unreleased]\n", f"## [Unreleased]\n\n## [{version}] - {datetime.date.today()}\n")
    for sibling in PACKAGES:
        move_range(sibling, name, numbers(version))
    git("commit", "--all", "--quiet", "--message", f"Release {name} {version}")
    git("tag", "--annotate", f"{name}-{version}", "--message", f"{name} {version}")
    say(f"{name} {version} is committed and tagged {name}-{version}")


def move_range(sibling, name, version):
    """Have a package ask for the minor version that is released, where its range does not admit it."""
    project, (major, minor, _) = sibling / "pyproject.toml", version
    found = re.search(rf'"{name}>=(\d+\.\d+),<(\d+\.\d+)"', project.read_text(encoding="utf-8"))
    if not found or numbers(found[1]) <= (major, minor) < numbers(found[2]):
        return
    replace(project, found[0], f'"{name}>={major}.{minor},<{major}.{minor + 1}"')
    changes, line = sibling / "CHANGELOG.md", f"### Changed\n\n- Stands on {name} {major}.{minor}.\n"
    unreleased = changes.read_text(encoding="utf-8").split("\n## [")[1]
    head = "### Changed\n\n" if "### Changed\n" in unreleased else "## [Unreleased]\n\n"
    replace(changes, head, line if head.startswith("###") else f"{head}{line}\n")


def numbers(version):
    """Return a version as numbers, which compare."""
    return tuple(map(int, version.split(".")))


def replace(path, old, new):
    """Replace the first place where a file has a text."""
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")


def git(*words):
    """Return what git prints, in this checkout; stop with its error."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


def site(*paths):
    """Write the notebooks, all or the named ones, as web pages to site/."""
    run(PYTHON, RENDER, "pages", *paths)


def step(title, *command):
    """Run a command silently under one line; where it fails, show what it said and stop."""
    say(title)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout.decode(errors='replace')}\n{title}: failed")


def run(*command, env=None):
    """Run a command that talks for itself; where it fails, stop with its exit code."""
    code = subprocess.run(command, cwd=ROOT, check=False, env=env).returncode
    if code:
        sys.exit(code)


def say(line):
    """Print one line, at once."""
    print(f"- {line}", flush=True)


def main():
    """Run the command named first; what follows its name is passed on to it."""
    functions = (setup, demo, lab, test, test_gpu, check, notebooks, rehearsals, bench, site, release)
    commands = {function.__name__.replace("_", "-"): function for function in functions}
    told = "\n".join(f"  {name:<10} {function.__doc__}" for name, function in commands.items())
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(usage="lab.py COMMAND [OPTIONS]", epilog=told, formatter_class=shape)
    parser.add_argument("command", choices=commands, metavar="COMMAND", help="one of:")
    name = parser.parse_args(sys.argv[1:2]).command
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        sys.exit(f"Residency Lab wants Python 3.11 to 3.14, and this is {sys.version.split()[0]}: {sys.executable}")
    if name not in ("setup", "release"):
        setup()
    commands[name](*sys.argv[2:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
