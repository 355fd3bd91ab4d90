"""Candidates of known true accuracy, for benchmarks and tests of racing: no language model, real DSPy optimizers.

Each candidate has an ability and each example a difficulty (an item response model). Whether a candidate is right
on an example is drawn once, from a hash, so that it is the same in whatever order and thread it is asked. A
candidate is what its demos and its instruction make it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import statistics
import threading
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

_SPREAD = 0.5  # of the candidates' abilities
_DIFFICULTY = (-0.8, 1.5)  # of the examples: mean and spread
_MANY = 2_000  # further examples, for the true accuracy


def _uniform(*what: Any) -> float:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=7).digest(), "big") / 2**56


@functools.cache
def _normal(*what: Any) -> float:
    return statistics.NormalDist().inv_cdf(min(max(_uniform(*what), 1e-12), 1 - 1e-12))


class Population(dspy.Module):
    """A program whose accuracy depends on its demos and its instruction alone.

    Args:
        seed: Of abilities, difficulties and answers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")
        self.seed = seed
        self.counter = Counter()

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells candidates apart."""
        demos = tuple(sorted(str(demo["question"]) for demo in self.predict.demos))
        return self.predict.signature.instructions, demos

    @property
    def true_accuracy(self) -> float:
        """The mean chance of a right answer, over many examples."""
        return statistics.fmean(self._chance(number) for number in range(10**6, 10**6 + _MANY))

    def forward(self, question: str) -> dspy.Prediction:
        """Answer, right or wrong."""
        self.counter.add()
        right = _uniform(self.seed, "answer", self.identity, question) < self._chance(int(question))
        return dspy.Prediction(answer="yes" if right else "no")

    def _chance(self, question: int) -> float:
        mean, spread = _DIFFICULTY
        ability = _SPREAD * _normal(self.seed, "ability", self.identity)
        difficulty = mean + spread * _normal(self.seed, "difficulty", question)
        return 1 / (1 + math.exp(difficulty - ability))


class Counter:
    """Counts, also across copies of what holds it."""

    def __init__(self) -> None:
        self.n = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        """Count one."""
        with self._lock:
            self.n += 1

    def __deepcopy__(self, memo: Any) -> Counter:
        return self


class Proposer:
    """A language model that writes instructions, each another one."""

    def __init__(self) -> None:
        self.calls = 0

    def __deepcopy__(self, memo: Any) -> Proposer:
        return self

    def complete(self, request: Request) -> Response:
        """Write an instruction."""
        self.calls += 1
        prompt = "\n".join(
            text for part in request.messages[-1].parts if (text := getattr(part, "text", None))
        )
        names = re.findall(r"`\[\[ ## (\w+) ## \]\]`", prompt.rsplit("Respond with", 1)[-1])
        fields = {name: f"instruction {self.calls}" for name in names if name != "completed"}
        text = "\n\n".join(
            f"[[ ## {name} ## ]]\n{value}" for name, value in {**fields, "completed": ""}.items()
        )
        usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        message = Message.assistant(text if names else json.dumps(fields))
        return Response(id="r", model=request.model, message=message, finish_reason="stop", usage=usage)


def questions(first: int, n: int) -> list[dspy.Example]:
    """Return ``n`` labelled examples."""
    numbers = range(first, first + n)
    return [dspy.Example(question=str(i), answer="yes").with_inputs("question") for i in numbers]


def setting(val: int, seed: int) -> dict[str, Any]:
    """Return program, data and metric of a search, as :func:`dspy_nb.optimize` takes them."""
    import dspy_nb as nb

    return {
        "program": Population(seed),
        "trainset": questions(10_000, 32),
        "valset": questions(0, val),
        "metric": nb.exact_match("answer"),
    }


RANDOM_SEARCH = {
    "optimizer": "BootstrapFewShotWithRandomSearch",
    "options": {"num_candidate_programs": 13, "max_bootstrapped_demos": 1, "max_labeled_demos": 4},
}
"""Sixteen candidates."""

MIPRO = {
    "optimizer": "MIPROv2",
    "options": {
        "num_candidates": 8,
        "num_trials": 15,
        "minibatch": False,
        "max_bootstrapped_demos": 1,
        "max_labeled_demos": 4,
    },
}
"""Sixteen candidates, each scored in full."""
