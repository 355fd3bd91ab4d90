"""What a metric or a program writes stays with it, and a program that changes itself is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pydantic
import pytest

from dspy_nb.core.ab.compare import compare
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.evaluation.evaluate import evaluate
from tests.scripted import classifier, reviews


class Source(pydantic.BaseModel):
    tags: list[str]


def data() -> list[dspy.Example]:
    return [
        dspy.Example(number=i, docs=["a", {"b": [i]}], source=Source(tags=["t"]), label=i).with_inputs(
            "number", "docs", "source"
        )
        for i in range(8)
    ]


def writing(gold: Any, pred: Any, trace: Any = None) -> float:
    gold["label"] = pred["label"] = "changed"
    for record in (gold, pred):
        record.docs.append("changed")
        record.docs[1]["b"].append("changed")
        record.source.tags.append("changed")
    del gold["number"]
    return 1.0


def program(number: int, docs: list[Any], source: Source) -> dspy.Prediction:
    docs[1]["b"].append("by the program")
    source.tags.append("by the program")
    docs.pop(0)
    docs[:0] = ["a"]
    return dspy.Prediction(label=number, docs=["a", {"b": [number]}], source=Source(tags=["t"]))


async def later(number: int, docs: list[Any], source: Source) -> dspy.Prediction:
    return program(number, docs, source)


def _in_a_pool(*arguments: Any) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return evaluate(*arguments, executor=pool)


@pytest.mark.parametrize("asked", [program, later], ids=["program", "asynchronous"])
@pytest.mark.parametrize("run", [evaluate, _in_a_pool], ids=["threads", "pool"])
def test_the_callers_examples_and_other_metrics_never_see_what_one_writes(
    run: Callable[..., Any], asked: Any
) -> None:
    examples = data()
    ev = run(asked, examples, [writing, exact_match("label"), _as_it_was])
    assert examples == data()
    assert {name: score.score for name, score in ev.metrics.items()} == {
        "writing": 1.0, "exact_match('label')": 1.0, "_as_it_was": 1.0
    }  # fmt: skip
    assert [result.predicted["docs"] for result in ev.results] == [["a", {"b": [i]}] for i in range(8)]
    assert [result.inputs["docs"] for result in ev.results] == [["a", {"b": [i]}] for i in range(8)]


def _as_it_was(gold: Any, pred: Any, trace: Any = None) -> bool:
    return gold == data()[gold.number] and pred.docs == gold.docs


def test_a_comparison_keeps_the_callers_examples_as_they_are() -> None:
    examples = data()
    compare(program, program, examples, writing, sequential=False)
    assert examples == data()


def test_a_function_that_slices_may_write_too() -> None:
    examples = data()
    evaluate(program, examples, exact_match("label"), by=lambda example: example.docs.append(1) or "all")
    assert examples == data()


# -- programs that change themselves -----------------------------------------------------------------------------


class Stateful(dspy.Module):
    """Changes what its name says."""

    def __init__(self, change: Callable[[Any], object] = lambda program: None) -> None:
        super().__init__()
        self.predict = classifier()
        self.calls, self.cache, self.seen, self.steps = 0, {"of": []}, set(), [classifier()]
        self.predict.demos = [dspy.Example(review="r", sentiment="s")]
        self._change = change

    def forward(self, review: str) -> dspy.Prediction:
        self._change(self)
        return self.predict(review=review)


CHANGES: dict[str, Callable[[Any], object]] = {
    "calls": lambda program: setattr(program, "calls", program.calls + 1),
    "cache": lambda program: program.cache["of"].append(1),
    "seen": lambda program: program.seen.add(1),
    "new": lambda program: setattr(program, "new", 1),
    "predict.demos": lambda program: program.predict.demos.append(dspy.Example(review="more")),
    "steps[0].config": lambda program: program.steps[0].config.update(temperature=1),
    "predict.signature": lambda program: setattr(
        program.predict, "signature", program.predict.signature.with_instructions("Now so.")
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_program_that_changes_itself_is_told_of_by_attribute(name, engine, caplog) -> None:
    evaluate(Stateful(CHANGES[name]), reviews(6), exact_match("sentiment"))
    assert f"Stateful changes itself when it answers ({name}): its next" in caplog.text


def test_a_comparison_tells_of_either(engine, caplog) -> None:
    compare(classifier(), Stateful(CHANGES["calls"]), reviews(6), exact_match("sentiment"), sequential=False)
    assert "Stateful changes itself when it answers (calls): its next" in caplog.text


@pytest.mark.parametrize(
    "make",
    [Stateful, classifier, lambda: dspy.ChainOfThought("review -> sentiment")],
    ids=["several", "one", "reasoning"],
)
def test_a_program_that_stays_the_same_is_not(make, engine, caplog) -> None:
    evaluate(make(), reviews(6), exact_match("sentiment"))
    assert not caplog.text


@pytest.mark.parametrize("ending", [SystemExit(2), asyncio.CancelledError()], ids=["exit", "cancelled"])
def test_a_program_that_would_end_the_process_is_an_error_of_its_example(ending) -> None:
    def sometimes(number: int) -> dspy.Prediction:
        if number == 3:
            raise ending
        return dspy.Prediction(label=number)

    examples = [dspy.Example(number=i, label=i).with_inputs("number") for i in range(8)]
    ev = evaluate(sometimes, examples, exact_match("label"))
    assert (ev.n, ev.score, ev.errors.kinds) == (8, 7 / 8, {type(ending).__name__: 1})
