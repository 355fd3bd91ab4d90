"""Fixtures that every test shares: nothing here may touch the user's home."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tests.properties  # noqa: F401 - Hypothesis tries what it says
from tests.groups import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401 - hooks

if TYPE_CHECKING:
    from tests.children import Child, Children

pytest_plugins = ["tests.recorded"]

# DSPy makes its disk cache at first use, from these; so they are set before anything imports it.
_HOME = tempfile.mkdtemp(prefix="dspy-nb-tests-")
os.environ["DSPY_CACHEDIR"] = os.path.join(_HOME, "dspy-cache")  # noqa: PTH118
os.environ["DSPY_NB_CONFIG_DIR"] = os.path.join(_HOME, "config")  # noqa: PTH118
os.environ["IPYTHONDIR"] = os.path.join(_HOME, "ipython")  # noqa: PTH118
os.environ.pop("DSPY_NB_LM", None)
os.environ.setdefault("DSPY_NB_TEST_GROUPS", os.path.join(_HOME, "groups.json"))  # noqa: PTH118 - of all workers

# Who wants no bytecode left behind gets none; but not every process has to compile DSPy for itself.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ["PYTHONPYCACHEPREFIX"] = os.path.join(_HOME, "bytecode")  # noqa: PTH118


@atexit.register  # after all that IPython's shells do at their end
def _leave_nothing(owner: int = os.getpid()) -> None:
    if os.getpid() == owner:  # not a forked child
        shutil.rmtree(_HOME, ignore_errors=True)


def pytest_configure() -> None:
    """Let Ctrl-C interrupt: a shell that starts the tests in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def forkserver() -> Any:
    """Where processes start in milliseconds; begun before any test changes the environment that they inherit."""
    from multiprocessing.forkserver import ensure_running

    from tests.children import FORKED

    ensure_running()
    return FORKED


@pytest.fixture
def children(forkserver: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    """Start a process that calls a function; none outlives its test."""
    from tests.children import Child

    errors = tmp_path_factory.mktemp("children")
    started: list[Child] = []
    numbers = itertools.count()  # several threads may start processes

    def start(work: Callable[..., Any], *arguments: object) -> Child:
        started.append(Child(errors / str(next(numbers)), work, *arguments))
        return started[-1]

    yield start
    for child in started:
        child.close()


@pytest.fixture
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing costs milliseconds, and what survives a power cut is tested elsewhere (test_flushing)."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; modules that are imported from there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("DSPY_NB_REGISTRY", raising=False)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if tmp_path in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


@pytest.fixture
def ipython(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """IPython's shell, ended with its test: at the end of the process each would collect garbage for a second."""
    from IPython.core.interactiveshell import InteractiveShell

    # A shell puts a module of its own there and empties it at its end: no process could be started afterwards.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()
    shell.displayhook.do_full_cache = False  # nothing to flush, which is what collects garbage
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)


@pytest.fixture
def magics(ipython: Any) -> Iterator[Any]:
    """IPython's shell with the extension loaded."""
    ipython.extension_manager.load_extension("dspy_nb")
    yield ipython
    ipython.extension_manager.unload_extension("dspy_nb")


@pytest.fixture
def engine() -> Iterator[Any]:
    """The scripted language model is the configured one, as a program's module would make it."""
    import dspy

    from tests.scripted import ScriptedEngine, scripted_lm

    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)):
        yield engine
