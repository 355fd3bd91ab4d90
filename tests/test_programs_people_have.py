"""Programs as people have them, each the whole way: from an estimate to answers in an environment."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, Usage

import dspy_nb as nb

METRIC = nb.exact_match("sentiment")


class Engine:
    """Answers each field by name; right for reviews with "good" in them, and for all others."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def complete(self, request: Request) -> Response:
        with self._lock:
            self.calls += 1
        prompt = str(request.messages[-1].text)
        names = re.findall(r"`\[\[ ## (\w+) ## \]\]`", prompt.rsplit("Respond with", 1)[-1])
        fields = {name: _answer(name, prompt) for name in names if name != "completed"}
        text = "\n\n".join(
            f"[[ ## {name} ## ]]\n{value}" for name, value in {**fields, "completed": ""}.items()
        )
        usage = Usage(input_tokens=10, output_tokens=5, total_tokens=15)
        return Response(
            id="r", model=request.model, message=Message.assistant(text), finish_reason="stop", usage=usage
        )


class Awaited:
    """The same engine for programs that are awaited."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        return self._engine.complete(request)


def _answer(name: str, prompt: str) -> str:
    if name == "sentiment":
        return "positive" if "good" in prompt.split("[[ ## review ## ]]")[-1] else "negative"
    return {
        "next_tool_name": "finish",
        "next_tool_args": json.dumps({}),
        "generated_code": "```python\nprint('looked at')\n```",
        "finished": "True",
    }.get(name, f"some {name}")


class Sentiment(dspy.Signature):
    """Classify the review."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


class TwoStages(dspy.Module):
    """A summary first, then the class of it; one predictor under two names, and what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.summarize = dspy.Predict("review -> summary")
        self.classify = dspy.ChainOfThought("review, summary -> sentiment: Literal['positive', 'negative']")
        self.last = self.classify
        self.lock = threading.Lock()

    def forward(self, review: str) -> dspy.Prediction:
        return self.last(review=review, summary=self.summarize(review=review).summary)


class OnlyAsync(dspy.Module):
    """A program that can only be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict(Sentiment)

    async def aforward(self, review: str) -> dspy.Prediction:
        return await self.classify.acall(review=review)


class Interpreter:
    """Runs no code; says what running it printed."""

    def __init__(self) -> None:
        self.tools: dict[str, Callable[..., str]] = {}

    def start(self) -> None: ...

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> str:
        return "looked at"

    def shutdown(self) -> None: ...


def look_up(word: str) -> str:
    """Return what a word means."""
    return f"{word} is a word"


def reward(args: dict[str, Any], pred: dspy.Prediction) -> float:
    return float(pred.sentiment in ("positive", "negative"))


PROGRAMS: dict[str, Callable[[], dspy.Module]] = {
    "Predict": lambda: dspy.Predict(Sentiment),
    "ChainOfThought": lambda: dspy.ChainOfThought(Sentiment),
    "two stages": TwoStages,
    "ReAct": lambda: dspy.ReAct(Sentiment, tools=[look_up]),
    "BestOfN": lambda: dspy.BestOfN(dspy.Predict(Sentiment), N=2, reward_fn=reward, threshold=1.0),
    "Refine": lambda: dspy.Refine(dspy.Predict(Sentiment), N=2, reward_fn=reward, threshold=1.0),
    "ProgramOfThought": lambda: dspy.ProgramOfThought(Sentiment, interpreter_factory=Interpreter),
}


def reviews(n: int, tag: str) -> list[dspy.Example]:
    return [
        dspy.Example(
            review=f"{tag} {i} is {'good' if i % 2 else 'bad'}", sentiment="positive" if i % 2 else "negative"
        ).with_inputs("review")
        for i in range(n)
    ]


@pytest.fixture
def engine() -> Any:
    engine = Engine()
    lm = dspy.LM("scripted/people", engine=engine, async_engine=Awaited(engine), cache=False)
    with dspy.context(lm=lm):
        yield engine


@pytest.mark.filterwarnings("ignore:.*ProgramOfThought.*:DeprecationWarning")
@pytest.mark.parametrize("kind", PROGRAMS)
def test_it_goes_the_whole_way(kind: str, engine: Engine, tmp_path: Path) -> None:
    program, make = PROGRAMS[kind](), PROGRAMS[kind]
    train, val, test = reviews(8, "train"), reviews(6, "val"), reviews(6, "test")
    task: dict[str, Any] = {"trainset": train, "valset": val, "testset": test, "metric": METRIC}
    task |= {"optimizer": "BootstrapFewShotWithRandomSearch"}
    task |= {"options": {"num_candidate_programs": 1, "max_bootstrapped_demos": 1, "max_labeled_demos": 1}}

    assert nb.estimate(program, **task)
    assert engine.calls == 0
    run = nb.optimize(program, **task)
    assert (run.score, run.test_after.score, run.test_after.errors.count) == (1.0, 1.0, 0)
    assert run.usage.lm_calls == engine.calls

    evaluation = nb.evaluate(run.program, test, METRIC)
    assert (evaluation.score, evaluation.errors.count) == (1.0, 0)
    comparison = nb.compare(make(), run.program, test, METRIC)
    assert (comparison.a.score, comparison.b.score) == (1.0, 1.0)

    registry = nb.Registry(tmp_path / "registry")
    version = registry.register(run, "sentiment")
    loaded = registry.load(version, program=make())
    assert [predictor.demos for predictor in loaded.predictors()] == [
        [dict(demo) for demo in predictor.demos] for predictor in run.program.predictors()
    ]
    assert nb.evaluate(loaded, test, METRIC).score == 1.0

    environment = registry.environment("development")
    environment.deploy(version)
    served = make()
    answer, request_id = environment.predict(served, review="it is good")
    assert answer.sentiment == "positive"
    environment.record(request_id, success=True)
    calls = engine.calls
    with pytest.raises(nb.InputError, match="review"):
        environment.predict(served, reviw="it is good")
    assert engine.calls == calls


def test_a_program_that_can_only_be_awaited_goes_as_far_as_it_can(engine: Engine, tmp_path: Path) -> None:
    data = reviews(6, "test")
    with pytest.raises(nb.InputError, match="has only aforward"):
        nb.optimize(OnlyAsync(), trainset=data, metric=METRIC)
    assert engine.calls == 0
    assert nb.evaluate(OnlyAsync(), data, METRIC).score == 1.0
    comparison = nb.compare(OnlyAsync(), OnlyAsync(), data, METRIC, names=("one", "other"))
    assert (comparison.a.score, comparison.b.score) == (1.0, 1.0)
    registry = nb.Registry(tmp_path / "registry")
    version = registry.register(OnlyAsync(), "sentiment")
    assert nb.evaluate(registry.load(version, program=OnlyAsync), data, METRIC).score == 1.0
