"""What belongs to the caller is after each long call as it was before, whether the call succeeds or fails."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna  # noqa: F401 - its logger gets a handler at the first import
import pytest
import scipy.stats  # noqa: F401 - adds to the filters of warnings at its first import

import dspy_nb as nb
from tests.core.optimization.test_optimize import LEARNING, OPTIONS
from tests.scripted import classifier, reviews
from tests.surroundings import differences, picture

PROGRAM = classifier()
SETS = {"trainset": reviews(12, "train"), "valset": reviews(8, "val"), "testset": reviews(20, "test")}


def failing(gold: Any, pred: Any, trace: Any = None) -> bool:
    raise ValueError("the metric fails")


def _optimize(name: str) -> Callable[..., Any]:
    def run(metric: Any) -> None:
        data, options = copy.deepcopy(SETS), dict(OPTIONS.get(name, {}))
        program, before = copy.deepcopy(PROGRAM), PROGRAM.dump_state()
        try:
            nb.optimize(program, **data, metric=metric, optimizer=name, options=options, num_threads=2)
        finally:
            assert data == SETS  # in this order, too
            assert options == OPTIONS.get(name, {})
            assert program.dump_state() == before

    return run


def _pipeline(metric: Any) -> None:
    arguments = {"optimizer": "LabeledFewShot", "options": {"k": 2}}
    sets = {name: SETS[name] for name in ("trainset", "testset")}
    task = nb.Task(program=PROGRAM, **sets, metric=metric, **arguments)
    rules = nb.PipelineRules(gate=nb.QualityGate(min_score=0.5))
    nb.run_pipeline(task, "sentiment", rules, registry=nb.Registry("registry"), folder="out")
    assert arguments == {"optimizer": "LabeledFewShot", "options": {"k": 2}}


def _registry(metric: Any) -> None:
    nb.Registry("registry").register(PROGRAM, "sentiment")
    nb.Registry("registry").load("sentiment" if metric is not failing else "none")


CALLS: dict[str, Callable[[Any], object]] = {
    **{name: _optimize(name) for name in LEARNING},
    "evaluate": lambda metric: nb.evaluate(PROGRAM, SETS["testset"], metric),
    "compare": lambda metric: nb.compare(PROGRAM, copy.deepcopy(PROGRAM), SETS["testset"], metric),
    "pipeline": _pipeline,
    "registry": _registry,
}


@pytest.mark.heavy
@pytest.mark.parametrize("metric", [nb.exact_match("sentiment"), failing], ids=["succeeds", "fails"])
@pytest.mark.parametrize("name", CALLS)
def test_a_long_call_leaves_its_surroundings_as_they_were(name, metric, engine, workplace) -> None:
    random.seed(1)
    np.random.seed(1)
    before = picture()
    with contextlib.suppress(nb.DspyNbError) if metric is failing else contextlib.nullcontext():
        CALLS[name](metric)
    assert differences(before, picture()) == {}
