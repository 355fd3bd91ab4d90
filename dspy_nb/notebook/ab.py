"""The magic %dspy_ab: parse a line, compare, show."""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, needs_local_scope
from IPython.core.magic_arguments import argument, magic_arguments

from dspy_nb.core.ab.compare import compare_many
from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.errors import InputError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.notebook.arguments import (
    check_name,
    find,
    find_metric,
    help_option,
    parse,
    say,
    without_semicolon,
)
from dspy_nb.notebook.listeners import notebook_progress
from dspy_nb.views.progress.comparison import most_answers

__all__ = ["CompareMagics"]

_LAST_COMPARISON = "_dspy_comparison"
_NEEDED = ("a", "b", "--data", "--metric")
_OF_A_COMPARISON = (
    "a", "b", "data", "metric", "margin", "confidence", "max_examples", "one_look", "threads", "timeout",
    "stop_after", "seed", "program",
)  # fmt: skip


@magics_class
class CompareMagics(Magics):
    """%dspy_ab."""

    shell: Any

    def __init__(self, shell: Any, defaults: Any) -> None:
        super().__init__(shell)
        self.defaults = defaults

    @magic_arguments()
    @argument("a", nargs="?", help="the program in use, or a reference such as sentiment@production")
    @argument("b", nargs="*", help="what may replace it; several are each compared with a")
    @argument("--data", metavar="NAME", help="labelled examples that neither has learnt from")
    @argument("--metric", metavar="METRIC", help="a function, or exact_match:field, ...")
    @argument("--experiment", metavar="NAME", help="instead: the status of an online experiment of this name")
    @argument("--margin", metavar="M", type=float, help="difference that makes no difference")
    @argument("--confidence", metavar="C", type=float, help="of the verdict")
    @argument("--max-examples", metavar="N", type=int, help="at most so many, drawn at random")
    @argument("--one-look", action="store_true", help="answer all, and look once with an exact test")
    @argument("--threads", metavar="N", type=int, help="examples at a time")
    @argument("--timeout", metavar="S", type=float, help="seconds after which an answer is an error")
    @argument("--stop-after", metavar="S", type=float, help="end after so many seconds, with what is done")
    @argument("--seed", metavar="N", type=int, help="of the order of the examples")
    @argument("--program", metavar="NAME", help="a program of the versions' class, where it is your own")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @argument("-q", "--quiet", action="store_true", help="show no progress")
    @argument("-o", "--out", metavar="NAME", help="also store the comparison under this name")
    @help_option
    @needs_local_scope
    @line_magic
    def dspy_ab(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Compare programs on the same examples and return the comparison, which shows as a report.

        It ends as soon as the verdict is in, and may be watched or interrupted: the interval is valid at
        every look. With several candidates each needs more evidence, and is asked until its own verdict is
        in. The last comparison is kept as _dspy_comparison. With --experiment NAME, show the status of an
        online experiment instead.
        """
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_ab, line)
        if arguments is None:
            return None
        if arguments.out:
            check_name(arguments.out)
        registry = self.registry(arguments.registry)
        if arguments.experiment is not None:
            given = {name: getattr(arguments, name) for name in _OF_A_COMPARISON}
            others = [
                name.replace("_", "-")
                for name, value in given.items()
                if value is not None and value is not False and value != []
            ]
            if others:
                raise InputError(
                    f"%dspy_ab: --experiment shows what is under way, and goes with --registry and --out only, "
                    f"not with {', '.join(others)}"
                )
            status = Experiment.open(arguments.experiment, registry=registry).status()
            if arguments.out:
                self.shell.user_ns[arguments.out] = status
            return None if silent else status
        missing = [text for text in _NEEDED if not getattr(arguments, text.lstrip("-"))]
        if missing:
            raise InputError(
                f"%dspy_ab: {', '.join(missing)} missing; or --experiment NAME for one under way "
                "(--help lists the arguments)"
            )
        namespace = {**self.shell.user_ns, **(local_ns or {})}
        names = (arguments.a, *arguments.b)
        programs = [name if "@" in name else find(name, namespace, "program") for name in names]
        data = find(arguments.data, namespace, "--data")
        metric = find_metric(arguments.metric, namespace)
        if not hasattr(data, "__len__"):
            raise InputError(f"%dspy_ab: --data {arguments.data} is a {type(data).__name__}, not a list")
        quiet = arguments.quiet or self.defaults.quiet
        planned = min(len(data), arguments.max_examples or len(data))
        own_class = None if arguments.program is None else find(arguments.program, namespace, "--program")
        if not quiet:
            say(most_answers(planned, len(programs)))
        margin = arguments.margin or 0.0
        with notebook_progress(quiet=quiet) as progress:
            found = compare_many(
                programs[0],
                programs[1:],
                data,
                metric,
                confidence=self.defaults.confidence if arguments.confidence is None else arguments.confidence,
                margin=margin,
                max_examples=arguments.max_examples,
                sequential=not arguments.one_look,
                num_threads=(self.defaults.num_threads or None)
                if arguments.threads is None
                else arguments.threads,
                timeout_s=arguments.timeout,
                stop_after_s=arguments.stop_after,
                seed=arguments.seed or 0,
                registry=registry,
                program=own_class,
                names=[name.replace("@", " ") for name in names],  # a reference is called by its version
                on_event=progress,
                stop=progress.stop,
            )
        comparison = found[0] if len(found) == 1 else found
        self.shell.user_ns[_LAST_COMPARISON] = comparison
        if arguments.out:
            self.shell.user_ns[arguments.out] = comparison
        return None if silent else comparison

    def registry(self, root: str | None = None) -> Registry:
        """Return the registry in the folder ``root``, or the default one."""
        return Registry(Path(root or self.defaults.registry).expanduser())
