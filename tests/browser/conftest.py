"""A real JupyterLab in a real browser: what the reader of a notebook sees.

A test asks for `jupyter`, puts notebooks into `jupyter.folder`, and drives the browser through `lab_page`:

    def test_notebook_shows_its_table(jupyter, lab_page):
        jupyter.add("notebooks/01_what_happens.ipynb")
        lab_page.open("01_what_happens.ipynb").run_all()
        expect(lab_page.outputs.first).to_contain_text("denoise")

The server listens on a free port of this machine, without a token, on a temporary folder and with temporary settings.
Without Chromium these tests are skipped, except in CI, which installs one.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync")
START_TIMEOUT_S = 90
RUN_TIMEOUT_MS = 120_000
RUN_PROMPT = re.compile(r"^\[\d+\]:$")
# Every cell is in the page, also below its lower edge, and nothing pops up over it.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@dataclass(frozen=True, kw_only=True)
class Jupyter:
    """A running JupyterLab."""

    url: str
    folder: Path

    def add(self, path: str) -> Path:
        """Copy a file of the checkout to where JupyterLab sees it."""
        return Path(shutil.copy(ROOT / path, self.folder))


@dataclass(frozen=True, kw_only=True)
class LabPage:
    """A browser page on JupyterLab."""

    page: Page
    jupyter: Jupyter

    def open(self, name: str) -> "LabPage":
        """Open a notebook alone on the page and wait until its kernel is idle."""
        self.page.goto(f"{self.jupyter.url}/doc/tree/{name}?reset")
        expect(self.page.locator(".jp-NotebookPanel")).to_be_visible(timeout=RUN_TIMEOUT_MS)
        self.wait_until_idle()
        return self

    def run_all(self) -> "LabPage":
        """Run every cell from the menu, as a person does, and wait until each has its number."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt")
        expect(prompts).to_have_text([RUN_PROMPT] * prompts.count(), timeout=RUN_TIMEOUT_MS)
        self.wait_until_idle()
        return self

    def wait_until_idle(self) -> None:
        """Wait until the kernel is there and has nothing to do."""
        status = self.page.locator("#jp-main-statusbar")
        expect(status).to_contain_text("| Idle", timeout=RUN_TIMEOUT_MS)

    @property
    def outputs(self) -> Locator:
        """What the cells show."""
        return self.page.locator(".jp-OutputArea-output")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("CI wants a Chromium on the PATH for the browser tests; .ci/run installs it")
    if found is None:
        pytest.skip("no Chromium on the PATH: install one to see the notebooks as a reader does")
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def jupyter(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A JupyterLab on an empty folder, for as long as the browser tests run."""
    folder, state, port = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("state"), free_port()
    with (state / "log").open("w") as log:
        server = subprocess.Popen(command(folder, port), env=environment(state), stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/api/status", server, state / "log")
            yield Jupyter(url=url, folder=folder)
        finally:
            server.terminate()
            server.wait(timeout=30)


@pytest.fixture
def lab_page(browser: Browser, jupyter: Jupyter) -> Iterator[LabPage]:
    """A fresh page of the browser, with nothing remembered."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield LabPage(page=context.new_page(), jupyter=jupyter)


def command(folder: Path, port: int) -> list[str]:
    """Say how JupyterLab is started."""
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": "",
    }
    return [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]


def environment(state: Path) -> dict[str, str]:
    """Keep JupyterLab away from the settings of the person whose machine this is, and give it ours."""
    for name, values in SETTINGS.items():
        file = state / "jupyterlab_settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    return os.environ | {name: str(state / name.lower()) for name in names}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers; where it ends first or never does, show its log."""
    give_up = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < give_up:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")
