"""The one check of how a program is called and what it answers, for whoever calls programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from dspy_nb.core.data.metrics import Metric
from dspy_nb.core.programs.answers import check_answer, check_labels, check_not_inputs
from dspy_nb.core.programs.inputs import check_inputs, check_program, check_request
from dspy_nb.core.programs.spec import Program

__all__ = ["check_answer", "check_call", "check_calls", "check_program"]


def check_calls(
    name: str,
    examples: Sequence[dspy.Example],
    program: Program,
    metrics: Iterable[Metric] = (),
    *,
    label: str | None = None,
) -> None:
    """Check, before the first call, that ``program`` can answer the examples and be scored on them.

    Args:
        name: What the examples are called in messages, such as "trainset".
        examples: Of labelled data.
        program: A ``dspy.Module`` or a function.
        metrics: What its answers are scored by.
        label: A further field that it is to answer.

    Raises:
        InputError: It cannot; the message names what is wrong and what is valid.
    """
    metrics = tuple(metrics)
    check_program(program)
    check_not_inputs(name, examples, program, metrics)
    check_inputs(name, examples, program)
    check_labels(name, examples, program, metrics, label)


def check_call(program: Program, inputs: Mapping[str, Any], own: tuple[str, ...] = ()) -> None:
    """Check that ``program`` can be called with these inputs.

    Args:
        program: A ``dspy.Module`` or a function.
        inputs: By name.
        own: Arguments of the function that was given them, which cannot be inputs too.

    Raises:
        InputError: It cannot; the message names what is wrong and what is valid.
    """
    check_program(program)
    check_request(program, inputs, own)
