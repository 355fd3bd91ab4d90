"""The registry as something to click on: find versions, compare two, decide about one."""

from __future__ import annotations

import asyncio
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any, Final

import ipywidgets as widgets

from dspy_nb.core.errors import DspyNbError
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.text import error_text
from dspy_nb.notebook.widgets.live import CONTROLS_STYLE
from dspy_nb.notebook.widgets.model_card import card_html
from dspy_nb.notebook.widgets.registry_actions import ActionForm
from dspy_nb.notebook.widgets.registry_views import (
    BROWSER_STYLE,
    badges_html,
    evaluation_html,
    message_html,
    saved_html,
    summary_html,
)
from dspy_nb.notebook.widgets.registry_watch import RegistryWatch
from dspy_nb.notebook.widgets.version_list import VersionList
from dspy_nb.views.documents import Document, Note, document
from dspy_nb.views.listings import Listing, Live, check_columns, short_path
from dspy_nb.views.rendering.html import markup, to_html
from dspy_nb.views.rendering.text import to_text

_NOTHING: Final = "<span></span>"

_POLL_EVERY_S: Final = 1.0

_POLLING_AT_MOST: Final = 4
"""A cell that runs again leaves its old browser behind, and the kernel is not told; so the oldest ones stop."""

_polling: list[weakref.ref[RegistryBrowser]] = []


class RegistryBrowser:
    """Models and versions with their stages and scores, in a notebook.

    A click on a version opens its card, evaluation and history, and what can be done to it; checking two
    compares them. Everything it does is a call of ``Registry`` and obeys its rules. Where there is no front end
    it shows as a table. A model whose log is damaged is named in a message, and the others are shown.

    Clicks wait while a cell runs. It follows what other processes write, once a second between cells; only the
    newest four browsers of a kernel do so, an older one shows what is new when a version is opened.

    Attributes:
        view: The widget.
        registry: The registry.
    """

    def __init__(self, registry: Registry, filter: str = "", columns: Sequence[str] | None = None) -> None:
        """Make the browser; nothing is shown before it is displayed.

        Args:
            registry: What to show.
            filter: Words that a version must have, all of them, in its reference, stage, optimizer or language
                model; the user can change them.
            columns: Names of the columns beside the version, such as ``("stage", "live", "score")``; the user can
                change them.

        Raises:
            InputError: There is no such column.
        """
        self.registry = registry
        self._watch = RegistryWatch(registry)
        self._name = f"dspy-nb-{uuid.uuid4().hex[:12]}"
        self._columns = None if columns is None else check_columns(",".join(columns))
        self._versions: list[ModelVersion] = []
        self._live: Live = {}
        self._damage: list[str] = []
        self._open: str | None = None
        self._diffed: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._saved: list[Any] = []  # display handles of the table that is kept
        self._build(filter)
        self.refresh()

    # -- what is shown ------------------------------------------------------------------------------------------

    def _build(self, filter: str) -> None:
        self._heading, self._warning = widgets.HTML(), widgets.HTML()
        self.list = VersionList(filter, self._columns, self.open, self._compare)
        self.message = widgets.HTML()
        self._chosen = widgets.HTML()
        self._chosen.add_class("dspy-nb-chosen")
        self.actions = ActionForm(self.registry, self._tell)
        self.tabs = widgets.Tab([widgets.HTML() for _ in range(4)])
        self.tabs.titles = ("Model card", "Evaluation", "History", "Compare")
        style = widgets.HTML(BROWSER_STYLE + CONTROLS_STYLE, layout={"display": "none"})
        below = [self._chosen, self.actions.view, self.message, self.tabs]
        self.view = widgets.VBox([style, self._heading, self._warning, *self.list.parts, *below])
        self.view.add_class("dspy-nb-browser").add_class(self._name)

    def refresh(self) -> bool:
        """Read the registry if anything was written since; return whether it was."""
        contents = self._watch.look()
        if contents is None:
            return False
        self._versions, self._live, self._damage = contents.versions, contents.live, contents.damage
        self._heading.value = summary_html(short_path(self.registry.root), contents.versions, contents.live)
        self._warning.value = "".join(message_html(line, refused=True) for line in contents.damage)
        self.list.show(
            contents.versions, contents.live, "no versions" if contents.damage else "no versions yet"
        )
        self._show_open()
        for handle in self._saved:
            # Out of the context of whoever has changed something: see NotebookProgress.
            Context().run(handle.update, self._saved_table(), raw=True)
        return True

    def open(self, ref: str) -> None:
        """Open a version: its card, evaluation and history, and what can be done to it."""
        self._open = ref
        self.message.value = ""
        self.refresh()
        self.list.mark(ref)
        self._show_open()

    def _show_open(self) -> None:
        version = next((item for item in self._versions if item.ref == self._open), None)
        self.actions.choose(version)
        card, evaluation, history, _ = self.tabs.children
        if version is None:
            hint = "Choose a version to see what it is and to decide about it."
            self._chosen.value = f'<span class="soft">{hint}</span>'
            for page in (card, evaluation, history):
                page.value = '<p class="soft">No version is chosen.</p>'
        else:
            ref, stage = markup(version.ref), markup(version.stage)
            parent = f", made from {markup(version.parent)}" if version.parent else ""
            badges = badges_html(self._live.get(version.ref, ()))
            self._chosen.value = f"<h4>{ref} {badges}</h4><span class='soft'>stage {stage}{parent}</span>"
            model_id, history_of = version.model_id, self.registry.history
            card.value = _safely(lambda: card_html(version))
            evaluation.value = _safely(lambda: evaluation_html(version, history_of(model_id)))
            title = f"History of {model_id}, the newest first"
            history.value = _safely(lambda: Listing([*reversed(history_of(model_id))][:50], title).to_html())
        self._show_compared()

    def _show_compared(self) -> None:
        page, refs = self.tabs.children[3], self.list.checked
        if len(refs) < 2:
            page.value = '<p class="soft">Check two versions in the list to compare them.</p>'
        elif refs != self._diffed:
            page.value = _safely(lambda: self.registry.diff(*refs).to_html())
        self._diffed = [*refs]

    def _compare(self) -> None:
        self._show_compared()
        if len(self.list.checked) == 2:
            self.tabs.selected_index = 3

    def _tell(self, text: str, refused: bool) -> None:
        self.refresh()
        self.message.value = message_html(text, refused=refused)

    # -- showing it in a notebook -------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        """Show the browser, and below it the table that is left when the browser is gone.

        A saved notebook keeps no widget, and JupyterLab shows an error instead of the HTML that a widget's
        output also has. So the table is an output of its own, hidden while the browser is there.
        """
        from IPython.display import display

        if not self._closed:
            # Where a widget cannot be shown there is nothing to be seen of it: the table says everything.
            display({**self.view._repr_mimebundle_(), "text/html": _NOTHING, "text/plain": ""}, raw=True)
        handle = display(self._saved_table(), raw=True, display_id=True)
        if handle is not None:
            self._saved.append(handle)
        self.follow()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Return the live widget, and for whoever cannot show one the table as HTML and text."""
        live = {} if self._closed else self.view._repr_mimebundle_(**kwargs) or {}
        return {**live, **self._saved_table()}

    def _saved_table(self) -> dict[str, str]:
        table = self._table()
        return {"text/html": saved_html(to_html(table), self._name), "text/plain": to_text(table)}

    def __repr__(self) -> str:
        return f"RegistryBrowser({self._title}, {len(self._versions):,} versions)"

    @property
    def _title(self) -> str:
        return f"Registry: {short_path(self.registry.root)}"

    def _table(self) -> Document:
        listing = Listing(
            self._versions, self._title, "No versions yet.", columns=self._columns, live=self._live
        )
        table = document(listing)
        return replace(table, blocks=[*table.blocks, *(Note(line, warning=True) for line in self._damage)])

    # -- following the registry ---------------------------------------------------------------------------------

    def follow(self) -> None:
        """Look for changes once a second from the kernel's event loop, until ``close``; without a loop, never."""
        if self._closed or self._timer is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        for old in _polling[: 1 - _POLLING_AT_MOST]:
            if (browser := old()) is not None:
                browser._stop_following()
        _polling[:] = [*_polling[1 - _POLLING_AT_MOST :], weakref.ref(self)]
        self._timer = loop.call_later(_POLL_EVERY_S, _look, weakref.ref(self), loop)

    def _stop_following(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Take the browser off the page and stop looking for changes."""
        self._closed = True
        self._stop_following()
        self.view.close()


def _look(browser_ref: weakref.ref[RegistryBrowser], loop: asyncio.AbstractEventLoop) -> None:
    browser = browser_ref()
    if browser is None or browser._timer is None:
        return
    browser._timer = loop.call_later(_POLL_EVERY_S, _look, browser_ref, loop)
    browser.refresh()


def _safely(make: Callable[[], str]) -> str:
    """Return the HTML, or why there is none: damage to one version must not take the browser away."""
    try:
        return make()
    except DspyNbError as error:
        return message_html(f"{type(error).__name__}: {error_text(error)}", refused=True)
