"""The magics of the registry: list, compare, promote, deploy, roll back."""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, needs_local_scope
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from dspy_nb.core.errors import InputError, RegistryError
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from dspy_nb.notebook.arguments import check_name, find, help_option, parse, say, without_semicolon
from dspy_nb.plots.registry import plot_health
from dspy_nb.views.listings import (
    Listing,
    advice_on_deployment,
    advice_on_promotion,
    short_path,
)

__all__ = ["MonitorMagics", "RegistryMagics"]


@magics_class
class RegistryMagics(Magics):
    """%dspy_registry, %dspy_promote, %dspy_deploy and %dspy_rollback."""

    shell: Any

    def __init__(self, shell: Any, defaults: Any) -> None:
        super().__init__(shell)
        self.defaults = defaults

    @magic_arguments()
    @argument("model", nargs="?", help="show only this model, or one reference such as sentiment@production")
    @argument("--history", action="store_true", help="everything that was ever decided about the model")
    @argument("--environment", metavar="NAME", help="what was live there, and what is")
    @argument("--diff", nargs=2, metavar=("A", "B"), help="what changed from one version to another")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @help_option
    @line_magic
    def dspy_registry(self, line: str) -> Any:
        """List the versions in the registry, the newest of each model first; or what was decided."""
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_registry, line)
        if arguments is None:
            return None
        shown = _shown(self.registry(arguments.registry), arguments)
        return None if silent else shown

    @magic_arguments()
    @argument("ref", help="the version, such as sentiment@1.1.0")
    @argument("--to", metavar="STAGE", help="staging, production, deprecated, archived or development")
    @argument("--evidence", metavar="NAME", help="a gate's result, a comparison or an evaluation")
    @argument("--force", action="store_true", help="override the rules; the history shows it for ever")
    @argument("--reason", metavar="TEXT", help="why; needed with --force")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @help_option
    @needs_local_scope
    @line_magic
    def dspy_promote(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Move a version to another stage and return it."""
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_promote, line)
        if arguments is None:
            return None
        registry = self.registry(arguments.registry)
        version = registry.promote(
            arguments.ref,
            _target(arguments, "promote", "STAGE"),
            evidence=self._evidence(arguments, local_ns),
            force=arguments.force,
            reason=arguments.reason,
        )
        with contextlib.suppress(RegistryError):  # it is done, whatever the disk says now
            _advise(advice_on_promotion(registry.history(version.model_id)))
        return None if silent else version

    @magic_arguments()
    @argument("ref", help="the version, such as sentiment@1.1.0 or sentiment@production")
    @argument("--to", metavar="ENVIRONMENT", help="development, staging, production or any name")
    @argument("--evidence", metavar="NAME", help="a gate's result, a comparison or an evaluation")
    @argument("--reason", metavar="TEXT", help="why; it is kept in the history")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @help_option
    @needs_local_scope
    @line_magic
    def dspy_deploy(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Make a version live in an environment and return the line of its history."""
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_deploy, line)
        if arguments is None:
            return None
        name = _target(arguments, "deploy", "ENVIRONMENT")
        made = self.registry(arguments.registry).environment(name).deploy(
            arguments.ref, reason=arguments.reason, evidence=self._evidence(arguments, local_ns)
        )  # fmt: skip
        _advise(advice_on_deployment(made))
        return None if silent else made

    @magic_arguments()
    @argument("environment", help="where, such as production")
    @argument("--steps", metavar="N", type=int, default=1, help="deployments to take back; 1 by default")
    @argument("--reason", metavar="TEXT", help="why; it is kept in the history")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @help_option
    @line_magic
    def dspy_rollback(self, line: str) -> Any:
        """Make live again what was live before; doing it again goes further back."""
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_rollback, line)
        if arguments is None:
            return None
        environment = self.registry(arguments.registry).environment(arguments.environment)
        made = environment.rollback(reason=arguments.reason, steps=arguments.steps)
        return None if silent else made

    def registry(self, root: str | None = None) -> Registry:
        """Return the registry in the folder ``root``, or the default one."""
        return Registry(Path(root or self.defaults.registry).expanduser())

    def _evidence(self, arguments: Any, local_ns: Mapping[str, Any] | None) -> Any:
        if arguments.evidence is None:
            return None
        return find(arguments.evidence, {**self.shell.user_ns, **(local_ns or {})}, "--evidence")


def _shown(registry: Registry, arguments: Any) -> Any:
    """Return what %dspy_registry shows."""
    wanted = [name for name in ("history", "environment", "diff") if getattr(arguments, name)]
    if len(wanted) > 1:
        raise InputError(f"%dspy_registry: give either --{wanted[0]} or --{wanted[1]}, not both")
    if arguments.model and wanted and wanted != ["history"]:
        raise InputError(f"%dspy_registry: --{wanted[0]} does not go with {arguments.model!r}")
    if wanted == ["diff"]:
        return registry.diff(*arguments.diff)
    if wanted == ["environment"]:
        environment = registry.environment(arguments.environment)
        return Listing(environment.history(), f"Live in {environment.name}, the last line now")
    if wanted == ["history"]:
        if not arguments.model:
            raise InputError("%dspy_registry: --history needs a model, or write --environment NAME")
        return Listing(registry.history(arguments.model), f"History of {arguments.model}")
    title = f"Registry: {short_path(registry.root)}"
    if arguments.model and "@" in arguments.model:
        return Listing([registry.get(arguments.model)], title)
    if arguments.model:
        return Browsable(registry.list(arguments.model), title, registry, arguments.model)
    versions, damage = registry.survey()
    if damage:
        display(Listing(versions, title))
        raise damage[0]
    return Browsable(versions, title, registry, None)


class Browsable(Listing[ModelVersion]):
    """A list of versions that a notebook with a front end shows as a browser, anything else as a table."""

    def __init__(
        self, versions: Iterable[ModelVersion], title: str, registry: Registry, model_id: str | None
    ) -> None:
        super().__init__(versions, title, "No versions yet.")
        self._registry, self._model_id = registry, model_id

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython

        if getattr(get_ipython(), "kernel", None) is None:
            raise NotImplementedError  # IPython's way to say: take the other representations
        from dspy_nb.notebook.widgets.registry import RegistryBrowser

        RegistryBrowser(self._registry, f"{self._model_id}@" if self._model_id else "")._ipython_display_()


def _advise(advice: str | None) -> None:
    if advice is not None:
        say(f"note: {advice}")


def _target(arguments: Any, verb: str, what: str) -> str:
    if not arguments.to:
        raise InputError(f"%dspy_{verb}: --to {what} is missing")
    return str(arguments.to)


# -- monitor ----------------------------------------------------------------------------------------------------


@magics_class
class MonitorMagics(Magics):
    """%dspy_monitor."""

    shell: Any

    def __init__(self, shell: Any, defaults: Any) -> None:
        super().__init__(shell)
        self.defaults = defaults

    @magic_arguments()
    @argument("environment", help="where, such as production")
    @argument("--no-plot", action="store_true", help="show no figure")
    @argument("-o", "--out", metavar="NAME", help="variable that gets the report")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @help_option
    @line_magic
    def dspy_monitor(self, line: str) -> Any:
        """Look whether what is live is still as good as what was promised, and return the report.

        What is tolerated, and whether a degradation is rolled back, says config.toml of the registry. A canary
        that is running there is shown too.
        """
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_monitor, line)
        if arguments is None:
            return None
        if arguments.out:
            check_name(arguments.out)
        environment = self.registry(arguments.registry).environment(arguments.environment)
        report = environment.check_health()
        if arguments.out:
            self.shell.user_ns[arguments.out] = report
        if silent:
            return None
        if (canary := environment.canary_status()) is not None:
            display(canary)
        if not arguments.no_plot and any(item.bins for item in report.objectives):
            display(plot_health(report))
        return report

    def registry(self, root: str | None = None) -> Registry:
        """Return the registry in the folder ``root``, or the default one."""
        return Registry(Path(root or self.defaults.registry).expanduser())
