"""What ``dspy-nb ab-test --experiment`` does: begin an online experiment, or say how it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click
from click.core import ParameterSource

import dspy_nb as nb
from dspy_nb.commands.output import print_result

__all__ = ["experiment_options", "show_experiment"]

_ONLINE: Final = (
    "as_json", "attach", "confidence", "config", "experiment", "margin", "min_samples", "model_a", "model_b",
    "root", "split",
)  # fmt: skip


def experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an online experiment."""
    for option in (
        click.option(
            "--min-samples", type=int, metavar="N", help="Online: units that the classical test needs."
        ),
        click.option(
            "--split", type=float, metavar="X", help="Online: share of new units that go to B, such as 0.1."
        ),
        click.option(
            "--experiment",
            metavar="NAME",
            help="Online, on live traffic: begin the experiment of this name, or say how it stands.",
        ),
    ):
        command = option(command)
    return command


def show_experiment(root: str, as_json: bool, *, attach: bool) -> int:
    """Begin the experiment that the command line names, or show its status.

    Returns:
        0 if it was begun now or if B is better, 1 if there is no such verdict.

    Raises:
        InputError: An option belongs to a comparison on labelled data, or something is missing.
        NotFound, Refused: As for ``Experiment``.
    """
    from dspy_nb.core.experiment import experiments
    from dspy_nb.experiment_report import experiment_text

    context = click.get_current_context()
    given = context.params
    for option in context.command.params:
        name = str(option.name)
        if name not in _ONLINE and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise nb.InputError(
                f"{option.opts[0]} goes with a comparison on --test-data, not with an online experiment"
            )
    registry = nb.Registry(root)
    name, models = given["experiment"], [*filter(None, [given["model_a"]]), *given["model_b"]]
    if models and (len(models) != 2 or not given["model_a"] or any(":" in model for model in models)):
        raise nb.InputError("an online experiment takes one --model-a and one --model-b, both versions")
    if name is None:
        if not models:
            raise nb.InputError("--split needs --experiment NAME, or --model-a and --model-b")
        name = "-".join(registry.get(model).ref for model in models).replace("@", "-")
    options = {
        key: given[key]
        for key in ("split", "min_samples", "confidence", "margin")
        if given[key] is not None and context.get_parameter_source(key) is not ParameterSource.DEFAULT
    }
    begun = name in experiments(registry)
    experiment = nb.Experiment(name, *models, registry=registry, **options)
    status = experiment.conclude() if attach else experiment.status()
    text = experiment_text(status)
    if not begun:
        text += (
            f"\n\nBegun. Serve with nb.Experiment({name!r}).predict(unit=...), and record() what came of it."
        )
    print_result(as_json, status.to_dict(), lambda: text)
    if not begun or status.verdict == "B better":
        return 0
    click.echo(
        f"Error: {status.b.name} is not shown to be better than {status.a.name}: {status.verdict}", err=True
    )
    return 1
