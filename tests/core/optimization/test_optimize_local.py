"""Every supported optimizer on the embedded model, with tiny budgets."""

from typing import Literal

import dspy
import pytest

from dspy_nb import demo
from dspy_nb.core.data.examples import split
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.optimizers import OPTIMIZERS
from dspy_nb.core.supervision.budget import Budget

pytestmark = pytest.mark.local_model

TRAIN, VAL = split(demo.reviews(), (6, 4), seed=0, stratify="sentiment")
EMBEDDER = dspy.Embedder(lambda texts: [[float(len(text)), float(text.count(" "))] for text in texts])
OPTIONS = {
    "BootstrapFewShot": {"max_bootstrapped_demos": 1, "max_labeled_demos": 2},
    "BootstrapFewShotWithRandomSearch": {
        "num_candidate_programs": 1,
        "max_bootstrapped_demos": 1,
        "max_labeled_demos": 2,
    },
    "BootstrapFewShotWithOptuna": {
        "num_candidate_programs": 2,
        "max_bootstrapped_demos": 1,
        "max_labeled_demos": 2,
    },
    "LabeledFewShot": {"k": 2},
    "MIPROv2": {
        "num_candidates": 2,
        "num_trials": 2,
        "max_bootstrapped_demos": 1,
        "max_labeled_demos": 1,
        "data_aware_proposer": False,
        "program_aware_proposer": False,
    },
    "COPRO": {"breadth": 2, "depth": 1},
    "SIMBA": {"bsize": 2, "num_candidates": 2, "max_steps": 1, "max_demos": 1},
    "GEPA": {"max_metric_calls": 10, "reflection_minibatch_size": 2},
    "KNNFewShot": {"k": 1, "vectorizer": EMBEDDER, "max_bootstrapped_demos": 1, "max_labeled_demos": 1},
    "BetterTogether": {
        "steps": {"p": {"optimizer": "LabeledFewShot", "options": {"k": 2}}, "c": "BootstrapFewShot"},
    },
}


class Sentiment(dspy.Signature):
    """Decide whether the review is positive or negative."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


class Counting:
    """The embedded model's engine, with a count of what it was asked."""

    supports_response_schema = True

    def __init__(self, engine):
        self.engine = engine
        self.supported_params = engine.supported_params
        self.calls = 0

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        self.calls += 1
        return self.engine.complete(request)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.delenv("DSPY_NB_LM", raising=False)
    lm = local_lm(cache=False, max_tokens=48)
    counting = Counting(lm.engine)
    with dspy.context(lm=lm.copy(engine=counting), adapter=dspy.JSONAdapter()):
        yield counting


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"Ensemble"}))
def test_every_optimizer_works_on_the_embedded_model_and_counts_its_calls(name, engine):
    run = optimize(
        dspy.Predict(Sentiment),
        trainset=TRAIN,
        valset=VAL,
        metric=exact_match("sentiment"),
        optimizer=name,
        options=OPTIONS[name],
        num_threads=2,
    )
    assert run.status == "completed"
    assert run.usage.lm_calls == engine.calls
    assert run.usage.lm_calls <= run.plan.estimate.lm_calls + run.errors.count
    assert run.usage.tokens > run.usage.lm_calls
    assert run.usage.usd is None
    assert 0 <= run.score <= 1
    assert 0 <= run.baseline_score <= 1
    assert run.program(review=VAL[0].review).sentiment in ("positive", "negative")


def test_a_budget_stops_the_embedded_model_at_the_call(engine):
    run = optimize(
        dspy.Predict(Sentiment),
        trainset=TRAIN,
        valset=VAL,
        metric=exact_match("sentiment"),
        optimizer="BootstrapFewShotWithRandomSearch",
        budget=Budget(lm_calls=7),
        num_threads=2,
    )
    assert run.stopped_by == "lm_calls"
    assert run.usage.lm_calls == engine.calls == 7
    assert run.score is not None


def test_an_ensemble_of_programs_answers_with_the_embedded_model(engine):
    programs = [dspy.Predict(Sentiment) for _ in range(3)]
    run = optimize(programs, optimizer="Ensemble")
    assert run.program(review=VAL[0].review).sentiment in ("positive", "negative")
    assert engine.calls == 3
