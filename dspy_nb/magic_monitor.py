"""The magic that shows whether what is live is still as good as what was promised."""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from dspy_nb.core.registry import Registry
from dspy_nb.magic_arguments import check_name, help_option, parse, without_semicolon
from dspy_nb.monitor_plots import plot_health

__all__ = ["MonitorMagics"]


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
