"""optimize() over every supported optimizer, on a scripted engine that counts its calls."""

import contextlib
import json
import threading

import dspy
import pytest
from dspy.utils import BaseCallback

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError, OptimizationFailed
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.event_log import read_events
from dspy_nb.core.events import CandidateScored, Completed, Failed, Progress, Started
from dspy_nb.core.optimization import search
from dspy_nb.core.optimization.estimates import calls_per_run
from dspy_nb.core.optimization.optimize import estimate, optimize
from dspy_nb.core.optimization.optimizers import OPTIMIZERS
from dspy_nb.core.supervision import guard
from dspy_nb.core.supervision.budget import Budget
from tests.moments import HANG_S, Clock, interrupting, wait_for_workers
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

TRAIN, VAL, TEST = reviews(20, "train"), reviews(12, "val"), reviews(10, "test")
METRIC = exact_match("sentiment")
EMBEDDER = dspy.Embedder(lambda texts: [[float(len(text)), float(sum(map(ord, text)) % 7)] for text in texts])
FEW = {"max_labeled_demos": 3}  # with all 16 a call takes three times as long
OPTIONS = {
    "BootstrapFewShot": FEW,
    "BootstrapFewShotWithRandomSearch": {"num_candidate_programs": 3, **FEW},
    "BootstrapFewShotWithOptuna": {"num_candidate_programs": 3, **FEW},
    "MIPROv2": {"num_candidates": 3},
    "COPRO": {"breadth": 3, "depth": 2},
    "SIMBA": {"bsize": 8, "max_steps": 2, "num_candidates": 3},
    "GEPA": {"max_metric_calls": 60},
    "KNNFewShot": {"vectorizer": EMBEDDER},
    "BetterTogether": {
        "steps": {
            "p": {
                "optimizer": "BootstrapFewShotWithRandomSearch",
                "options": {"num_candidate_programs": 2, **FEW},
            },
            "c": {"optimizer": "COPRO", "options": {"breadth": 2, "depth": 1}},
        }
    },
}
LEARNING = sorted(set(OPTIMIZERS) - {"Ensemble"})
EVALUATING = ["BootstrapFewShotWithRandomSearch", "BootstrapFewShotWithOptuna", "MIPROv2", "COPRO", "SIMBA", "GEPA",
              "BetterTogether"]  # fmt: skip
CALLING = sorted({*LEARNING} - {"LabeledFewShot", "KNNFewShot"})


class ReturnsNothing(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = classifier()

    def forward(self, review):
        self.predict(review=review)


class OnlyAsync(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = classifier()

    async def aforward(self, review):
        return await self.predict.acall(review=review)


class TwoStages(dspy.Module):
    def __init__(self):
        super().__init__()
        self.analyze = dspy.Predict("review -> analysis")
        self.decide = dspy.Predict("review, analysis -> sentiment")

    def forward(self, review):
        return self.decide(review=review, analysis=self.analyze(review=review).analysis)


def run_it(name, program=None, **changes):
    arguments = {
        "trainset": TRAIN,
        "valset": VAL,
        "testset": TEST,
        "metric": METRIC,
        "optimizer": name,
        "options": OPTIONS.get(name, {}),
        "num_threads": 4,
        **changes,
    }
    return optimize(program or classifier(), **arguments)


@pytest.fixture
def clock(monkeypatch):
    """The clock that budgets are measured by."""
    clock = Clock()
    for module in (guard, search):
        monkeypatch.setattr(module, "time", clock)
    return clock


# -- what every optimizer must give ----------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("name", LEARNING)
def test_every_optimizer_returns_a_program_its_scores_and_exact_counts(name, engine, capfd):
    events = []
    program = classifier()
    run = run_it(name, program, on_event=events.append)
    assert capfd.readouterr() == ("", ""), "DSPy's own output must not show"
    assert run.status == "completed"
    assert run.stopped_by is None
    assert run.program(review="it is good").sentiment
    assert run.usage.lm_calls == engine.calls - (4 if name == "KNNFewShot" else 1)
    assert run.usage.prompt_tokens == 10 * run.usage.lm_calls
    assert run.usage.usd is None  # nobody knows the price of a scripted call
    assert run.errors.count == 0
    assert run.usage.lm_calls <= run.plan.estimate.lm_calls
    assert run.score is not None
    assert run.baseline_score is not None
    assert run.test_before.n == run.test_after.n == len(TEST)
    assert isinstance(events[0], Started)
    assert events[0].total_steps == run.plan.estimate.lm_calls
    assert isinstance(events[-1], Completed)
    assert events[-1].score == run.score
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert steps == sorted(steps)
    scored = [event for event in events if isinstance(event, CandidateScored)]
    assert {event.candidate for event in scored} == {candidate.number for candidate in run.candidates}
    assert bool(scored) == (name in EVALUATING)
    assert not program.demos, "the caller's program must not change"


@pytest.mark.parametrize("name", ["COPRO", "LabeledFewShot", "KNNFewShot"])
def test_the_estimate_is_exact_where_nothing_depends_on_the_answers(name, engine):
    run = run_it(name)
    assert run.usage.lm_calls == run.plan.estimate.lm_calls


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MIPROv2", {"num_candidates": 3}),
        (
            "MIPROv2",
            {"num_candidates": 3, "num_trials": 7, "minibatch_size": 5, "minibatch_full_eval_steps": 2},
        ),
        ("MIPROv2", {"num_candidates": 2, "max_bootstrapped_demos": 0, "max_labeled_demos": 0}),
        ("MIPROv2", {"auto": "light"}),
        ("BootstrapFewShotWithRandomSearch", {"num_candidate_programs": 2}),
        ("COPRO", {"breadth": 3, "depth": 2}),
        pytest.param("COPRO", {"breadth": 2, "depth": 3}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("two_stages", [False, True])
def test_the_estimate_bounds_what_is_used_and_its_evaluation_part_is_exact(name, options, two_stages, engine):
    program = TwoStages() if two_stages else classifier()
    per_call = 2 if two_stages else 1
    sizes = []

    class Sizes(dspy.utils.callback.BaseCallback):
        def on_evaluate_start(self, call_id, instance, inputs):
            sizes.append(len(inputs.get("devset") or instance.devset))

    with dspy.context(callbacks=[Sizes()]):
        run = optimize(
            program,
            trainset=TRAIN[:10],
            valset=VAL[:6],
            metric=METRIC,
            optimizer=name,
            options=options,
            num_threads=4,
        )
    expected = run.plan.estimate
    assert run.usage.lm_calls <= expected.lm_calls
    if name != "MIPROv2" or run.plan.options["minibatch"] is False:
        assert sum(sizes) * per_call == expected.evaluation


def test_estimate_says_the_same_as_the_run_and_spends_nothing(engine):
    expected = estimate(
        classifier(), trainset=TRAIN, valset=VAL, testset=TEST, metric=METRIC, optimizer="MIPROv2",
        options=OPTIONS["MIPROv2"],
    )  # fmt: skip
    assert engine.calls == 0
    assert expected == run_it("MIPROv2").plan.estimate


def test_an_ensemble_asks_all_its_programs(engine):
    run = optimize([classifier(), classifier(), classifier()], optimizer="Ensemble")
    assert engine.calls == 0
    assert run.program(review="val 1 is good").sentiment == "positive"
    assert engine.calls == 3


def test_the_search_score_and_the_held_out_score_are_told_apart(engine):
    run = run_it("BootstrapFewShotWithRandomSearch")
    assert run.score == max(candidate.score for candidate in run.candidates if candidate.full)
    assert run.baseline_score < run.score
    assert run.test_before.score < run.test_after.score
    assert run.plan.datasets["test"]["n"] == len(TEST)


def test_held_out_examples_that_the_search_sees_are_warned_of(engine):
    with pytest.warns(
        UserWarning, match="3 of the 10 examples of the testset are in the trainset or the valset"
    ):
        run_it("LabeledFewShot", testset=[*TEST[:7], *TRAIN[:2], VAL[0]])


def test_the_improvement_is_paired_and_says_no_more_than_its_interval(engine):
    improvement = run_it("LabeledFewShot").improvement
    assert improvement.better - improvement.worse == round(improvement.difference * improvement.n)
    assert improvement.interval[0] < improvement.difference < improvement.interval[1]
    same = run_it("COPRO").improvement
    assert (same.difference, same.better, same.worse, same.verdict) == (0, 0, 0, "no clear difference")

    def half(gold, pred, trace=None):
        return 1.0 if gold.sentiment == pred.sentiment else 0.5

    graded = run_it("LabeledFewShot", metric=half, testset=reviews(60, "test")).improvement
    assert graded.verdict == "better"
    assert run_it("LabeledFewShot", testset=None).improvement is None


def test_same_seed_same_result(engine):
    runs = [run_it("BootstrapFewShotWithOptuna", seed=3) for _ in range(2)]
    keys = [[candidate.prompt.key for candidate in run.candidates] for run in runs]
    assert keys[0] == keys[1]


def test_a_program_of_several_stages_keeps_its_class(engine):
    run = run_it("BootstrapFewShot", TwoStages())
    assert isinstance(run.program, TwoStages)
    assert run.program.decide.demos


# -- stopping ------------------------------------------------------------------------------------------------


def test_a_call_that_a_stop_overtakes_before_its_request_is_not_counted():
    stop, engine = threading.Event(), ScriptedEngine()

    class Late(BaseCallback):  # hears of a call after the run did, and before its request is sent
        def on_lm_start(self, call_id, instance, inputs):
            if engine.calls == 35:
                stop.set()

    with dspy.context(lm=scripted_lm(engine), callbacks=[Late()]):
        run = run_it("BootstrapFewShotWithRandomSearch", testset=None, stop=stop, num_threads=1)
    assert run.stopped_by == "stop"
    assert run.usage.lm_calls == engine.calls == 35


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("how", ["lm_calls", "seconds", "stop", "interrupt"])
def test_a_stop_keeps_the_best_so_far_and_nothing_is_called_afterwards(name, how, clock):
    """The bound is in calls: after the one at which it is stopped, the other thread may end the one it is at."""
    others = set(threading.enumerate())
    engine = ScriptedEngine(delay_s=0.003)
    stop = threading.Event()
    # late enough that the optimizers that score have scored at least one candidate
    after = 3 if name == "BootstrapFewShot" else 35

    def on_call(number):
        clock.move(1)
        if number == after and how == "stop":
            stop.set()

    engine.on_call = on_call
    budget = {"lm_calls": Budget(lm_calls=after), "seconds": Budget(seconds=after)}.get(how)
    with contextlib.ExitStack() as stack:
        if how == "interrupt":
            engine.on_call = stack.enter_context(interrupting(at=after))
        stack.enter_context(dspy.context(lm=scripted_lm(engine)))
        valset = VAL if OPTIMIZERS[name].needs_valset else None
        run = run_it(name, testset=None, valset=valset, budget=budget, stop=stop, num_threads=2)
    calls = engine.calls
    assert run.stopped_by == how
    assert run.status == "stopped"
    assert run.usage.lm_calls == calls
    if how == "lm_calls":
        assert calls == after or (
            name in ("COPRO", "SIMBA", "GEPA", "MIPROv2", "BetterTogether") and calls <= after
        )
    else:
        assert calls <= after + 1
    if run.candidates and any(candidate.full for candidate in run.candidates):
        best = max(candidate.score for candidate in run.candidates if candidate.full)
        assert run.score == best
    elif how in ("lm_calls", "stop", "interrupt"):
        assert name in ("BootstrapFewShot", "COPRO", "BootstrapFewShotWithOptuna", "SIMBA")
    wait_for_workers("ThreadPoolExecutor", besides=others)  # a pool left behind
    assert engine.calls == calls
    with dspy.context(lm=scripted_lm()):
        assert run.program(review="it is good").sentiment


@pytest.mark.parametrize("name", ["COPRO", "SIMBA"])
def test_a_score_after_a_stop_is_about_the_same_examples_as_the_one_before(name, engine):
    run = run_it(name, budget=Budget(lm_calls=110))
    assert run.origin == "candidate"
    assert run.score == evaluate(run.program, VAL, METRIC).score
    assert run.baseline_score == evaluate(classifier(), VAL, METRIC).score


def test_a_step_that_compares_on_the_training_set_does_not_replace_validation_scores(engine):
    run = run_it("BetterTogether", options={"steps": {"c": OPTIONS["BetterTogether"]["steps"]["c"]}})
    scores = {
        c.instructions["self"]: evaluate(c.program, VAL, METRIC).score for c in run.candidates if c.full
    }
    assert {c.instructions["self"]: c.score for c in run.candidates if c.full} == scores
    assert run.baseline_score == scores["Classify the review."]


def test_run_stop_ends_a_background_run(engine):
    over = threading.Event()
    engine.on_call = lambda number: over.wait(HANG_S)
    run = run_it("MIPROv2", background=True)
    assert run.status == "running"
    with pytest.raises(InputError, match="the run is going on"):
        _ = run.program
    with pytest.raises(InputError, match="not over after"):
        run.wait(timeout_s=0.01)
    run.stop()
    over.set()
    assert run.wait() is run
    assert run.stopped_by == "stop"


def test_a_background_run_sees_the_callers_settings_and_reports_its_failure(engine):
    run = run_it("LabeledFewShot", background=True)
    assert run.wait().score is not None

    def broken(gold, pred):
        return None

    run = run_it("BootstrapFewShot", metric=broken, background=True)
    with pytest.raises(InputError, match="broken"):
        run.wait()
    assert run.status == "failed"
    with pytest.raises(InputError, match="the run failed"):
        _ = run.score


def test_a_budget_keeps_enough_for_the_held_out_score(engine):
    run = run_it("MIPROv2", budget=Budget(lm_calls=60))
    assert run.stopped_by == "lm_calls"
    assert run.test_after.n == len(TEST)
    assert run.usage.lm_calls == engine.calls <= 60


def test_a_budget_that_ends_in_the_held_out_score_is_said_to_have_stopped_the_run(engine, clock):
    def slow(number):
        if number > 30:  # the search of BootstrapFewShot is over by then
            clock.move(0.05)

    engine.on_call = slow
    run = run_it(
        "BootstrapFewShot",
        valset=None,
        testset=reviews(24, "test"),
        budget=Budget(seconds=1.0),
        num_threads=1,
    )
    assert engine.calls > 30
    assert run.stopped_by == "seconds"
    assert run.origin == "optimizer"
    assert run.program.demos
    assert run.test_after is None
    assert run.improvement is None


@pytest.mark.parametrize("name", ["BootstrapFewShot", "MIPROv2"])
def test_the_limit_that_the_scores_before_use_up_is_the_one_named(name, engine):
    run = run_it(name, budget=Budget(tokens=100))
    assert run.stopped_by == "tokens"
    assert engine.calls <= 100 / 15 + 4


def test_a_program_that_the_search_did_not_change_is_not_scored_again(engine):
    run = run_it("MIPROv2", budget=Budget(lm_calls=30))
    assert run.stopped_by == "lm_calls"
    assert not run.candidates
    assert run.origin == "given"
    assert run.test_after is run.test_before
    assert engine.calls == 20  # 10 are kept for a score that was not needed


class AsksTwice(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = classifier()

    def forward(self, review):
        self.predict(review=review)
        return self.predict(review=review)


def test_a_program_that_loops_has_its_held_out_score_kept_in_the_budget(engine):
    run = run_it("BootstrapFewShotWithRandomSearch", AsksTwice(), budget=Budget(lm_calls=100))
    assert run.stopped_by == "lm_calls"
    assert run.candidates
    assert run.test_after.complete
    assert engine.calls <= 100


def test_a_token_budget_keeps_enough_for_the_held_out_score(engine):
    run = run_it("BootstrapFewShotWithRandomSearch", budget=Budget(tokens=1000))
    assert run.stopped_by == "tokens"
    assert run.candidates
    assert run.test_after.complete


def test_the_estimate_counts_what_dspys_own_loops_may_ask():
    agent = dspy.ReAct("review -> sentiment", tools=[without_label], max_iters=7)
    assert calls_per_run(agent) == 8
    assert calls_per_run(dspy.BestOfN(agent, 3, reward_fn=lambda args, pred: 1.0, threshold=1.0)) == 24
    assert calls_per_run(dspy.Refine(TwoStages(), 3, reward_fn=lambda args, pred: 1.0, threshold=1.0)) == 8
    assert calls_per_run(TwoStages()) == 2


def test_a_budget_too_small_for_the_scores_is_refused_before_anything_is_spent(engine):
    with pytest.raises(InputError, match="a budget of 15 LM calls leaves nothing for the search"):
        run_it("MIPROv2", budget=Budget(lm_calls=15))
    assert engine.calls == 0


def test_a_budget_in_dollars_for_a_model_without_price_is_refused(engine):
    with pytest.raises(InputError, match="a budget in usd needs a model with a known price"):
        run_it("MIPROv2", budget=Budget(usd=1.0))
    assert engine.calls == 0


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("returned", [None, float("nan"), "right", 85.0])
def test_a_metric_that_returns_no_score_ends_every_optimizer_with_one_line(name, returned, engine):
    def odd(gold, pred, trace=None):
        return returned

    with pytest.raises(InputError, match="odd") as failure:
        run_it(name, metric=odd, testset=None, valset=VAL if OPTIMIZERS[name].needs_valset else None)
    assert "\n" not in str(failure.value)
    assert engine.calls <= 10


@pytest.mark.parametrize("name", CALLING)
def test_a_model_that_is_down_fails_the_run_instead_of_returning_garbage(name):
    engine = ScriptedEngine(failing=lambda number, request: ConnectionError("model is down"))
    events = []
    with (
        dspy.context(lm=scripted_lm(engine, num_retries=0)),
        pytest.raises(OptimizationFailed, match="is down"),
    ):
        run_it(
            name, testset=None, valset=VAL if OPTIMIZERS[name].needs_valset else None, on_event=events.append
        )
    assert isinstance(events[-1], Failed)
    assert engine.calls <= 60


def test_a_model_that_is_down_fails_also_a_run_of_few_calls():
    engine = ScriptedEngine(failing=lambda number, request: ConnectionError("model is down"))
    with (
        dspy.context(lm=scripted_lm(engine, num_retries=0)),
        pytest.raises(OptimizationFailed, match="is down"),
    ):
        run_it("BootstrapFewShot", trainset=TRAIN[:6], valset=None, testset=None)
    assert engine.calls == 6


@pytest.mark.parametrize("name", ["BootstrapFewShot", "MIPROv2", "SIMBA"])
def test_a_program_that_returns_nothing_fails_the_run_instead_of_scoring_0(name, engine):
    with pytest.raises(OptimizationFailed, match="NoPrediction: the program returned None; its forward must"):
        run_it(name, ReturnsNothing())
    assert engine.calls <= 30


class Returns(dspy.Module):
    """Answers with what a function makes of the prediction."""

    def __init__(self, make):
        super().__init__()
        self.predict = classifier()
        self.make = make

    def forward(self, review):
        return self.make(self.predict(review=review))


def as_text(prediction):
    return prediction.sentiment


def under_another_name(prediction):
    return dspy.Prediction(label=prediction.sentiment)


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (as_text, "NoPrediction: the program returned a str, not a dspy.Prediction"),
        (under_another_name, "NoField: .*no field 'sentiment' in the answer; it has 'label'"),
    ],
)
def test_a_program_that_answers_nothing_to_score_ends_every_optimizer_early(name, make, message, engine):
    with pytest.raises(OptimizationFailed, match=message) as failure:
        run_it(name, Returns(make), testset=None, valset=VAL if OPTIMIZERS[name].needs_valset else None)
    assert "\n" not in str(failure.value)
    assert engine.calls <= 60


def test_a_program_that_answers_nothing_to_score_ends_before_the_search_where_there_is_a_testset(engine):
    with pytest.raises(OptimizationFailed, match="no field 'sentiment'"):
        run_it("BootstrapFewShot", Returns(under_another_name), testset=reviews(200, "more"))
    assert engine.calls < 20


def test_answers_without_the_field_are_counted_once_each_and_end_nothing(engine):
    class NowAndThen(Returns):
        def forward(self, review):
            prediction = self.predict(review=review)
            return self.make(prediction) if "5" in review else prediction

    run = run_it("BootstrapFewShotWithRandomSearch", NowAndThen(under_another_name), testset=None)
    assert run.status == "completed"
    assert set(run.errors.kinds) == {"NoField"}


def test_a_metric_that_asks_a_module_of_its_own_is_no_program_of_the_run(engine):
    class Judge(dspy.Module):
        def forward(self, gold, pred):
            return float(gold.sentiment == pred.sentiment)

    judge = Judge()
    run = run_it("BootstrapFewShot", metric=lambda gold, pred, trace=None: judge(gold=gold, pred=pred))
    assert run.errors.count == 0
    assert run_it("BootstrapFewShot", metric=judge).errors.count == 0


def test_a_teacher_that_cannot_be_called_is_refused(engine):
    class Later(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = classifier()

        async def forward(self, review):
            return self.predict(review=review)

    with pytest.raises(InputError, match="the forward of Later is asynchronous"):
        run_it("BootstrapFewShot", Returns(as_text), options={"teacher": Later()})
    assert engine.calls == 0


def test_fields_that_would_be_lost_in_demos_are_refused_where_demos_are_made(engine):
    rows = [{"base": f"review {i} is good", "sentiment": "positive"} for i in range(6)]
    data = [dspy.Example(row).with_inputs("base") for row in rows]
    program = dspy.Predict("base -> sentiment")
    with pytest.raises(InputError, match="cannot make a demo of self: it has a field called 'base'"):
        run_it("BootstrapFewShot", program, trainset=data, valset=data, testset=None)
    assert engine.calls == 0
    run = run_it("LabeledFewShot", program, trainset=data, valset=None, testset=None)
    assert all(demo["base"] for demo in run.program.demos)


def test_single_errors_are_counted_with_their_message_and_end_nothing():
    engine = ScriptedEngine(
        failing=lambda number, request: ConnectionError("hiccup") if number % 9 == 0 else None
    )
    with dspy.context(lm=scripted_lm(engine, num_retries=0)):
        run = run_it("BootstrapFewShotWithRandomSearch", testset=None)
    assert run.status == "completed"
    assert run.errors.count > 3
    assert "hiccup" in str(run.errors)


def test_a_metric_that_raises_is_counted_too(engine):
    def picky(gold, pred, trace=None):
        if "3" in gold.review:
            raise KeyError("three")
        return gold.sentiment == pred.sentiment

    run = run_it("BootstrapFewShotWithRandomSearch", metric=picky, testset=None)
    assert run.errors.kinds["KeyError"] >= 2


def test_a_metric_that_always_raises_is_named_and_ends_the_run_at_its_first_scores(engine):
    def misspelt(gold, pred, trace=None):
        return gold.label == pred.sentiment

    with pytest.raises(OptimizationFailed, match=r"AttributeError: metric misspelt: .* no attribute 'label'"):
        run_it("BootstrapFewShot", metric=misspelt, testset=reviews(200, "more"))
    assert engine.calls < 20


def test_a_graded_metric_makes_demos_of_right_answers_only(engine):
    """DSPy alone takes any score but 0 for a success."""

    def half(gold, pred, trace=None):
        return 1.0 if gold.sentiment == pred.sentiment else 0.5

    class ZeroShotTeacher(dspy.Predict):
        pass

    run = optimize(
        classifier(), trainset=TRAIN, metric=half, optimizer="BootstrapFewShot",
        options={"max_labeled_demos": 0, "max_bootstrapped_demos": 20},
    )  # fmt: skip
    labels = {example.review: example.sentiment for example in TRAIN}
    assert run.program.demos
    assert all(demo.sentiment == labels[demo.review] for demo in run.program.demos)
    assert len(run.program.demos) < len(TRAIN)


# -- input that is wrong ---------------------------------------------------------------------------------------


def without_label():
    return [dspy.Example(review="x").with_inputs("review")]


def reviews_with(field):
    return [dspy.Example(**{**review, field: "x"}).with_inputs("review", field) for review in TRAIN]


COMPILED = classifier()
COMPILED._compiled = True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "Nope"}, "unknown optimizer 'Nope'"),
        ({"optimizer": "InferRules"}, "InferRules is refused"),
        ({"options": {"nonsense": 1}}, "MIPROv2 has no option 'nonsense'"),
        ({"options": [1]}, "options must be a dict"),
        ({"preset": "nope"}, "unknown preset 'nope'"),
        ({"preset": "quick-bootstrap"}, "preset 'quick-bootstrap' is for BootstrapFewShot"),
        ({"trainset": None}, "trainset is missing"),
        ({"trainset": []}, "trainset is empty"),
        ({"trainset": "data.jsonl"}, "trainset must be a list of dspy.Example, got str"),
        ({"trainset": [{"review": "x"}]}, r"trainset\[0\] must be a dspy.Example, got dict"),
        ({"trainset": [dspy.Example(review="x", sentiment="y")]}, r"trainset\[0\] has no inputs"),
        (
            {"trainset": [dspy.Example(text="x", sentiment="y").with_inputs("text")]},
            "the program needs 'review'",
        ),
        (
            {"trainset": [dspy.Example(review="x", sentiment="y").with_inputs()]},
            r"trainset\[0\] has no inputs, but the program needs 'review'",
        ),
        (
            {"program": TwoStages(), "trainset": reviews_with("shop")},
            r"trainset\[0\] has the input 'shop', which the program does not take; it takes 'review'",
        ),
        (
            {"optimizer": "BootstrapFewShot", "options": {"teacher": TwoStages()}},
            "teacher has the predictors analyze, decide, the program has self",
        ),
        (
            {"optimizer": "BootstrapFewShot", "options": {"teacher": dspy.Predict("review -> sentiment")}},
            "teacher: the signature of self is not that of the program",
        ),
        ({"trainset": without_label()}, "trainset: .*'sentiment'"),
        ({"valset": None}, "MIPROv2 needs a valset"),
        ({"testset": []}, "testset is empty"),
        ({"metric": None}, "MIPROv2 needs a metric"),
        ({"metric": 3}, "metric"),
        ({"metric": lambda gold: True}, "metric"),
        ({"metric": lambda a, b, c, d, e, f: True}, "metric"),
        ({"metric": exact_match("answer")}, "trainset: .*'answer'"),
        ({"program": COMPILED}, "the program is compiled already"),
        ({"program": dspy.Predict}, "program must be a dspy.Module instance, got the class Predict"),
        ({"program": OnlyAsync()}, "OnlyAsync has only aforward, and DSPy's optimizers call forward"),
        ({"program": dspy.Module()}, "Module has no predictor to optimize"),
        ({"budget": 500}, "budget must be a dspy_nb.Budget"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295"),
        ({"options": {3: 4}}, "options must be named by text, got 3"),
        ({"on_event": 3}, "on_event must be a function of an event, or a list of such, got 3"),
        ({"stop": 3}, "stop must be a threading.Event, got int"),
        ({"num_threads": 0}, "num_threads must be a whole number, 1 or more"),
    ],
)
def test_wrong_input_is_one_line_and_spends_nothing(changes, message, engine, tmp_path):
    arguments = {"program": classifier(), "run_dir": tmp_path / "run", **changes}
    with pytest.raises(InputError, match=message) as refusal:
        run_it(arguments.pop("optimizer", "MIPROv2"), **arguments)
    assert "\n" not in str(refusal.value)
    assert engine.calls == 0
    assert not (tmp_path / "run").exists()


def test_no_language_model_is_found_before_the_run():
    with dspy.context(lm=None), pytest.raises(InputError, match="no language model"):
        run_it("BootstrapFewShot")


def test_a_language_model_that_is_only_a_name_is_refused_with_the_remedy():
    with (
        dspy.context(lm="openai/gpt-4o-mini"),
        pytest.raises(InputError, match=r"must be a dspy\.LM, got 'openai/gpt-4o-mini': give"),
    ):
        run_it("BootstrapFewShot")


def test_a_compiled_program_is_taken_when_asked_to_and_by_the_optimizers_that_accept_it(engine):
    assert run_it("MIPROv2", COMPILED, recompile=True).status == "completed"
    assert run_it("COPRO", COMPILED).status == "completed"
    assert COMPILED._compiled


def test_two_models_under_one_name_are_refused_because_the_cache_would_mix_them(engine):
    teacher = scripted_lm(ScriptedEngine(), cache=True)
    with (
        dspy.context(lm=scripted_lm(engine, cache=True)),
        pytest.raises(InputError, match="mix their answers"),
    ):
        run_it("BootstrapFewShot", options={"teacher_settings": {"lm": teacher}})


def test_explicit_options_win_over_the_preset(engine):
    run = run_it(None, preset="quick-bootstrap", options={"max_labeled_demos": 3})
    assert run.plan.preset == "quick-bootstrap"
    assert run.plan.options["max_labeled_demos"] == 3
    assert run.plan.options["max_bootstrapped_demos"] == 2


# -- traps of DSPy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNING)
def test_a_pinned_model_is_the_one_optimized_and_stays_pinned(name):
    """reset_copy() takes pins away: DSPy would optimize on the configured model instead."""
    pinned, configured = ScriptedEngine(), ScriptedEngine()
    program = classifier()
    lm = scripted_lm(pinned, "scripted/pinned")
    program.set_lm(lm)
    with dspy.context(lm=scripted_lm(configured, "scripted/configured")):
        run = run_it(name, program)
    assert configured.calls == 0
    assert run.plan.base_model == "scripted/pinned"
    if not OPTIMIZERS[name].replaces_program:
        assert [predictor.lm.model for predictor in run.program.predictors()] == ["scripted/pinned"]
    assert program.lm is lm


@pytest.mark.heavy
def test_different_pins_are_refused_where_they_would_be_lost(engine):
    program = TwoStages()
    program.analyze.lm = scripted_lm(engine, "scripted/a")
    program.decide.lm = scripted_lm(engine, "scripted/b")
    with pytest.raises(InputError, match="would lose the language models pinned on the predictors"):
        run_it("MIPROv2", program)
    run = run_it("COPRO", program, testset=None, valset=None)
    assert [predictor.lm.model for predictor in run.program.predictors()] == ["scripted/a", "scripted/b"]


def test_mipro_takes_the_prompt_model_for_instructions_and_the_callers_for_the_task(engine):
    writer = ScriptedEngine()
    prompt_model = scripted_lm(writer, "scripted/writer")
    run = run_it("MIPROv2", options={"num_candidates": 3, "prompt_model": prompt_model})
    assert writer.calls == run.usage.lm_calls - engine.calls > 3


def test_seed_0_is_a_seed(engine):
    """MIPROv2.compile(seed=0) falls back to the constructor's seed in DSPy 3.4.1."""
    zero = run_it("MIPROv2", seed=0)
    again = run_it("MIPROv2", seed=0)
    nine = run_it("MIPROv2", seed=9)
    keys = [[candidate.prompt.key for candidate in run.candidates] for run in (zero, again, nine)]
    assert keys[0] == keys[1] != keys[2]


def test_the_teachers_parameters_are_not_written_to_by_simba(engine):
    teacher = scripted_lm(ScriptedEngine(), "scripted/teacher")
    run_it("SIMBA", options={**OPTIONS["SIMBA"], "teacher_settings": {"lm": teacher}})
    assert "rollout_id" not in teacher.kwargs


def test_textual_feedback_reaches_gepa_and_only_gepa(engine):
    """To every other optimizer a Prediction is a success, whatever its score."""

    def judged(gold, pred, trace=None, pred_name=None, pred_trace=None):
        right = gold.sentiment == pred.sentiment
        return dspy.Prediction(score=float(right), feedback="right" if right else f"it is {gold.sentiment}")

    assert run_it("GEPA", metric=judged).status == "completed"
    run = run_it(
        "BootstrapFewShot", metric=judged, options={"max_labeled_demos": 0, "max_bootstrapped_demos": 20}
    )
    labels = {example.review: example.sentiment for example in TRAIN}
    assert all(demo.sentiment == labels[demo.review] for demo in run.program.demos)


def test_a_failing_step_of_better_together_ends_the_run_with_the_best_of_the_steps_before(
    engine, monkeypatch
):
    def broken(self, student, *, trainset, eval_kwargs=None):
        raise RuntimeError("step is broken")

    monkeypatch.setattr(dspy.COPRO, "compile", broken)
    with pytest.warns(UserWarning, match="step is broken; the best candidate"):
        run = run_it("BetterTogether")
    assert (run.stopped_by, run.origin) == ("failure", "candidate")
    assert run.score == max(candidate.score for candidate in run.candidates if candidate.full)


def test_outside_a_run_dspy_shows_what_it_always_showed(engine, capfd):
    run_it("BootstrapFewShot")
    assert capfd.readouterr() == ("", "")
    dspy.BootstrapFewShot(metric=METRIC).compile(classifier(), trainset=TRAIN)
    out, err = capfd.readouterr()
    assert "Bootstrapped" in out
    assert "%|" in err


def test_the_log_file_has_one_object_a_line(engine, tmp_path):
    path = tmp_path / "run.jsonl"
    run_it("COPRO", log_file=path)
    events = read_events(path)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Completed)
    assert all(json.loads(line)["timestamp"] for line in path.read_text().splitlines())


def test_a_log_file_that_cannot_be_written_is_found_before_the_run(engine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"log file .+ cannot be written: "):
        run_it("BootstrapFewShot", log_file=tmp_path / "file" / "events.jsonl")
    assert engine.calls == 0


def test_what_is_registered_has_every_field_of_the_metadata(engine):
    registration = run_it("MIPROv2").registration()
    metadata = registration["metadata"]
    assert metadata["optimizer"] == "MIPROv2"
    assert metadata["base_model"] == "scripted/model"
    assert metadata["num_training_examples"] == len(TRAIN)
    assert metadata["hyperparameters"]["num_candidates"] == 3
    assert metadata["datasets"]["test"]["n"] == len(TEST)
    json.dumps(registration["metadata"])
    json.dumps(registration["evaluation"])
    with pytest.raises(InputError, match="KNNFewShot program cannot be registered"):
        run_it("KNNFewShot").registration()


def test_the_checks_do_not_ask_a_module_for_its_forward(engine, caplog):
    """DSPy logs a warning about whoever does, once per example."""
    estimate(TwoStages(), trainset=TRAIN, metric=METRIC)
    assert not caplog.records


def test_the_last_progress_says_what_was_used_in_the_end(engine):
    events = []
    run = run_it("BootstrapFewShot", on_event=events.append)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last.step == last.metrics["lm_calls"] == run.usage.lm_calls
