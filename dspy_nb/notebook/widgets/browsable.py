"""A list of versions that a front end shows as the registry browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from dspy_nb.views.listings import Listing, Live


class Browsable(Listing[ModelVersion]):
    """A list of versions that a notebook with a front end shows as a browser, anything else as a table.

    Args:
        versions: The versions.
        title: Of the table.
        registry: Where they are.
        model: The model that the browser begins with; "" for all.
        columns: Names of columns; the usual ones by default.
        live: Where those are live that are, by reference.
    """

    def __init__(
        self,
        versions: Iterable[ModelVersion],
        title: str,
        registry: Registry,
        model: str,
        *,
        columns: Sequence[str] | None = None,
        live: Live | None = None,
    ) -> None:
        super().__init__(versions, title, "No versions yet.", columns=columns, live=live)
        self._registry, self._model = registry, model

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython

        if getattr(get_ipython(), "kernel", None) is None:
            raise NotImplementedError  # IPython's way to say: take the other representations
        from dspy_nb.notebook.widgets.registry import RegistryBrowser

        begin = f"{self._model}@" if self._model else ""
        RegistryBrowser(self._registry, begin, self.columns)._ipython_display_()
