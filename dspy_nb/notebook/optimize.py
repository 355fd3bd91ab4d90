"""The magics of dspy_nb: parse a line, call core, show.

Names on a line are looked up in the notebook, and ``{x}`` and ``$x`` are expanded as in every magic, so a
loop can write ``--option num_candidates={n}``; braces that hold no expression stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy
from IPython.core.magic import Magics, line_magic, magics_class, needs_local_scope
from IPython.core.magic_arguments import argument, magic_arguments

from dspy_nb.core.errors import DspyNbError, InputError, NotFound
from dspy_nb.core.events import Failed
from dspy_nb.core.models.names import BUMPS, check_model_id
from dspy_nb.core.models.submission import Submission
from dspy_nb.core.optimization.budget import Budget
from dspy_nb.core.optimization.optimize import estimate, optimize
from dspy_nb.core.optimization.presets import Preset, get_preset, list_presets, save_preset
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.registry.registry import Registry
from dspy_nb.notebook.ab import CompareMagics
from dspy_nb.notebook.arguments import (
    check_name,
    find,
    find_metric,
    given_options,
    help_option,
    options_from,
    parse,
    say,
    without_semicolon,
)
from dspy_nb.notebook.evaluate import EvaluateMagics
from dspy_nb.notebook.listeners import auto_progress
from dspy_nb.notebook.registry import MonitorMagics, RegistryMagics
from dspy_nb.notebook.setup import DspyNb, install, uninstall
from dspy_nb.views.listings import Listing, short_path
from dspy_nb.views.progress.display import Display
from dspy_nb.views.run import describe_estimate

__all__ = ["DspyNbMagics", "load_ipython_extension", "unload_ipython_extension"]

_LAST_RUN = "_dspy_run"


@magics_class
class DspyNbMagics(Magics):
    """%dspy_optimize and %dspy_presets."""

    shell: Any

    def __init__(self, shell: Any, defaults: DspyNb) -> None:
        super().__init__(shell)
        self.defaults = defaults

    @magic_arguments()
    @argument("program", help="the dspy.Module to optimize (for Ensemble, a list of them)")
    @argument("--train", metavar="NAME", help="examples to learn from")
    @argument("--val", metavar="NAME", help="examples to compare candidates on")
    @argument("--test", metavar="NAME", help="held-out examples: scored before and after, never searched on")
    @argument("--metric", metavar="METRIC", help="a function, or exact_match:field, token_f1:field, ...")
    @argument("--optimizer", metavar="NAME", help="such as MIPROv2; BootstrapFewShot by default")
    @argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of the optimizer: a literal, else a name in the notebook, else text; repeatable",
    )
    @argument("--preset", metavar="NAME", help="a named configuration, see %%dspy_presets")
    @argument("--budget-calls", metavar="N", type=int, help="stop after so many LM calls")
    @argument("--budget-seconds", metavar="S", type=float, help="stop after so many seconds")
    @argument("--budget-tokens", metavar="N", type=int, help="stop after so many tokens")
    @argument("--budget-usd", metavar="X", type=float, help="stop after so many US dollars")
    @argument(
        "--budget-call-seconds", metavar="S", type=float, help="a request that takes longer is an error"
    )
    @argument("--seed", metavar="N", type=int, default=0, help="for whatever is drawn at random")
    @argument("--threads", metavar="N", type=int, help="program calls at a time")
    @argument("--run-dir", metavar="DIR", help="keep every LM answer, so that nothing is paid twice")
    @argument("--log-file", metavar="FILE", help="append each event as a line of JSON")
    @argument("--save-as", metavar="MODEL", help="register the optimized program under this name")
    @argument("--bump", choices=BUMPS, help="part of the version to raise; minor by default")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @argument("--recompile", action="store_true", help="accept a program that was compiled before")
    @argument("--background", action="store_true", help="return at once; see run.wait() and run.stop()")
    @argument("--dry-run", action="store_true", help="return the estimate of LM calls, and spend nothing")
    @argument("-q", "--quiet", action="store_true", help="show no progress")
    @argument("-o", "--out", metavar="NAME", help="also store the run under this name")
    @help_option
    @needs_local_scope
    @line_magic
    def dspy_optimize(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Optimize a DSPy program and return the run, which shows as a report.

        The most LM calls that it can take are printed before anything is spent. An interrupt and a budget
        keep the best candidate so far. The last run is kept as _dspy_run, whatever happens to the value:
        behind a trailing semicolon it is not shown.
        """
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_optimize, line)
        if arguments is None:
            return None
        if arguments.out:
            check_name(arguments.out)
        namespace = self._namespace(local_ns)
        what = _task(arguments, namespace)
        expected = estimate(**what)
        budget = Budget(
            arguments.budget_calls,
            arguments.budget_seconds,
            arguments.budget_tokens,
            arguments.budget_usd,
            arguments.budget_call_seconds,
        )
        if arguments.dry_run:
            return None if silent else expected
        registry = self._registry_to_save_in(arguments, what["program"])
        say(describe_estimate(expected, budget))
        quiet = arguments.quiet or self.defaults.quiet
        threads = self.defaults.num_threads or None
        progress = None if quiet else auto_progress(background=arguments.background)
        with _shown_failing(progress if arguments.background else None):
            run = optimize(
                **what,
                budget=budget,
                seed=arguments.seed,
                num_threads=threads if arguments.threads is None else arguments.threads,
                on_event=progress,
                stop=None if progress is None else progress.stop,
                run_dir=arguments.run_dir,
                log_file=arguments.log_file,
                background=arguments.background,
            )
        self._keep(run, arguments.out)
        if registry is not None:
            _save(registry, run, arguments.save_as, arguments.bump)
        return None if silent else run

    @magic_arguments()
    @argument("name", nargs="?", help="show only this preset")
    @argument("--save", metavar="NAME", help="save a preset of your own")
    @argument("--optimizer", metavar="NAME", help="with --save: the optimizer")
    @argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="with --save: an option; repeatable",
    )
    @argument("--description", metavar="TEXT", help="with --save: what it is")
    @argument(
        "--recommended-for", metavar="TEXT", action="append", default=[], help="with --save; repeatable"
    )
    @help_option
    @needs_local_scope
    @line_magic
    def dspy_presets(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """List the presets, show one, or save one of your own."""
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_presets, line)
        if arguments is None:
            return None
        if arguments.save:
            shown: Any = _save_preset(arguments, self._namespace(local_ns))
        elif unused := given_options(arguments, ("optimizer", "option", "description", "recommended_for")):
            raise InputError(f"%dspy_presets: --{unused[0]} goes with --save NAME")
        else:
            shown = Listing(list_presets()) if arguments.name is None else get_preset(arguments.name)
        return None if silent else shown

    def registry(self, root: str | None = None) -> Registry:
        """Return the registry in the folder ``root``, or the default one."""
        return Registry(Path(root or self.defaults.registry).expanduser())

    def _namespace(self, local_ns: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**self.shell.user_ns, **(local_ns or {})}

    def _keep(self, run: OptimizationRun, name: str | None) -> None:
        self.shell.user_ns[_LAST_RUN] = run
        if name:
            self.shell.user_ns[name] = run

    def _registry_to_save_in(self, arguments: Any, program: Any) -> Registry | None:
        """Return where to register the run, after whatever can be checked before it is paid for."""
        name = arguments.save_as
        if name is None:
            if unused := given_options(arguments, ("bump", "registry")):
                raise InputError(f"%dspy_optimize: --{unused[0]} goes with --save-as MODEL")
            return None
        if arguments.background:
            raise InputError(
                "%dspy_optimize: --save-as does not go with --background; register the run when it has ended: "
                f"dspy_nb.Registry({self.defaults.registry!r}).register({_LAST_RUN}, {name!r})"
            )
        check_model_id(name)
        registry = self.registry(arguments.registry)
        with contextlib.suppress(NotFound):  # it becomes a new model
            registry.list(name)
        if isinstance(program, dspy.Module):
            Submission(program, name, metadata=None, evaluation=None, notes=None)
        return registry


@contextlib.contextmanager
def _shown_failing(progress: Display | None) -> Iterator[None]:
    """Let a display that was shown before its run say when that run does not even begin."""
    try:
        yield
    except DspyNbError as error:
        if progress is not None:
            progress(Failed(str(error)))
        raise


def _task(arguments: Any, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to optimize, as both ``estimate`` and ``optimize`` take it."""
    sets = {
        f"{name}set": None if given is None else find(given, namespace, f"--{name}")
        for name, given in (("train", arguments.train), ("val", arguments.val), ("test", arguments.test))
    }
    return {
        "program": find(arguments.program, namespace, "program"),
        **sets,
        "metric": None if arguments.metric is None else find_metric(arguments.metric, namespace),
        "optimizer": arguments.optimizer,
        "options": options_from(arguments.option, namespace),
        "preset": arguments.preset,
        "recompile": arguments.recompile,
    }


def _save(registry: Registry, run: OptimizationRun, name: str, bump: str | None) -> None:
    if run.stopped_by in ("interrupt", "stop"):
        say(f"not registered, because the run was interrupted; it is kept as {_LAST_RUN}")
        return
    if run.origin == "given":
        say(
            f"not registered, because no candidate had been scored when the run was stopped by {run.stopped_by}"
        )
        return
    try:
        version = registry.register(run, name, bump=bump)
    except DspyNbError:
        say(f"the run is kept as {_LAST_RUN}")
        raise
    say(f"registered {version.ref} in {short_path(version.path)}")


def _save_preset(arguments: Any, namespace: Mapping[str, Any]) -> Preset:
    if arguments.name:
        raise InputError(f"%dspy_presets: give either {arguments.name!r} to show or --save to save, not both")
    if not arguments.optimizer:
        raise InputError("%dspy_presets: --save needs --optimizer NAME")
    preset = Preset(
        arguments.save,
        arguments.optimizer,
        options_from(arguments.option, namespace),
        arguments.description or "",
        tuple(arguments.recommended_for),
    )
    file = save_preset(preset)
    say(f"saved in {short_path(file)}")
    return get_preset(arguments.save)


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics, their defaults, completion and the display of results (``%load_ext dspy_nb``)."""
    install(ipython, DspyNbMagics, EvaluateMagics, CompareMagics, MonitorMagics, RegistryMagics)


def unload_ipython_extension(ipython: Any) -> None:
    """Undo ``load_ipython_extension``."""
    uninstall(ipython, DspyNbMagics, EvaluateMagics, CompareMagics, MonitorMagics, RegistryMagics)
