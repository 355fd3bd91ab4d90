"""One JupyterLab and one browser for all browser tests."""

from __future__ import annotations

from tests.browser import (  # noqa: F401 - fixtures
    _browser,
    _context,
    _ending,
    _spare_kernels,
    _spare_pages,
    lab,
    open_notebook,
)
