"""Several candidates against one baseline: what is shared, what is corrected, and who wins."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter

import dspy
import numpy as np
import pytest
from scipy.stats import binom

import dspy_nb as nb
from dspy_nb.core.ab.duel import DuelJobs, examples_compared
from dspy_nb.core.ab.judging import Terms, findings
from dspy_nb.core.events import Compared
from dspy_nb.core.statistics.means import bca_interval, sign_flip_p_value
from dspy_nb.core.statistics.proportions import mcnemar, paired_difference_interval
from dspy_nb.core.statistics.verdicts import holm
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from tests.core.ab.test_compare import METRIC, A, B, Duel, examples, outcome, program
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm


def strong():
    better = classifier()
    better.demos = [dspy.Example(review="this is good", sentiment="positive")]
    return better


@pytest.fixture(scope="module")
def found():
    candidates = [program(0.55, 2), program(0.9, 3), program(0.2, 4)]
    return nb.compare_many(
        program(0.5, 1), candidates, examples(400), METRIC, margin=0.02, names=["old", "same", "good", "bad"]
    )


def test_each_candidate_gets_its_verdict_and_the_best_one_wins(found):
    assert [one.b_name for one in found] == ["same", "good", "bad"]
    assert found["good"].verdict == "B better"
    assert found["bad"].verdict == "A better"
    assert found["same"].verdict == "inconclusive"
    assert found.winner is found["good"] is found[1]
    assert [one.b_name for one in found.ranking] == ["good", "same", "bad"]
    assert {one.a_name for one in found} == {found.baseline} == {"old"}
    assert len(found) == 3


def test_the_more_candidates_the_more_evidence_each_needs(found):
    assert found.confidence == 0.95
    for one in found:
        assert one.confidence == pytest.approx(1 - 0.05 / 3)
        assert (one.overall_confidence, one.candidates) == (0.95, 3)
    alone = nb.compare(program(0.5, 1), program(0.9, 3), examples(400), METRIC, margin=0.02)
    assert alone.n_at_verdict < found["good"].n_at_verdict
    assert alone.confidence == alone.overall_confidence == 0.95
    assert found["good"].p_value <= 0.05


def test_evidence_says_of_how_many_candidates_it_was(found):
    evidence = found["good"].to_evidence()
    assert evidence.confidence == pytest.approx(1 - 0.05 / 3)
    assert (evidence.candidates, evidence.overall_confidence) == (3, 0.95)
    alone = nb.compare(program(0.5, 1), program(0.9, 3), examples(50), METRIC).to_evidence()
    assert alone.candidates is None
    assert "candidates" not in alone.to_dict()


def test_a_settled_candidate_is_asked_no_more_and_the_baseline_only_once():
    asked = Counter()

    def counted(name, answer):
        def ask(x):
            asked[name] += 1
            return answer(x)

        return ask

    found = nb.compare_many(
        counted("old", program(0.5, 1)),
        [counted("same", program(0.5, 2)), counted("good", program(0.95, 3))],
        examples(300), METRIC, num_threads=1,
    )  # fmt: skip
    assert asked["old"] == asked["same"] == 300
    assert found[1].n_at_verdict <= asked["good"] < found[1].n_at_verdict + 8 < 100  # eight are asked at once


def test_calls_that_several_make_alike_are_paid_once():
    engine = ScriptedEngine(delay_s=0.001)
    with dspy.context(lm=scripted_lm(engine, "scripted/many", cache=True)):
        found = nb.compare_many(
            classifier(), [classifier(), classifier()], reviews(30, "many"), nb.exact_match("sentiment")
        )
    assert engine.calls == 30
    assert {one.verdict for one in found} == {"inconclusive"}


def test_programs_of_one_class_are_numbered():
    with dspy.context(lm=scripted_lm()):
        found = nb.compare_many(
            classifier(), [classifier(), strong()], reviews(12), nb.exact_match("sentiment")
        )
    assert [one.b_name for one in found] == ["Predict 1", "Predict 2"]
    assert found.baseline == "Predict"


def test_one_program_is_compared_on_several_models():
    engines = [ScriptedEngine() for _ in range(3)]
    lms = [scripted_lm(engine, f"scripted/of-{number}") for number, engine in enumerate(engines)]
    found = nb.compare_many(
        classifier(), [classifier()] * 2, reviews(10), nb.exact_match("sentiment"), lms=lms
    )
    assert [engine.calls for engine in engines] == [10, 10, 10]
    assert [one.b.base_model for one in found] == ["scripted/of-1", "scripted/of-2"]


def test_models_of_one_name_never_share_answers_among_candidates_either():
    class Fooled(ScriptedEngine):
        pass

    engines = ScriptedEngine(), ScriptedEngine(), Fooled()
    names = "scripted/one", "scripted/two", "scripted/two"
    lms = [scripted_lm(engine, name, cache=True) for engine, name in zip(engines, names, strict=True)]
    found = nb.compare_many(
        classifier(), [classifier()] * 2, reviews(8, "namesakes"), nb.exact_match("sentiment"), lms=lms
    )
    assert [engine.calls for engine in engines] == [8, 8, 8]
    assert "same name" in found.warnings[0]


def test_one_look_adjusts_the_p_values_as_holm_does():
    shares = [(0.62, 2), (0.68, 3), (0.53, 4)]
    programs = [program(*share) for share in shares]
    found = nb.compare_many(
        program(0.5, 1), programs, examples(300), METRIC, sequential=False, max_examples=300
    )
    alone = [
        nb.compare(program(0.5, 1), one, examples(300), METRIC, sequential=False, max_examples=300)
        for one in programs
    ]
    assert [one.p_value for one in found] == pytest.approx(holm([one.p_value for one in alone]))
    for one in found:
        assert one.n == 300
        assert (one.verdict == "B better") == (one.p_value <= 0.05)
        assert (one.interval[0] > 0) == (one.verdict == "B better")


def table_duel(both, a_only, b_only, neither):
    kinds = [(1, 1)] * both + [(1, 0)] * a_only + [(0, 1)] * b_only + [(0, 0)] * neither
    duel = Duel(len(kinds), True, 0.95, 0.0, sequential=False)
    for index, (a, b) in enumerate(kinds):
        duel.take(index, A, outcome(bool(a)))
        duel.take(index, B, outcome(bool(b)))
    return duel


def test_each_step_of_holm_has_its_own_confidence():
    tables = [(60, 5, 25, 10), (60, 9, 21, 10), (60, 10, 20, 10), (60, 15, 15, 10)]
    terms = Terms(0.95, 0.0, False, True, 0, 100, 4)
    judged = findings([table_duel(*table) for table in tables], terms)
    exact = [mcnemar(*table).exact_p for table in tables]
    assert [one.p_value for one in judged] == pytest.approx(holm(exact))
    assert [one.verdict for one in judged] == ["B better", "inconclusive", "inconclusive", "inconclusive"]
    assert judged[0].confidence == pytest.approx(1 - 0.05 / 4)
    low, high = paired_difference_interval(*tables[0], 1 - 0.05 / 4)
    assert judged[0].interval == pytest.approx((-high, -low))
    tables[1] = (60, 8, 22, 10)  # p = .0161: the second step needs at most .05/3
    second = findings([table_duel(*table) for table in tables], terms)[1]
    assert second.verdict == "B better"
    assert second.confidence == pytest.approx(1 - 0.05 / 3)


def test_no_practical_difference_takes_the_full_correction():
    table = (500, 20, 20, 460)
    ends = {k: paired_difference_interval(*table, 1 - 0.05 / k)[1] for k in (1, 4)}
    margin = sum(ends.values()) / 2  # within it alone, not as one of four
    duels = [table_duel(*table) for _ in range(4)]
    assert (
        findings(duels[:1], Terms(0.95, margin, False, True, 0, 1000))[0].verdict == "no practical difference"
    )
    several = findings(duels, Terms(0.95, margin, False, True, 0, 1000, 4))
    assert {one.verdict for one in several} == {"inconclusive"}


def test_grades_take_one_look_too():
    def grade(example, prediction, trace=None) -> float:
        return 0.9 if prediction.y == "yes" else 0.3

    found = nb.compare_many(
        program(0.5, 1), [program(0.9, 2), program(0.5, 3)], examples(60), grade, sequential=False
    )
    assert found.winner is found[0]
    one = found[1]
    assert one.p_value == pytest.approx(sign_flip_p_value(one.to_frame().difference))
    assert one.interval == bca_interval(one.to_frame().difference, 1 - 0.05 / 2, bounds=(-1, 1))


def test_stopping_keeps_what_was_compared():
    stop = threading.Event()

    def slow(x):
        if x == 5:
            stop.set()
        return dspy.Prediction(y="yes")

    found = nb.compare_many(slow, [slow, slow], examples(400), METRIC, stop=stop, num_threads=2)
    assert not found.complete
    assert all(one.n < 400 for one in found)
    assert found.winner is None
    assert "Interrupted before every verdict was in." in " ".join(to_text(found).split())


def test_a_listener_hears_of_every_candidate():
    heard = []
    nb.compare_many(
        program(0.5, 1), [program(0.6, 2)] * 2, examples(20), METRIC,
        on_event=lambda event: heard.append(([one.n for one in event.candidates], event.total)),
    )  # fmt: skip
    assert heard[-1] == ([20, 20], 20)


def test_failures_are_counted_for_each():
    def broken(x):
        raise ValueError("no answer today")

    found = nb.compare_many(program(0.5, 1), [broken, program(0.5, 2)], examples(60), METRIC)
    assert found[0].verdict == "A better"
    assert found[0].b.errors.count == found[0].n
    assert found[1].b.errors.count == 0
    assert "B on" in found[0].warnings[-1]


def test_versions_are_candidates_and_the_winner_is_evidence(tmp_path):
    registry = nb.Registry(tmp_path / "registry")
    with dspy.context(lm=scripted_lm()):
        for version, candidate in (("1.0.0", classifier()), ("1.1.0", classifier()), ("1.2.0", strong())):
            registry.register(candidate, "sentiment", version=version)
        found = nb.compare_many(
            "sentiment@1.0.0", ["sentiment@1.1.0", "sentiment@1.2.0"], reviews(300),
            nb.exact_match("sentiment"), registry=registry,
        )  # fmt: skip
        with pytest.raises(nb.InputError, match=r"sentiment@1\.2\.0 is a candidate twice"):
            nb.compare_many(
                "sentiment@1.0.0", ["sentiment", "sentiment@1.2.0"], reviews(3),
                nb.exact_match("sentiment"), registry=registry,
            )  # fmt: skip
    registry.promote("sentiment@1.2.0", "staging")
    registry.promote("sentiment@1.2.0", "production", evidence=found.winner)
    assert registry.production("sentiment").version == "1.2.0"


def test_the_result_is_json_and_a_table(found):
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["schema_version"], data["winner"], data["complete"]) == (1, "good", True)
    assert [one["b_name"] for one in data["comparisons"]] == ["same", "good", "bad"]
    assert "flips" not in found.to_dict(results=False)["comparisons"][0]
    frame = found.to_frame()
    assert list(frame.candidate) == ["good", "same", "bad"]
    assert frame.effect[0] == found["good"].effect
    assert repr(found).startswith(
        "<Comparisons: A/B: 3 candidates against old (A): good is better than old by "
    )
    with pytest.raises(nb.NotFound, match="no candidate 'best': there are same, good, bad"):
        found["best"]


@pytest.mark.parametrize("write", [to_text, to_markdown, to_html])
def test_the_report_says_who_won_and_against_what(found, write):
    text = " ".join(write(found).split())
    assert "good is better than old by" in text
    assert "A/B: 3 candidates against old" in text
    assert "98.3%" in text
    assert "nan" not in text


def test_the_report_says_what_was_not_tested():
    candidates = [program(0.9, 2), program(0.95, 3)]
    found = nb.compare_many(program(0.3, 1), candidates, examples(200), METRIC, sequential=False)
    assert "2 candidates are, and which of those is best was not tested" in " ".join(to_text(found).split())
    nobody = nb.compare_many(program(0.5, 1), [program(0.5, 1)] * 2, examples(20), METRIC)
    assert "No candidate is shown to be better: 2 inconclusive." in to_text(nobody)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": []}, "candidates must be a list"),
        ({"candidates": "sentiment@1.0.0"}, "candidates must be a list"),
        ({"candidates": len}, "candidates must be a list"),
        ({"candidates": [len, 3]}, "candidate 2 must be a dspy.Module"),
        ({"baseline": None}, "baseline must be a dspy.Module"),
        ({"names": ["one", "two"]}, "names must be 3"),
        ({"names": ["one", "two", "m@1.0.0"]}, "references"),
        ({"lms": [None]}, "lms must be 3"),
        ({"confidence": 1}, "confidence"),
    ],
)
def test_bad_input_is_one_line_and_spends_nothing(change, message):
    asked = []
    given = {"baseline": asked.append, "candidates": [asked.append] * 2, "dataset": examples(5), **change}
    with pytest.raises(nb.InputError, match=message) as raised:
        nb.compare_many(given.pop("baseline"), given.pop("candidates"), given.pop("dataset"), METRIC, **given)
    assert "\n" not in str(raised.value)
    assert not asked


def test_everyone_is_asked_every_example_once_and_who_begins_rotates():
    duels = [Duel(20, True, 0.95, 0.0, sequential=True) for _ in range(2)]
    jobs = DuelJobs(list(range(20)), duels)
    assert len(list(jobs)) == len(jobs) == 60
    assert sorted(jobs.places) == list(itertools.product(range(20), range(3)))
    assert [arm for index, arm in jobs.places if index % 8 == 0] == [0, 1, 2, 1, 2, 0, 2, 0, 1]


def test_how_far_it_is_goes_by_the_slowest_of_those_still_asked():
    settled, slow, fast = duels = [Duel(400, True, 0.95, 0.0, sequential=True) for _ in range(3)]
    assert examples_compared([]) == examples_compared(duels) == 0
    for index in range(60):
        settled.take(index, A, outcome(False))
        settled.take(index, B, outcome(True))
    assert settled.over
    for duel, n in ((slow, 10), (fast, 20)):
        for index in range(n):
            duel.take(index, A, outcome(True))
            duel.take(index, B, outcome(True))
    assert examples_compared(duels) == 10
    assert examples_compared([settled, fast]) == 20
    assert examples_compared([settled]) == 60
    state = ComparisonState()
    names = ("settled", "slow", "fast")
    standings = tuple(duel.standing(name) for name, duel in zip(names, duels, strict=True))
    state.add(Compared(examples_compared(duels), 400, "old", standings))
    bar = state.document().blocks[0]
    assert bar.share == 10 / 400
    assert bar.label.startswith("10 of at most 400 examples compared")


# -- how often it is wrong ----------------------------------------------------------------------------------


def wrong_of_equals(k, n, runs, sequential):
    """Return in how many of the runs any of k candidates, all as good as the baseline, is told apart."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(runs):
        right = rng.random((n, k + 1)) < 0.6
        duels = [Duel(n, True, 1 - 0.05 / k, 0.0, sequential=sequential) for _ in range(k)]
        for index, row in enumerate(right):
            for duel, b in zip(duels, row[1:], strict=True):
                if not duel.over:
                    duel.take(index, A, outcome(bool(row[0])))
                    duel.take(index, B, outcome(bool(b)))
        judged = findings(duels, Terms(0.95, 0.0, sequential, True, 0, n, k))
        wrong += any(one.verdict != "inconclusive" for one in judged)
    return wrong


@pytest.mark.heavy
@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("runs", [30, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_among_several_equals_a_false_winner_is_as_rare_as_among_two(runs, sequential):
    wrong = wrong_of_equals(4, 60 if runs == 30 else 250, runs, sequential)
    print(f"4 candidates, {'every look' if sequential else 'one look'}: {wrong / runs:.1%}")
    assert wrong <= (binom.ppf(1 - 1e-4, runs, 0.05) if runs == 30 else 0.05 * runs)
