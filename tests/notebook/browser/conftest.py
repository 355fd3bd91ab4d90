"""One JupyterLab and one browser for all browser tests."""

from __future__ import annotations

from tests.browser import _browser, _context, _ending, _spare_kernels, lab, open_notebook  # noqa: F401 - fixtures
