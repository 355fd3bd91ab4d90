"""What stands out in a run as a whole, besides its scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from dspy_nb.core.evaluation.diagnosis import (
    Finding,
    diagnose_answers,
    diagnose_candidates,
    diagnose_errors,
    under,
)
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.optimization.task import Task
from dspy_nb.core.programs.lm_call import AnswerCount
from dspy_nb.core.supervision.budget import ErrorCount
from dspy_nb.core.supervision.candidates import Recorder


def findings_of(
    task: Task,
    program: Any,
    held_out: tuple[Evaluation | None, Evaluation | None],
    recorder: Recorder,
    errors: ErrorCount,
    answers: Iterable[AnswerCount],
) -> tuple[Finding, ...]:
    """Return what stands out in a run: of each kind, where it matters most.

    Args:
        task: What was done.
        program: The program that the run ended with.
        held_out: Its scores on held-out examples, before and after.
        recorder: The candidates.
        errors: Those of the whole run.
        answers: The answers of its parts, counted.
    """
    before, after = held_out
    seen = "on the examples of the search"
    sources = [
        ("after", "held out, after", () if after is None else after.findings),
        ("before", "held out, before", () if before is None else before.findings),
    ]
    if not task.method.replaces_program:
        for title, one in (("the chosen program", program), ("the program as given", task.program)):
            sources.append(("search", f"{title}, {seen}", recorder.findings_of(one)))
    found: dict[str, Finding] = {}
    for where, title, findings in sources:
        for finding in findings:
            found.setdefault(finding.kind, under(finding, where, title))
    for finding in diagnose_errors(errors.kinds, errors.first):
        found.setdefault(finding.kind, finding)
    # Those of single calls are counted in all of the run.
    for finding in diagnose_answers(sum(answers, AnswerCount())):
        known = found.get(finding.kind)
        if known is not None:
            finding = replace(known, text=finding.text, count=finding.count, of=finding.of)
        found[finding.kind] = finding
    scored = [(candidate.score, candidate.n) for candidate in recorder.candidates if candidate.full]
    return (*diagnose_candidates(scored), *found.values())
