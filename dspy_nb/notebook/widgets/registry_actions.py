"""Deciding about a version by clicking: what is asked, the evidence it is shown with, and the confirmation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import ipywidgets as widgets

from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.errors import Conflict, DspyNbError, Refused
from dspy_nb.core.models.names import ENVIRONMENTS
from dspy_nb.core.models.requirements import Requirement
from dspy_nb.core.models.stages import TRANSITIONS
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.log import current_user
from dspy_nb.core.text import error_text
from dspy_nb.notebook.widgets.registry_views import checklist_html, evidence_html
from dspy_nb.views.rendering.html import markup

_ACTIONS: Final = {
    "promote": ("Promote…", "stage", "force"),
    "deploy": ("Deploy…", "environment", "create"),
    "rollback": ("Roll back…", "environment"),
    "archive": ("Archive…", "reason"),
}
"""The label of each, and its fields: the first gets the keyboard, the rest of the form is common to all."""


class ActionForm:
    """Buttons for what can be done, and a form that asks once more before it is done.

    Each of them is one call of the core, whose rules decide; ``tell(text, refused)`` hears what came of it.
    """

    def __init__(self, registry: Registry, tell: Callable[[str, bool], None]) -> None:
        self._registry, self._tell = registry, tell
        self._version: ModelVersion | None = None
        self._action = ""
        self._shown: object = None
        auto, wide = {"width": "auto"}, {"width": "24em", "max_width": "98%"}
        field: dict[str, Any] = {"style": {"description_width": "7.5em"}, "layout": wide}
        self.buttons = {
            name: widgets.Button(description=label, layout=auto) for name, (label, *_) in _ACTIONS.items()
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self.ask(name))
        self.stage = widgets.Dropdown(description="to stage", **field)
        self.environment = widgets.Combobox(description="environment", **field)
        self.reason = widgets.Text(description="reason", placeholder="kept in the history", **field)
        self.by = widgets.Text(description="by", value=current_user(), **field)
        warning = "override the rules (the history shows it for ever)"
        self.force = widgets.Checkbox(description=warning, indent=False, layout=auto)
        self.create = widgets.Checkbox(description="make a new environment", indent=False, layout=auto)
        self.confirm = widgets.Button(button_style="warning", layout=auto)
        self.cancel = widgets.Button(description="Cancel", layout=auto)
        self._evidence = widgets.HTML()
        self.confirm.on_click(lambda _: self._do())
        self.cancel.on_click(lambda _: self._leave())
        for control in (self.stage, self.environment, self.create, self.force, self.reason):
            control.observe(lambda _: self.update(), "value")
        bar = widgets.HBox([self.confirm, self.cancel])
        fields = [self.stage, self.environment, self.create, self.reason, self.by, self.force]
        self.form = widgets.VBox([*fields, self._evidence, bar])
        for box, name in ((self.form, "dspy-nb-form"), (bar, "dspy-nb-bar")):
            box.add_class(name)
        self.view = widgets.VBox([widgets.HBox([*self.buttons.values()]), self.form])
        self.view.children[0].add_class("dspy-nb-bar")
        self.close()

    def choose(self, version: ModelVersion | None) -> None:
        """Make ``version`` the one that the buttons are about; another one closes the form."""
        if version is None or self._version is None or version.ref != self._version.ref:
            self.close()
        changed = self._version is not None and version is not None and self._has_changed()
        self._version = version
        if version is not None and self._action == "promote":
            self._offer_stages(version)
        for name, button in self.buttons.items():
            button.disabled = version is None and name != "rollback"
        self.update()
        if changed:
            self._tell("the registry changed while you looked: what is shown is new", True)

    def ask(self, action: str) -> None:
        """Open the form for an action."""
        self._action, self._shown = action, None
        self.force.value, self.create.value, self.reason.value = False, False, ""
        try:
            names = dict.fromkeys(["production", *self._registry.environments(), *ENVIRONMENTS])
        except DspyNbError as error:
            self._action = ""
            self._refuse(error)
            return
        self.environment.options = tuple(names)
        self.environment.value = next(iter(names))
        if self._version is not None:
            self._offer_stages(self._version, anew=True)
        _, first, *_ = fields = _ACTIONS[action]
        for name in ("stage", "environment", "create", "force"):
            _show(getattr(self, name), name in fields)
        _show(self.form, True)
        self.update()
        getattr(self, first).focus()

    def _refuse(self, error: DspyNbError) -> None:
        self._tell(f"{type(error).__name__}: {error_text(error)}", True)

    def _offer_stages(self, version: ModelVersion, *, anew: bool = False) -> None:
        """Offer the stages that may follow; one that is lower only to whoever chooses it."""
        up = [stage for stage in TRANSITIONS[version.stage] if _is_up(version.stage, stage)]
        down = [stage for stage in TRANSITIONS[version.stage] if stage not in up]
        options = (*(() if up else (("choose…", ""),)), *((stage, stage) for stage in up))
        options += tuple((f"{stage} (takes it down)", stage) for stage in down)
        if self.stage.options != options:
            self.stage.options, anew = options, True
        if anew:
            self.stage.value = options[0][1]

    def _leave(self) -> None:
        """Close the form and give the keyboard back to the button that opened it."""
        button = self.buttons.get(self._action)
        self.close()
        if button is not None:
            button.focus()

    def close(self) -> None:
        """Close the form; nothing is done."""
        self._action = ""
        _show(self.form, False)

    def update(self) -> None:
        """Show the evidence as it is now."""
        if not self._action:
            return
        try:
            what, evidence, possible = self._asked()
            self._shown = self._situation()
        except DspyNbError as error:
            what, evidence, possible = self._action, _paragraph(f"Not possible: {error}"), False
            self._shown = None
        self.confirm.disabled = not possible
        self._evidence.value = evidence
        self.confirm.description = f"Confirm: {what}"

    def _asked(self) -> tuple[str, str, bool]:
        """Return what is about to be done in words, in HTML what that rests on, and whether it may be done."""
        place, version = self.environment.value, self._version
        if self._action == "rollback":
            live, candidate = self._live()
            now = f"Live now: {live[-1] if live else 'nothing'}."
            if candidate is not None:
                canary = f"A canary is running: only its candidate {candidate} is taken back."
                return f"take back {candidate}", _paragraph(f"{now} {canary}"), True
            before = live[-2] if len(live) > 1 else None
            archived = before is not None and self._registry.get(before).stage == "archived"
            said = f"{before or 'nothing to go back to'}{', which is archived' if archived else ''}"
            possible = before is not None and not archived
            return f"roll back {place}", _paragraph(f"{now} Live before: {said}."), possible
        assert version is not None
        evidence = evidence_html(version, self._registry.history(version.model_id))
        if self._action == "deploy":
            found = self._environment().requirements(version)
            return f"deploy {version.ref} to {place}", *_checked(found, evidence)
        if self._action == "archive":
            found = self._registry.requirements(version, "archived")
            return f"archive {version.ref}", *_checked(found, evidence)
        stage = self.stage.value
        if not stage:
            highest = _paragraph(f"It is in {version.stage}, and nothing is above that: choose a stage.")
            return f"promote {version.ref}", highest + evidence, False
        found = self._registry.requirements(version, stage)
        shown, possible = _checked(found, evidence)
        if not possible and self.force.value and all(one.met or one.can_be_forced for one in found):
            possible = bool(self.reason.value.strip())
            shown = (
                _paragraph("The rules are overridden" if possible else "To override the rules, give a reason")
                + shown
            )
        return f"promote {version.ref} to {stage}", shown, possible

    def _environment(self) -> Environment:
        """Return the environment that is named in the form."""
        create = self._action == "deploy" and self.create.value
        return self._registry.environment(self.environment.value, create=create)

    def _live(self) -> tuple[list[str], str | None]:
        """Return what was live in the environment, what is now at the end, and the candidate of a canary."""
        return self._environment().read(
            lambda state: ([*state.live], state.canary.candidate if state.canary else None)
        )

    def _situation(self) -> object:
        """Return what must still hold when the user confirms what was shown."""
        if "environment" in _ACTIONS[self._action]:
            return self._live()
        assert self._version is not None
        return self._registry.history(self._version.model_id)[-1].number

    def _has_changed(self) -> bool:
        """Whether what was shown in the open form is not so any more."""
        try:
            return bool(self._action) and self._shown is not None and self._situation() != self._shown
        except DspyNbError:
            return True

    def _do(self) -> None:
        if not self._action:
            return
        try:
            if self._has_changed():
                self.update()
                raise Conflict("the registry changed since this was shown: look at it and confirm again")
            done = self._call()
        except DspyNbError as error:
            self._refuse(error)
        else:
            self._leave()
            self._tell(done, False)

    def _call(self) -> str:
        """Do it, and return in words what was done."""
        asked: dict[str, Any] = {n: getattr(self, n).value.strip() or None for n in ("by", "reason")}
        place = self.environment.value
        if self._action == "rollback":
            made = self._environment().rollback(**asked)
            return f"rolled back: {made.ref} is live in {place}"
        if self._version is None:
            raise Refused("choose a version first")
        ref = self._version.ref
        if self._action == "promote":
            self._registry.promote(ref, self.stage.value, force=self.force.value, **asked)
            return f"{ref} is in {self.stage.value}"
        if self._action == "deploy":
            self._environment().deploy(ref, **asked)
            return f"{ref} is live in {place}"
        self._registry.archive(ref, **asked)
        return f"{ref} is archived"


def _is_up(before: str, after: str) -> bool:
    """Whether a stage is nearer to production; what was deprecated or archived comes back."""
    order = ("archived", "deprecated", "development", "staging", "production")
    return order.index(after) > order.index(before)


def _checked(found: Sequence[Requirement], evidence: str) -> tuple[str, bool]:
    """Return what is required and the evidence in HTML, and whether all of it is met."""
    return checklist_html(found) + evidence, all(one.met for one in found)


def _show(widget: widgets.DOMWidget, shown: bool) -> None:
    widget.layout.display = None if shown else "none"


def _paragraph(text: str) -> str:
    return f"<p>{markup(text)}</p>"
