"""Quality gates: what passes, what does not, and why; and that nothing unknown passes."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspy_nb as nb
from dspy_nb.core.evaluation.pairing import paired_difference
from dspy_nb.core.programs.usage import Usage
from tests.scripted import classifier, reviews, scripted_lm

SENTIMENT = nb.exact_match("sentiment")


def oracle(wrong=(), failing=()):
    """A program that is right except on these examples, by number."""

    def answer(review):
        number = int(review.split()[1])
        if number in failing:
            raise RuntimeError("out of order")
        right = "positive" if number % 2 else "negative"
        other = "negative" if number % 2 else "positive"
        return dspy.Prediction(sentiment=other if number in wrong else right)

    return answer


def evaluated(n=60, wrong=(), failing=(), metric=SENTIMENT, data=None, **options):
    return nb.evaluate(oracle(wrong, failing), data or reviews(n), metric, **options)


def verdict(evaluation, registry=None, **conditions):
    return nb.QualityGate(**conditions).check(evaluation, registry=registry, raises=False)


def reason(evaluation, **conditions):
    result = verdict(evaluation, **conditions)
    assert not result.passed
    (only,) = result.reasons
    return only


def test_a_gate_that_passes_returns_what_it_measured():
    ev = evaluated(wrong=range(3))
    result = nb.QualityGate(min_score=0.85, max_error_rate=0, min_n=60).check(ev)
    assert result.passed
    assert result.reasons == ()
    found = {check.condition: (check.measured, check.required) for check in result.checks}
    assert found["min_score"] == (ev.interval[0], 0.85)
    assert found["min_n"] == (60, 60)
    assert set(found) == {"complete", "reliable", "min_score", "max_error_rate", "min_n"}


def test_a_gate_that_fails_raises_with_every_reason():
    ev = evaluated(wrong=range(20))
    with pytest.raises(nb.GateFailed) as raised:
        nb.QualityGate(min_score=0.9, min_n=100, per_class={"positive": {"recall": 0.9}}).check(ev)
    assert len(raised.value.reasons) == 3
    assert str(raised.value) == "; ".join(raised.value.reasons)
    assert "\n" not in str(raised.value)


def test_the_score_is_held_against_the_lower_end_of_its_interval_unless_asked_otherwise():
    ev = evaluated(20, wrong=range(2))
    assert ev.score == 0.9
    assert reason(ev, min_score=0.9).startswith("score 90.0% may be as low as 69.9%")
    assert verdict(ev, min_score=0.9, on="score").passed
    assert reason(ev, min_score=0.91, on="score") == "score 90.0% is below 91.0%"


def test_errors_fail_a_gate_even_one_that_does_not_ask_for_them():
    ev = evaluated(50, failing=range(7))
    assert "14.0% errors are more than 5.0%" in reason(ev, min_score=0.5)
    tolerant = evaluated(50, failing=range(7), max_error_rate=0.2)
    assert verdict(tolerant, min_score=0.5).passed
    assert reason(tolerant, max_error_rate=0.1) == "error rate 14.0% is above 10.0%"


def test_an_interrupted_evaluation_never_passes():
    stop = threading.Event()
    stop.set()
    ev = evaluated(stop=stop)
    result = verdict(ev, min_score=0.0, max_error_rate=1, min_n=1)
    assert not result.passed
    assert "partial: 0 of 60" in result.reasons[0]
    assert "error rate is not known: nothing was finished" in result.reasons
    json.dumps(result.to_dict(), allow_nan=False)


def test_latency_that_only_caches_gave_is_unknown_and_fails():
    lm = scripted_lm(name="scripted/gate-latency", cache=True)
    data = reviews(10, "cached for the gate")
    assert verdict(nb.evaluate(classifier(), data, SENTIMENT, lm=lm), max_latency_p95_ms=60_000).passed
    again = nb.evaluate(classifier(), data, SENTIMENT, lm=lm)
    assert "latency p95 is not known" in reason(again, max_latency_p95_ms=60_000)


def test_a_slow_answer_fails():
    assert " ms is above 0 ms" in reason(evaluated(), max_latency_p95_ms=0)


def test_an_unknown_price_fails():
    ev = nb.evaluate(classifier(), reviews(4), SENTIMENT, lm=scripted_lm())
    assert "price of a call is not known" in reason(ev, max_usd_per_call=1)


def test_the_price_of_a_call_leaves_out_what_a_cache_made_cheaper():
    ev = evaluated(4)
    paid, cached = Usage(1, 0, 10, 5, 0.02), Usage(0, 1, 0, 0, 0.0)
    results = tuple(
        replace(result, usage=cached if result.index else paid, cached=bool(result.index))
        for result in ev.results
    )
    ev = replace(ev, results=results)
    assert verdict(ev, max_usd_per_call=0.02).passed
    assert "$0.020000 is above $0.010000" in reason(ev, max_usd_per_call=0.01)
    all_cached = replace(ev, results=results[1:])
    assert "price of a call is not known" in reason(all_cached, max_usd_per_call=1)


def test_equal_examples_count_once_for_the_least_number():
    ev = evaluated(data=reviews(10) * 5)
    assert ev.n == 50
    assert reason(ev, min_n=50) == "10 different examples are fewer than 50"


def test_floors_of_classes():
    ev = evaluated(60, wrong=range(1, 30, 2))  # 15 of 30 positive ones
    assert verdict(ev, per_class={"negative": {"recall": 1.0}, "positive": {"precision": 1.0}}).passed
    assert reason(ev, per_class={"positive": {"recall": 0.7}}) == "recall of 'positive' 50.0% is below 70.0%"


def test_a_class_that_never_occurs_fails_and_the_labels_are_listed():
    said = reason(evaluated(), per_class={"neutral": {"f1": 0.0}})
    assert "labels are 'negative', 'positive'" in said
    ev = nb.evaluate(lambda review: dspy.Prediction(sentiment="negative"), reviews(20), SENTIMENT)
    assert "no answer has this label" in reason(ev, per_class={"positive": {"precision": 0.0}})


def test_not_worse_than_is_paired_on_the_same_examples_in_any_order():
    before = evaluated(200, wrong=range(20))
    after = evaluated(data=reviews(200)[::-1], wrong=range(1, 22))
    paired = paired_difference(after, before)
    assert (paired.better, paired.worse, paired.n) == (1, 2, 200)
    assert paired.difference == pytest.approx(-0.005)
    assert verdict(after, not_worse_than=before, margin=0.05).passed
    assert "may differ by" in reason(after, not_worse_than=before, margin=0.0)
    assert verdict(after, not_worse_than=before, margin=0.005, on="score").passed
    assert "differs by -0.5%" in reason(after, not_worse_than=before, margin=0, on="score")


def test_other_data_another_metric_or_missing_results_cannot_be_compared():
    ev = evaluated()
    assert "on other data: 61 examples" in reason(ev, not_worse_than=evaluated(61))
    swapped = [example.copy(sentiment="positive") for example in reviews(60)]
    assert "on other data: 60 examples" in reason(ev, not_worse_than=evaluated(data=swapped))
    graded = evaluated(metric=nb.token_f1("sentiment"))
    assert "scored with token_f1" in reason(ev, not_worse_than=graded)
    assert "no single results" in reason(ev, not_worse_than=replace(ev, results=()))


def test_graded_scores_and_repeats_are_compared_too():
    lm = scripted_lm(temperature=0.7)
    graded = nb.token_f1("sentiment")
    once = nb.evaluate(classifier(), reviews(30), graded, lm=lm)
    twice = nb.evaluate(classifier(), reviews(30), graded, lm=lm, repeats=2)
    paired = paired_difference(twice, once)
    assert (paired.difference, paired.better, paired.worse, paired.n) == (0, 0, 0, 30)
    assert paired.interval[0] < 0 < paired.interval[1]


def test_inputs_that_occur_twice_weigh_twice_and_are_clustered():
    data = reviews(20) + reviews(20)[:10]
    paired = paired_difference(evaluated(data=data, wrong=[0]), evaluated(data=data))
    assert paired.difference == pytest.approx(-2 / 30)
    assert (paired.worse, paired.n) == (1, 20)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_swapping_evaluation_and_reference_turns_the_difference_around(pairs):
    data = reviews(len(pairs))
    a = evaluated(data=data, wrong=[i for i, (right, _) in enumerate(pairs) if not right], num_threads=1)
    b = evaluated(data=data, wrong=[i for i, (_, right) in enumerate(pairs) if not right], num_threads=1)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-6)
    assert there.difference == pytest.approx(a.score - b.score)


def test_a_reference_is_resolved_by_the_registry_and_a_version_can_be_checked(tmp_path):
    registry = nb.Registry(tmp_path / "registry")
    ev = evaluated(200, wrong=range(10))
    registry.register(classifier(), "sentiment", evaluation=ev.to_dict())
    assert verdict(ev, registry, not_worse_than="sentiment@1.0.0", margin=0.1).passed
    with pytest.raises(nb.InputError, match="needs the registry"):
        verdict(ev, not_worse_than="sentiment@1.0.0")
    with pytest.raises(nb.NotFound):
        verdict(ev, registry, not_worse_than="sentiment@9.0.0")
    result = verdict(registry.get("sentiment"), min_score=0.85)
    assert result.passed
    assert result.ref == "sentiment@1.0.0"
    bare = registry.register(classifier(), "bare")
    with pytest.raises(nb.InputError, match=r"bare@1\.0\.0 has no stored evaluation"):
        verdict(bare, min_score=0.5)


def test_promotion_to_production_takes_a_passed_gate_and_refuses_a_failed_one(tmp_path):
    registry = nb.Registry(tmp_path / "registry")
    registry.register(classifier(), "sentiment")
    registry.promote("sentiment@1.0.0", "staging")
    ev = evaluated(wrong=range(5))
    registry.attach("sentiment@1.0.0", ev)
    registry.attach("sentiment@1.0.0", verdict(ev, min_score=0.99))
    with pytest.raises(nb.Refused, match="the latest gate said no"):
        registry.promote("sentiment@1.0.0", "production")
    registry.promote("sentiment@1.0.0", "production", evidence=verdict(ev, min_score=0.8))
    evidence = registry.history("sentiment")[-1].evidence
    assert evidence.kind == "gate"
    assert evidence.interval == ev.interval
    assert evidence.data_fingerprint == ev.data_fingerprint


def test_a_saved_evaluation_is_judged_as_the_original(tmp_path):
    ev = evaluated(wrong=range(9))
    loaded = nb.Evaluation.load(ev.save(tmp_path / "report.json"))
    conditions = {"min_score": 0.8, "max_latency_p95_ms": 1e6, "max_usd_per_call": 0.0, "not_worse_than": ev}
    assert verdict(loaded, **conditions) == verdict(ev, **conditions)


def test_the_report_names_each_condition():
    lines = verdict(evaluated(20, wrong=range(2)), min_score=0.9, min_n=20).report().splitlines()
    assert lines[0] == "Gate said no: 1 of 4 conditions not met"
    assert lines[1:3] == ["", "    condition  what it found"]
    assert lines[5].split()[:2] == ["NO", "min_score"]
    assert lines[3].split() == ["ok", "complete", "examples", "20,", "at", "least", "20", "required"]
    assert lines[4].split() == ["ok", "reliable", "error", "rate", "0,", "at", "most", "0.05", "required"]
    assert lines[6].split() == ["ok", "min_n", "20,", "at", "least", "20", "required"]


def test_conditions_are_parsed_from_text():
    parsed = nb.QualityGate.parse(
        ["min_score=0.85", "min_n=50", "per_class.very good.recall=0.7", "per_class.v1.0.f1=0.5", "on=score",
         "not_worse_than=sentiment@production", "margin=0.03"]
    )  # fmt: skip
    assert parsed == nb.QualityGate(
        min_score=0.85,
        min_n=50,
        per_class={"very good": {"recall": 0.7}, "v1.0": {"f1": 0.5}},
        on="score",
        not_worse_than="sentiment@production",
        margin=0.03,
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["min_score"], "must be like min_score=0.85; there are min_score, max_error_rate"),
        (["accuracy=0.8"], "must be like"),
        (["min_score=high"], "'high' is not a number"),
        (["min_score=0.8", "min_score=0.9"], "given twice"),
        (["min_score=80"], r"min_score must be a finite number in \[0, 1\]"),
        (["min_score=nan"], "min_score must be a finite number"),
        (["min_score=inf"], "min_score must be a finite number"),
        (["min_n=1.5"], "min_n must be a whole number"),
        (["per_class.recall=0.5"], "per_class.positive.recall=0.7"),
        (["per_class.positive.speed=0.5"], "there is no 'speed', but precision, recall, f1"),
        (["on=score"], "at least one condition"),
        (["min_score=0.5", "on=luck"], "on must be 'interval' or 'score'"),
        ([], "at least one condition"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(texts, message):
    with pytest.raises(nb.InputError, match=message):
        nb.QualityGate.parse(texts)


def test_what_is_no_evaluation_is_refused():
    with pytest.raises(nb.InputError, match="not a float"):
        verdict(0.9, min_score=0.5)
    with pytest.raises(nb.InputError, match="not a int"):
        verdict(evaluated(4), not_worse_than=7)
    with pytest.raises(nb.InputError, match="per_class must be a dict"):
        nb.QualityGate(per_class=0.7)
    with pytest.raises(nb.InputError, match="must be a dict of floors"):
        nb.QualityGate(per_class={"positive": 0.7})
