"""One JupyterLab and one browser for all browser tests."""

from __future__ import annotations

import pytest

from tests.browser import _browser, _context, _ending, _spare_kernels, lab, open_notebook  # noqa: F401 - fixtures


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the browser tests last: from the first of them on, Playwright's event loop runs in the thread of all."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
