"""What the registry's test files share: programs, a run, a registry with versions, two views of an environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
from hypothesis.stateful import RuleBasedStateMachine

import dspy_nb as nb
from dspy_nb.core.errors import DspyNbError
from dspy_nb.core.registry.registry import Registry

GATE = {
    "kind": "gate",
    "passed": True,
    "n": 100,
    "interval": [0.8, 0.9],
    "data_fingerprint": "f",
    "metric": "em",
}

VERSIONS = [f"m@1.{number}.0" for number in range(4)]
EVALUATION = {"kind": "evaluation", "score": 0.9, "interval": [0.88, 0.92], "n": 1000}


class QA(dspy.Module):
    def __init__(self, signature: str = "question -> answer") -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(signature)

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question)


class Run:
    """What an optimization run gives the registry."""

    def registration(self) -> dict[str, Any]:
        return {
            "program": program("run"),
            "metadata": {
                "optimizer": "MIPROv2",
                "base_model": "openai/gpt-4o-mini",
                "num_training_examples": 40,
                "validation_score": 0.9,
                "hyperparameters": {"num_candidates": 6, "prompt_model": dspy.LM("openai/x", api_key="sk-1")},
                "seed": 0,
                "usage": {"lm_calls": 100, "cache_hits": 3, "prompt_tokens": 1000, "usd": None},
                "datasets": {"train": {"fingerprint": "abc", "n": 40}},
                "metric": "exact_match",
                "test": {"score": 0.84, "interval": (0.79, 0.89), "n": 50},
                "duration_s": 12.5,
                "stopped_by": None,
            },
            "evaluation": {"score": 0.84, "n": 50},
        }


def program(instructions: str = "Say it.") -> dspy.Predict:
    made = dspy.Predict("review -> sentiment")
    made.signature = made.signature.with_instructions(instructions)
    made.demos = [{"review": "nice", "sentiment": "good"}]
    return made


def evaluated(made: dspy.Module, right: range, n: int) -> nb.Evaluation:
    """Return the evaluation of a program that knows some of n examples and answers all others wrong."""
    labels = ["good" if number % 2 else "bad" for number in range(n)]
    data = [
        dspy.Example(review=f"review {number}", sentiment=label).with_inputs("review")
        for number, label in enumerate(labels)
    ]

    def answer(review: str) -> dspy.Prediction:
        number = int(review.split()[1])
        wrong = {"good": "bad", "bad": "good"}[labels[number]]
        return dspy.Prediction(sentiment=labels[number] if number in right else wrong)

    found = nb.evaluate(answer, data, nb.exact_match("sentiment"))
    return replace(found, program_sha256=None)


def registry_of(root: Path | str, n: int = len(VERSIONS)) -> Registry:
    """Return a registry with n versions of m, 1.0.0, 1.1.0, ...; their instructions and demos tell which."""
    registry = Registry(root)
    for number in range(n):
        made = program(f"Version {number}.")
        made.demos = [{"review": f"demo {number}", "sentiment": "good"}]
        registry.register(made, "m")
    return registry


def said(program: dspy.Module | None) -> str:
    """Return the instructions of a program."""
    assert isinstance(program, dspy.Predict)
    return str(program.signature.instructions)


class TwoViews(RuleBasedStateMachine):
    """Two processes' views of one environment, for rules that decide at random."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.flush, os.fsync = os.fsync, lambda _: None
        first = registry_of(Path(self.folder.name) / "registry")
        self.views = [first.environment("e", create=True), Registry(first.root).environment("e", create=True)]
        self.live: list[str] = []
        self.ever: list[str] = []

    def teardown(self) -> None:
        for view in self.views:
            view.traffic.close()
        os.fsync = self.flush
        self.folder.cleanup()


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def stays_in_the_error_tree(call: Callable[[], object]) -> None:
    """Call it: whatever it raises is an error of ours, on one line."""
    error = None
    try:
        call()
    except DspyNbError as raised:
        error = raised
    assert "\n" not in str(error)
