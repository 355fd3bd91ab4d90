"""What the registry's test files share: a program, a run, a registry in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.errors import DspyNbError

GATE = {
    "kind": "gate",
    "passed": True,
    "n": 100,
    "interval": [0.8, 0.9],
    "data_fingerprint": "f",
    "metric": "em",
}


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
