"""A real JupyterLab in a real browser, for tests in ``notebook/browser``: fixtures, and a notebook to drive.

``lab`` is a JupyterLab server of its own: a free loopback port, a folder that goes away, no settings of the
user, and the kernels of the environment under test. ``open_notebook`` gives notebooks in it::

    def test_something(open_notebook):
        notebook = open_notebook("print('hello')")
        notebook.run(0)
        assert "hello" in notebook.output(0).inner_text()
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import dspy_nb

__all__ = [
    "DARK", "LIGHT", "Lab", "Notebook", "find_browser", "lab", "open_notebook", "show_in_theme", "start_lab",
    "started_browser",
]  # fmt: skip

LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"

PACKAGE_ROOT = Path(dspy_nb.__file__).parents[1]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_SETTINGS: dict[str, dict[str, Any]] = {
    # Every cell is in the page, also those that are scrolled away.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "docmanager-extension/plugin": {"autosave": False},
}
# What no test looks at: a page is there a quarter sooner without.
_NOT_LOADED = (
    "console", "csvviewer", "debugger", "documentsearch", "extensionmanager", "fileeditor", "help", "htmlviewer",
    "hub", "imageviewer", "inspector", "json", "launcher", "logconsole", "lsp", "markdownviewer", "mathjax",
    "mermaid", "pdf", "pluginmanager", "property-inspector", "running", "terminal", "toc", "tooltip", "vega5",
    "workspaces",
)  # fmt: skip
# In a kernel that no notebook has yet: what most notebooks import, and what takes seconds.
_AHEAD_OF_TIME = """
if "JPY_SESSION_NAME" not in __import__("os").environ:
    for name in "dspy", "dspy.teleprompt", "dspy_nb.notebook.magics", "ipywidgets":
        __import__(name)
    del name
"""
_TIMEOUT_S = 240.0  # ends what hangs; a busy machine is not a bug
_LOOK_EVERY_MS = 200
_HAS_KERNEL = (
    "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status in {idle: 1, busy: 1}"
)
# What a page shows is closed as it is, without a question.
_CLEAR = "() => [...jupyterapp.shell.widgets('main')].forEach(shown => shown.dispose())"


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome, ``None`` where there is none."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


# -- the server ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab.

    Attributes:
        url: of the server, without a slash at the end.
        token: for every request.
        root: the folder that it serves.
        settings: the folder of its user settings.
    """

    url: str
    token: str
    root: Path
    settings: Path

    def set_theme(self, name: str) -> None:
        """Show pages that are opened from now on in the theme ``name``, such as "JupyterLab Dark"."""
        _write_setting(self.settings, "apputils-extension/themes", {"theme": name})

    def shut_down_kernels(self) -> None:
        """End the kernel of every notebook."""
        deadline = time.monotonic() + _TIMEOUT_S
        while sessions := self.sessions():
            self.end_sessions(sessions)
            if time.monotonic() > deadline:
                raise RuntimeError(f"kernels do not end: {sessions}")
            time.sleep(0.1)

    def sessions(self) -> list[str]:
        """Return the ids of the sessions: the notebooks that have a kernel."""
        return [session["id"] for session in json.load(self._request("GET", "/api/sessions"))]

    def end_sessions(self, sessions: Sequence[str]) -> None:
        """End sessions and their kernels."""
        for session in sessions:
            with contextlib.suppress(urllib.error.HTTPError):  # it is restarting, or gone by now
                self._request("DELETE", f"/api/sessions/{session}").close()

    def start_kernel(self) -> str:
        """Start a kernel that no notebook has yet, which imports DSPy ahead of time, and return its id."""
        return str(json.load(self._request("POST", "/api/kernels", {"name": "python3"}))["id"])

    def give_kernel(self, file: Path, kernel: str) -> None:
        """Let a notebook that is opened later have a kernel that was started before."""
        session = {"path": file.name, "name": file.name, "type": "notebook", "kernel": {"id": kernel}}
        self._request("POST", "/api/sessions", session).close()

    def is_up(self) -> bool:
        """Whether the server answers."""
        try:
            self._request("GET", "/api/status").close()
        except OSError:
            return False
        return True

    def _request(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"token {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)


@contextlib.contextmanager
def start_lab(home: Path) -> Iterator[Lab]:
    """Run a JupyterLab that keeps everything below ``home``."""
    root, settings = home / "root", home / "settings"
    root.mkdir(parents=True)
    for name, values in _SETTINGS.items():
        _write_setting(settings, name, values)
    pages = home / "config" / "labconfig" / "page_config.json"
    pages.parent.mkdir(parents=True)
    not_loaded = {f"@jupyterlab/{name}-extension": True for name in _NOT_LOADED}
    # Each page would ask whether JupyterLab should be built anew, for which Node is started.
    page_config = {"buildAvailable": False, "buildCheck": False, "disabledExtensions": not_loaded}
    pages.write_text(json.dumps(page_config), encoding="utf-8")
    startup = home / "ipython" / "profile_default" / "startup" / "ahead_of_time.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(_AHEAD_OF_TIME)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), root, settings)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={made.token}", "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=",
        "--ServerApp.terminals_enabled=False", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    log = home / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=_environment(home, settings), cwd=root, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not made.is_up():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield made
        made.shut_down_kernels()
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _environment(home: Path, settings: Path) -> dict[str, str]:
    """Return the environment of the server and of its kernels: nothing of the user's, the code under test."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "PYTEST")) and name not in ("DSPY_NB_LM", "DSPY_NB_REGISTRY")
    }
    path = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **kept,
        "PYTHONPATH": path,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }


def _write_setting(folder: Path, name: str, values: dict[str, Any]) -> None:
    file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), encoding="utf-8")


# -- the browser --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started_browser(executable: str) -> Iterator[Any]:
    """Run a headless browser; yields Playwright's ``Browser``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=_FLAGS, timeout=1000 * _TIMEOUT_S
        )
        try:
            yield browser
        finally:
            browser.close()


class Notebook:
    """A notebook that is open in a page of JupyterLab: in a new page, or in one that shows nothing at the time.

    Cells are counted from 0. Whatever waits gives up after four minutes, or after ``timeout_s``.

    Attributes:
        page: Playwright's page, for what has no method here.
        file: the notebook on disk.
    """

    def __init__(self, page: Any, lab: Lab, file: Path) -> None:
        self.page = page
        self.file = file
        self._url = f"{lab.url}/doc/tree/{file.name}?token={lab.token}"
        page.set_default_timeout(1000 * _TIMEOUT_S)
        if page.url.startswith(lab.url):
            page.evaluate("path => jupyterapp.commands.execute('docmanager:open', {path})", file.name)
            self._wait_until_ready()
        else:
            self.open()

    def open(self) -> None:
        """Load the page, anew if it was open before, and wait until notebook and kernel are ready."""
        self.page.goto(self._url)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        self.wait_for(".jp-Notebook .jp-Cell")
        self.page.wait_for_function(_HAS_KERNEL)

    def cell(self, number: int) -> Any:
        """Return the locator of a cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def output(self, number: int) -> Any:
        """Return the locator of a cell's output."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def start(self, number: int) -> None:
        """Run a cell and do not wait for its end."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def run(self, number: int, timeout_s: float = _TIMEOUT_S) -> None:
        """Run a cell and wait for its end."""
        self.start(number)
        self.wait_until_done(number, timeout_s)

    def is_running(self, number: int) -> bool:
        """Whether a cell runs, or waits for its turn."""
        return "*" in self._prompt(number)

    def is_done(self, number: int) -> bool:
        """Whether a cell has run to its end."""
        return self._prompt(number).strip("[]: \n").isdigit()

    def wait_until_done(self, number: int, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until a cell that was started has ended."""
        self.wait_until(lambda: self.is_done(number), f"cell {number} is running", timeout_s)

    def wait_for(self, selector: str, timeout_s: float = _TIMEOUT_S) -> Any:
        """Wait until the first element that matches is visible, and return its locator."""
        found = self.page.locator(selector).first
        found.wait_for(state="visible", timeout=1000 * timeout_s)
        return found

    def wait_until(self, holds: Callable[[], object], what: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until ``holds()`` is true.

        Raises:
            AssertionError: it did not become true in time; says ``what`` it was.
        """
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, f"after {timeout_s:g} s: {what}\n{self.text()}"
            self.page.wait_for_timeout(_LOOK_EVERY_MS)

    def text(self) -> str:
        """Return what the notebook says, with its outputs."""
        return str(self.page.locator(".jp-Notebook").inner_text())

    def interrupt(self) -> None:
        """Interrupt the kernel, by the menu."""
        self.choose("Kernel", "Interrupt Kernel")

    def restart(self) -> None:
        """Restart the kernel, by the menu."""
        self.choose("Kernel", "Restart Kernel…")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def choose(self, menu: str, item: str) -> None:
        """Choose an item of JupyterLab's menu bar."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=menu).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=item).first.click()

    def save(self) -> Any:
        """Save the notebook and return it as it is on disk."""
        before = self.file.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        saved: list[Any] = []

        def is_saved() -> bool:
            if self.file.stat().st_mtime_ns != before:
                with contextlib.suppress(nbformat.reader.NotJSONError):  # it is being written
                    saved.append(nbformat.read(self.file, as_version=4))
            return bool(saved)

        self.wait_until(is_saved, f"{self.file.name} was not saved")
        return saved[0]

    def screenshot(self, file: Path, selector: str | None = None) -> Path:
        """Write a picture of the page, or of the first element that matches, and return its path."""
        target = self.page if selector is None else self.page.locator(selector).first
        target.screenshot(path=file)
        return file

    def _prompt(self, number: int) -> str:
        return str(self.cell(number).locator(".jp-InputPrompt").inner_text())


# -- fixtures -----------------------------------------------------------------------------------------------


# Of a package, not of the session: they end when its tests have, and Playwright's event loop with them, which runs
# in the thread of all tests.
@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab server, skipped where there is no browser to look at it."""
    _need_browser()
    with start_lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.fixture(scope="package")
def _browser() -> Iterator[Any]:
    with started_browser(_need_browser()) as browser:
        yield browser


@pytest.fixture(scope="package")
def _context(_browser: Any) -> Any:
    """Return what the pages of all tests have in common: what JupyterLab is made of is loaded once."""
    return _browser.new_context()


@pytest.fixture(scope="package")
def _spare_pages() -> list[Any]:
    """Return where a page of JupyterLab waits for the next test: loading one takes as long as most tests do."""
    return []


@pytest.fixture(scope="package")
def _spare_kernels(lab: Lab) -> list[str]:
    return [lab.start_kernel()]


@pytest.fixture(scope="package")
def _ending(lab: Lab) -> Iterator[Executor]:
    """Ends the kernels of one test while the next one begins."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def open_notebook(
    lab: Lab,
    _spare_kernels: list[str],
    _spare_pages: list[Any],
    _context: Any,
    _ending: Executor,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Notebook]]:
    """Return ``open_notebook(*cells, width=1200, height=900, theme=LIGHT)``: a new notebook with these code cells.

    Each has a kernel of its own, which starts while the test before is at work, and a page that shows nothing else:
    one that a test before has loaded, unless that one failed.
    """
    *_, last = (item for item in request.session.items if item.get_closest_marker("browser"))
    used: list[Any] = []
    failed = request.session.testsfailed

    def open_(*cells: str, width: int = 1200, height: int = 900, theme: str = LIGHT) -> Notebook:
        name = f"{request.node.name}-{secrets.token_hex(4)}.ipynb"
        file = lab.root / name.replace("[", "-").replace("]", "")
        nbformat.write(python_notebook(*cells), file)
        lab.give_kernel(file, _spare_kernels.pop() if _spare_kernels else lab.start_kernel())
        lab.set_theme(theme)
        page = _spare_pages.pop() if _spare_pages else _context.new_page()
        used.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.mouse.move(0, 0)
        if page.url.startswith(lab.url):
            show_in_theme(page, theme)
        notebook = Notebook(page, lab, file)
        if request.node is not last:
            _spare_kernels.append(lab.start_kernel())
        return notebook

    yield open_
    for page in used:
        if _spare_pages or request.node is last or request.session.testsfailed > failed:
            page.close()
        else:
            page.evaluate(_CLEAR)
            _spare_pages.append(page)
    _ending.submit(lab.end_sessions, lab.sessions())


def show_in_theme(page: Any, theme: str) -> None:
    """Show a page of JupyterLab in another theme."""
    if page.evaluate("() => document.body.dataset.jpThemeName") != theme:
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)


def python_notebook(*cells: str) -> Any:
    """Return a notebook of code cells, for the kernel of this environment."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def _need_browser() -> str:
    browser = find_browser()
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    for module in ("jupyterlab", "playwright"):
        pytest.importorskip(module)
    return browser
