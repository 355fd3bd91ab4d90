"""Which tests pytest-xdist keeps in one worker, which it begins with, and which are heavy."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

_MODEL, _PROCESSES, _BROWSER = "the embedded model", "processes", "the browser"
_FIRST = [_BROWSER, _MODEL, _PROCESSES]  # the longest ones
_NOTEBOOK_S = 1800  # as long as a notebook may take where the embedded model computes every answer


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("local_model"):
        return _MODEL  # in memory once
    if item.get_closest_marker("browser"):
        return _BROWSER  # one JupyterLab
    if "forkserver" in getattr(item, "fixturenames", ()):
        return _PROCESSES  # races and kills: not two at a time
    return item.nodeid.partition("::")[0]  # what the tests of a file share is made once


def _is_notebook(item: pytest.Item) -> bool:
    return item.path.suffix == ".ipynb"


@pytest.hookimpl(tryfirst=True)  # before the markers are looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests, mark the heavy ones, and in a worker tell the groups to the process that hands them out."""
    groups = {item.nodeid: _group(item) for item in items}
    items.sort(key=lambda item: [name != groups[item.nodeid] for name in _FIRST] + [not _is_notebook(item)])
    for item in items:
        if groups[item.nodeid] in _FIRST or item.get_closest_marker("slow"):
            item.add_marker("heavy")
        if _is_notebook(item):
            item.add_marker(pytest.mark.timeout(_NOTEBOOK_S))
    if hasattr(config, "workerinput"):
        _file().write_text(json.dumps(groups))  # each worker writes the same


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole groups; ``--dist loadgroup`` would, but not with pytest 9.2 (pytest-xdist, issue 1386)."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        @cached_property
        def groups(self) -> dict[str, str]:
            return json.loads(_file().read_text())

        def _split_scope(self, nodeid: str) -> str:
            return self.groups[nodeid]

    config.option.loadscopereorder = False
    return Groups(config, log)


def _file() -> Path:
    return Path(os.environ["DSPY_NB_TEST_GROUPS"])
