"""Versions to look through: filtered, sorted, a page at a time, to be opened and checked for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final

import ipywidgets as widgets

from dspy_nb.core.models.names import STAGES, sort_key
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.notebook.widgets.registry_views import BROWSER_COLUMNS, table_html
from dspy_nb.views.listings import COLUMNS, Live

ROWS_A_PAGE: Final = 25

_ORDERS: Final[dict[str, Callable[[ModelVersion], Any]]] = {
    "model and version": lambda version: None,  # the registry's own order
    "score": lambda version: -1.0 if version.score is None else version.score,
    "date": lambda version: version.created_at,
    "stage": lambda version: -STAGES.index(version.stage),
    "optimizer": lambda version: version.optimizer or "",
    "size": lambda version: version.size_bytes,
    "version number": lambda version: sort_key(version.version),
}

_DEFAULT: Final = ("stage", "live", "score", "measured", "optimizer", "created")


class VersionList:
    """A page of rows that is filled with the versions that match.

    Attributes:
        parts: The widgets, from top to bottom.
        rows: As many as were ever needed for a page; those that are not needed now are hidden.
        checked: References of the versions that are checked, two at most: of three the first one is unchecked.
        table: What is said of the versions of the page, beside their check boxes and buttons.
        choices: The check boxes of the columns, by name.

    Args:
        filter: Words that a version must have, at first.
        columns: Names of the columns at first; the usual ones by default.
        on_open: Called with the reference of a version that is clicked.
        on_check: Called after ``checked`` has changed.
    """

    def __init__(
        self,
        filter: str,
        columns: Sequence[str] | None,
        on_open: Callable[[str], None],
        on_check: Callable[[], None],
    ) -> None:
        self._on_open, self._on_check = on_open, on_check
        self._versions: Sequence[ModelVersion] = []
        self._found: list[ModelVersion] = []
        self._live: Live = {}
        self._none = ""
        self._page = 0
        self._open: str | None = None
        self._filling = False
        self.checked: list[str] = []
        auto = {"width": "auto"}
        wide = {"layout": {"width": "20em"}, "style": {"description_width": "4em"}}
        hint = "name, stage, optimizer…"
        self.filter = widgets.Text(value=filter, placeholder=hint, description="Filter", **wide)
        self.order = widgets.Dropdown(options=tuple(_ORDERS), description="Sort by", **wide)
        self.ascending = widgets.ToggleButton(tooltip="Reverse the order", layout=auto)
        self.previous = widgets.Button(description="‹ Previous", layout=auto)
        self.next = widgets.Button(description="Next ›", layout=auto)
        self.where = widgets.HTML()
        self.rows: list[_Row] = []
        self._refs = widgets.VBox([_head()])
        self.table = widgets.HTML()
        together = widgets.HBox([self._refs, self.table])
        self.columns = widgets.ToggleButton(description="Columns…", tooltip="Choose the columns", layout=auto)
        first = _DEFAULT if columns is None else columns
        self.choices = {
            name: widgets.Checkbox(name in first, description=COLUMNS[name].title, indent=False, layout=auto)
            for name in BROWSER_COLUMNS
        }
        chooser = widgets.HBox([*self.choices.values()], layout={"display": "none"})
        controls = widgets.HBox([self.filter, self.order, self.ascending, self.columns])
        pager = widgets.HBox([self.previous, self.next, self.where])
        for box, name in (
            (self._refs, "dspy-nb-refs"), (self.table, "dspy-nb-cells"), (together, "dspy-nb-rows"),
            (controls, "dspy-nb-bar"), (pager, "dspy-nb-bar"), (chooser, "dspy-nb-bar"),
        ):  # fmt: skip
            box.add_class(name)
        chooser.add_class("dspy-nb-columns")
        self.parts = [controls, chooser, together, pager]
        self.columns.observe(lambda change: _show(chooser, change["new"]), "value")
        for choice in self.choices.values():
            choice.observe(lambda _: self._turn(0), "value")
        for control in (self.filter, self.order, self.ascending):
            control.observe(lambda _: self._search(), "value")
        self.previous.on_click(lambda _: self._turn(-1))
        self.next.on_click(lambda _: self._turn(1))

    def show(self, versions: Sequence[ModelVersion], live: Live, none: str) -> None:
        """Show these versions and where they are live, on the page that is open; ``none`` says there is none."""
        self._live = live
        known = {version.ref for version in versions}
        self.checked = [ref for ref in self.checked if ref in known]
        self._versions, self._none = versions, none
        self._search(self._page)

    def mark(self, ref: str) -> None:
        """Mark the version that is open."""
        self._open = ref
        self._turn(0)

    def _search(self, page: int = 0) -> None:
        words = self.filter.value.lower().split()
        found = [version for version in self._versions if all(word in _text(version) for word in words)]
        if self.order.value == "model and version":
            found = found[::-1] if self.ascending.value else found
        else:
            found.sort(key=_ORDERS[self.order.value], reverse=not self.ascending.value)
        self.ascending.description = "⇅ Reversed" if self.ascending.value else "⇅ Reverse"
        self._found, self._page = found, page
        self._turn(0)

    def _turn(self, pages: int) -> None:
        last = max(0, (len(self._found) - 1) // ROWS_A_PAGE)
        self._page = min(max(self._page + pages, 0), last)
        start = self._page * ROWS_A_PAGE
        shown = self._found[start : start + ROWS_A_PAGE]
        self._fill(shown)
        self.previous.disabled, self.next.disabled = self._page == 0, self._page == last
        where = "no version matches" if self._versions else self._none
        if shown:
            where = f"{start + 1:,}–{start + len(shown):,} of {len(self._found):,} versions"
        self.where.value = f'<span class="soft" role="status">{where}</span>'

    def _fill(self, shown: Sequence[ModelVersion]) -> None:
        added = [_Row(self._on_open, self._check) for _ in shown[len(self.rows) :]]
        if added:  # a saved notebook may keep the state of every widget, so there are no more than needed
            self.rows += added
            self._refs.children = (*self._refs.children, *(row.view for row in added))
        self._filling = True
        try:
            for row, version in zip_longest(self.rows, shown):
                row.show(version, self.checked, self._open)
        finally:
            self._filling = False
        columns = [name for name, choice in self.choices.items() if choice.value]
        self.table.value = table_html(shown, columns, self._live, self._open)

    def _check(self, ref: str, checked: bool) -> None:
        if self._filling:
            return
        others = [item for item in self.checked if item != ref]
        self.checked = [*others, ref][-2:] if checked else others
        self._turn(0)
        self._on_check()


class _Row:
    """One line of the list: made once, filled with another version when the page turns."""

    def __init__(self, on_open: Callable[[str], None], on_check: Callable[[str, bool], None]) -> None:
        self.ref = ""
        self.check = widgets.Checkbox(indent=False)
        self.button = widgets.Button(layout={"width": "auto"})
        self.button.add_class("dspy-nb-ref")
        self.view = widgets.HBox([self.check, self.button])
        self.view.add_class("dspy-nb-row")
        self.button.on_click(lambda _: on_open(self.ref))
        self.check.observe(lambda change: on_check(self.ref, change["new"]), "value")

    def show(self, version: ModelVersion | None, checked: Sequence[str], opened: str | None) -> None:
        self.view.layout.display = "none" if version is None else None
        if version is None:
            return
        self.ref = version.ref
        self.check.value = version.ref in checked
        self.check.description = f"Compare {version.ref}"  # not seen, but said: the style sheet hides it
        self.button.description, self.button.tooltip = version.ref, f"Open {version.ref}"
        (self.view.add_class if version.ref == opened else self.view.remove_class)("is-open")


def _head() -> widgets.HBox:
    head = widgets.HBox([widgets.HTML('<span class="soft" aria-hidden="true">compare, version</span>')])
    head.add_class("dspy-nb-row").add_class("is-head")
    return head


def _show(widget: widgets.DOMWidget, shown: bool) -> None:
    widget.layout.display = None if shown else "none"


def _text(version: ModelVersion) -> str:
    words = (version.ref, version.stage, version.optimizer or "", version.base_model or "")
    return " ".join(words).lower()
