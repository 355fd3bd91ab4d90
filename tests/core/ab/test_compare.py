import json
import math
import random
import signal
import statistics
import threading

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.ab.compare import compare
from dspy_nb.core.ab.duel import A, B, Duel
from dspy_nb.core.execution import attempts, threads
from dspy_nb.core.execution.attempts import Outcome
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.statistics.sample_sizes import sample_size_paired
from tests.moments import HANG_S, Clock
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm


def examples(n):
    return [dspy.Example(x=i, y="yes").with_inputs("x") for i in range(n)]


def program(share_right, seed=0, of=10_000):
    """Right on a fixed random share of the inputs."""
    right = {i for i in range(of) if random.Random(f"{seed}/{i}").random() < share_right}

    def answer(x):
        return dspy.Prediction(y="yes" if x in right else "no")

    return answer


def outcome(right):
    return Outcome({}, (right,), None, 1.0, False, Usage())


METRIC = nb.exact_match("y")


def test_a_clear_winner_is_found_before_all_examples_are_used():
    """One thread stops right there. Several may be ahead of an answer that is late, and what they got counts."""
    alone = compare(program(0.5, 1), program(0.9, 2), examples(2000), METRIC, num_threads=1)
    assert alone.n == alone.n_at_verdict < 300
    found = compare(program(0.5, 1), program(0.9, 2), examples(2000), METRIC, num_threads=4)
    assert found.verdict == "B better"
    assert found.n >= found.n_at_verdict == alone.n_at_verdict
    assert found.n == found.a.n == found.b.n
    assert found.interval[0] > 0
    assert found.p_value <= 0.05
    assert found.effect == pytest.approx(found.b.score - found.a.score)
    assert found.more_needed is None
    assert found.complete


def test_the_worse_candidate_is_told_as_well():
    assert compare(program(0.9, 1), program(0.5, 2), examples(500), METRIC).verdict == "A better"


def test_equal_programs_end_early_as_no_practical_difference():
    same = program(0.7)
    found = compare(same, same, examples(2000), METRIC, margin=0.1, num_threads=1)
    assert found.verdict == "no practical difference"
    assert found.n < 500
    assert found.flips == ()
    assert found.p_value == 1


def test_too_few_examples_are_inconclusive_and_it_says_how_many_more_would_do():
    found = compare(program(0.6, 1), program(0.7, 2), examples(60), METRIC)
    assert found.verdict == "inconclusive"
    assert found.complete
    assert found.more_needed > 60


def test_with_no_difference_and_no_margin_nobody_knows_how_many_more():
    same = program(0.7)
    found = compare(same, same, examples(50), METRIC)
    assert found.verdict == "inconclusive"
    assert found.more_needed is None
    assert "fewer than 10" in found.warnings[-1]


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("metric", [METRIC, lambda e, p, t=None: 0.5])
def test_of_identical_programs_it_says_exactly_how_many_more_settle_it(sequential, metric):
    def after(n):
        return compare(program(0.7), program(0.7), examples(n), metric, margin=0.05, sequential=sequential)

    said = after(40).more_needed
    assert after(40 + said - 1).verdict == "inconclusive"
    assert after(40 + said).verdict == "no practical difference"


def test_of_several_candidates_each_needs_more_than_it_would_alone():
    baseline, candidate = program(0.6, 1), program(0.7, 2)
    alone = compare(baseline, candidate, examples(60), METRIC)
    one, _ = nb.compare_many(baseline, [candidate, program(0.65, 3)], examples(60), METRIC, names=list("abc"))
    assert one.effect == alone.effect
    assert one.more_needed > alone.more_needed


def test_the_same_seed_gives_the_same_comparison():
    first, second = (compare(program(0.6, 1), program(0.7, 2), examples(100), METRIC, seed=3) for _ in "ab")
    assert first.path == second.path
    assert first.interval == second.interval
    other = compare(program(0.6, 1), program(0.7, 2), examples(100), METRIC, seed=4)
    assert other.path != first.path


def test_threads_do_not_change_the_order_of_the_evidence():
    one, many = (
        compare(program(0.6, 1), program(0.7, 2), examples(200), METRIC, num_threads=n) for n in (1, 16)
    )
    assert one.path[:100] == many.path[:100]


@pytest.mark.heavy
def test_a_median_comparison_needs_at_most_a_tenth_more_than_a_fixed_design():
    draw = random.Random(1)
    needed = []
    for _ in range(301):
        duel = Duel(1000, True, 0.95, 0.0, sequential=True)
        for index in range(1000):
            kind = draw.random()  # a difference of .2, an agreement of 70 %: .25 only B, .05 only A
            duel.take(index, A, outcome(kind < 0.55))
            duel.take(index, B, outcome(kind < 0.5 or 0.55 <= kind < 0.8))
            if duel.over:
                break
        needed.append(duel.n_at_verdict)
    assert statistics.median(needed) <= 1.1 * sample_size_paired(0.2, 0.3)


def test_one_look_uses_the_exact_test():
    said = []
    found = compare(
        program(0.5, 1), program(0.8, 2), examples(200), METRIC, sequential=False, on_event=said.append
    )
    shown = said[-1].candidates[0]
    assert (shown.verdict, shown.n_at_verdict) == (found.verdict, found.n_at_verdict)
    assert found.verdict == "B better"
    assert found.n == 200
    assert "McNemar" in found.method
    assert found.interval[0] > 0
    low, high = found.interval
    assert low < found.effect < high


def test_one_look_at_grades_flips_signs():
    def grade(example, prediction, trace=None) -> float:
        return 0.9 if prediction.y == "yes" else 0.3

    found = compare(program(0.5, 1), program(0.8, 2), examples(150), grade, sequential=False)
    assert found.verdict == "B better"
    assert "BCa" in found.method


def test_grades_are_compared_too():
    def grade(example, prediction, trace=None) -> float:
        return 0.75 if prediction.y == "yes" else 0.25

    found = compare(program(0.3, 1), program(0.9, 2), examples(600), grade)
    assert found.verdict == "B better"
    assert {abs(flip.difference) for flip in found.flips} == {0.5}


@pytest.mark.parametrize("value", [80, math.nan, -0.5, "good"])
def test_a_metric_that_returns_no_score_is_refused(value):
    with pytest.raises(nb.InputError, match=r"no metric to compare by"):
        compare(program(0.5), program(0.5), examples(20), lambda e, p, t=None: value)


def test_a_metric_that_turns_from_right_and_wrong_to_grades_is_refused():
    calls = []

    def metric(example, prediction, trace=None):
        calls.append(example)
        return True if len(calls) == 1 else 0.5

    with pytest.raises(nb.InputError, match="True or False before, and now a grade"):
        compare(program(0.5), program(0.5), examples(20), metric, num_threads=1)


def test_what_b_fixed_and_broke_is_listed_with_both_answers():
    found = compare(program(0.5, 1), program(0.6, 2), examples(80), METRIC, sequential=False)
    assert len(found.fixed) == found.b_wins
    assert len(found.broken) == found.a_wins
    flip = found.fixed[0]
    assert flip.a == {"y": "no"}
    assert flip.b == {"y": "yes"}
    assert flip.expected == {"y": "yes"}
    assert flip.inputs["x"] == flip.index


def test_repeated_inputs_are_no_further_evidence():
    found = compare(program(0.6, 1), program(0.8, 2), examples(30) * 3, METRIC)
    assert found.n_planned == 30
    assert "60 examples repeat" in found.warnings[0]


def test_failures_are_counted_and_never_dropped():
    def broken(x):
        if x % 4 == 0:
            raise ValueError("no answer today")
        return dspy.Prediction(y="yes")

    found = compare(program(1.0), broken, examples(200), METRIC, sequential=False)
    assert found.verdict == "A better"
    assert found.n == 200
    assert found.b.errors.count == 50
    assert found.a.errors.count == 0
    assert "this alone may explain" in found.warnings[0]


def test_a_program_that_changes_in_the_middle_gets_no_interval():
    duel = Duel(3000, True, 0.95, 0.0, sequential=True)
    for index in range(3000):
        for arm in (A, B):
            duel.take(index, arm, outcome((arm == A) == (index < 1000)))
    assert math.isnan(duel.sequence.interval[0])


def test_max_examples_limits_what_is_spent():
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)):
        found = compare(classifier(), classifier(), reviews(50), nb.exact_match("sentiment"), max_examples=10)
    assert found.n_planned == found.n == 10
    assert engine.calls == 20


class Asked:
    """Two programs that note what they are asked, in order: which of them, and which example."""

    def __init__(self, wait=lambda question: None):
        self.questions = []
        self._wait = wait
        self._lock = threading.Lock()

    def compare(self, **options):
        def noted(arm, answer):
            def ask(x):
                with self._lock:
                    self.questions.append((arm, x))
                self._wait((arm, x))
                return answer(x)

            return ask

        programs = noted(A, program(0.5, 1)), noted(B, program(0.9, 2))
        return compare(*programs, examples(600), METRIC, **options)


def test_nothing_begins_after_the_verdict():
    """One thread asks for what the verdict needs, and no more. By then each other one may be at one question.

    How far those are ahead has no bound if the answer that decides is late; but they are asked in order, so when
    it has been late for just three questions, there are three more.
    """
    alone = Asked()
    decided = alone.compare(num_threads=1)
    needed, last = set(alone.questions), alone.questions[-1]
    assert decided.verdict == "B better"
    assert decided.n == decided.n_at_verdict

    ahead, verdict = threading.Semaphore(0), threading.Event()

    def hold(question):
        if question == last:
            assert all(ahead.acquire(timeout=HANG_S) for _ in range(3))
        elif question not in needed:
            ahead.release()
            verdict.wait(HANG_S)

    def listener(event):
        if event.candidates[0].n_at_verdict:
            verdict.set()

    several = Asked(hold)
    found = several.compare(num_threads=4, on_event=listener)
    assert found.n_at_verdict == decided.n_at_verdict
    assert verdict.is_set()
    assert len(several.questions) == len(needed) + 3
    assert needed < set(several.questions)


def test_no_call_is_made_after_the_verdict():
    engine = ScriptedEngine()
    strong = classifier()
    strong.demos = [dspy.Example(review="good", sentiment="positive")]
    with dspy.context(lm=scripted_lm(engine)):
        found = compare(classifier(), strong, reviews(600), nb.exact_match("sentiment"), num_threads=1)
    assert found.verdict == "B better"
    assert found.n == found.n_at_verdict
    # Those of the verdict; and if the other program was asked first, the rest of its eight.
    assert 2 * found.n <= engine.calls <= 2 * found.n + 7


def test_calls_that_both_make_alike_are_paid_once():
    engine = ScriptedEngine(delay_s=0.002)
    with dspy.context(lm=scripted_lm(engine, "scripted/shared-by-both", cache=True)):
        found = compare(classifier(), classifier(), reviews(40, "shared"), nb.exact_match("sentiment"))
    assert engine.calls == 40
    assert found.n == 40
    assert found.a.usage.lm_calls + found.b.usage.lm_calls == 40


def test_two_models_of_one_name_never_share_answers():
    class Fooled(ScriptedEngine):
        pass

    right, other = ScriptedEngine(), Fooled()
    found = compare(
        classifier(), classifier(), reviews(30, "twins"), nb.exact_match("sentiment"),
        lm_a=scripted_lm(right, "scripted/twin", cache=True),
        lm_b=scripted_lm(other, "scripted/twin", cache=True),
    )  # fmt: skip
    assert right.calls == other.calls == 30
    assert "same name" in found.warnings[0]


def test_stopping_keeps_what_was_compared():
    stop = threading.Event()

    def slow(x):
        if x == 5:
            stop.set()
        return dspy.Prediction(y="yes")

    found = compare(slow, slow, examples(400), METRIC, stop=stop, num_threads=2)
    assert found.n < 400
    assert not found.complete
    assert found.verdict == "inconclusive"


def test_latency_leaves_cache_hits_and_failures_out(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(attempts, "time", clock)

    def takes(seconds):
        def answer(x):
            clock.move(seconds)
            return dspy.Prediction(y="yes")

        return answer

    found = compare(takes(0.004), takes(0.001), examples(20), METRIC, num_threads=1)
    assert found.latency_ratio.median == pytest.approx(0.25)
    assert found.latency_ratio.low <= found.latency_ratio.median <= found.latency_ratio.high


def test_versions_are_compared_by_reference_and_the_verdict_promotes(tmp_path):
    registry = nb.Registry(tmp_path / "registry")
    strong = classifier()
    strong.demos = [dspy.Example(review="this is good", sentiment="positive")]
    with dspy.context(lm=scripted_lm()):
        registry.register(classifier(), "sentiment", version="1.0.0")
        registry.register(strong, "sentiment", version="1.1.0")
        found = compare(
            "sentiment@1.0.0", "sentiment", reviews(300), nb.exact_match("sentiment"), registry=registry
        )
    assert found.verdict == "B better"
    assert found.b_name == "sentiment@1.1.0"
    registry.promote("sentiment@1.1.0", "staging")
    registry.promote("sentiment@1.1.0", "production", evidence=found)
    assert registry.production("sentiment").version == "1.1.0"


def test_the_result_is_json_and_a_table():
    found = compare(program(0.5, 1), program(0.7, 2), examples(50), METRIC)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert data["n"] == found.n
    assert data["a"]["n"] == found.n
    assert len(data["path"]) == found.n
    frame = found.to_frame()
    assert len(frame) == found.n
    assert frame.difference.mean() == pytest.approx(found.effect)
    assert found.verdict in repr(found).lower()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": 3}, "b must be a dspy.Module"),
        ({"dataset": []}, "dataset is empty"),
        ({"confidence": 1}, "confidence"),
        ({"margin": -0.1}, "margin"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": None}, "seed must be"),
        ({"names": "ab"}, "names must be a list of 2 names, got 'ab'"),
        ({"max_examples": 0}, "max_examples"),
        ({"num_threads": 0}, "num_threads"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"names": ("old", "m@1.0.0")}, "references"),
        ({"metric": [METRIC, nb.token_f1("y")]}, "one metric"),
        ({"b": classifier()}, r"dataset\[0\] has the inputs 'x', but the program needs 'review'"),
    ],
)
def test_bad_input_is_one_line_and_spends_nothing(change, message):
    asked = []
    given = {"a": asked.append, "b": asked.append, "dataset": examples(5), "metric": METRIC, **change}
    with pytest.raises(nb.InputError, match=message) as raised:
        compare(**given)
    assert "\n" not in str(raised.value)
    assert not asked


def test_a_program_that_hangs_does_not_take_the_other_one_with_it(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(threads, "time", clock)
    over = threading.Event()
    all_hang = threading.Barrier(3, action=lambda: clock.move(0.2), timeout=HANG_S)

    def hangs(x):
        if x < 3:
            all_hang.wait()
            over.wait(HANG_S)
        return dspy.Prediction(y="yes")

    found = compare(
        hangs, program(1.0), examples(12), METRIC, timeout_s=0.15, num_threads=3, sequential=False
    )
    assert not over.is_set()
    assert found.a.errors.kinds == {"Timeout": 3}
    assert found.b.errors.count == 0
    over.set()


def test_a_broken_listener_costs_nothing(caplog):
    def listener(event):
        raise ValueError("no screen")

    found = compare(program(0.5, 1), program(0.9, 2), examples(50), METRIC, on_event=listener)
    assert found.n > 0
    assert caplog.text.count("failed; the call goes on") == 1


def test_programs_that_must_be_awaited_are_compared_with_their_like():
    async def later(x):
        return dspy.Prediction(y="yes")

    found = compare(later, later, examples(10), METRIC)
    assert found.n == 10
    assert found.a.errors.count == 0
    with pytest.raises(nb.InputError, match="only aforward"):
        compare(later, program(0.5), examples(10), METRIC)


# -- guards -------------------------------------------------------------------------------------------------


def test_an_interrupt_while_asking_keeps_what_was_compared():
    calls, interrupt = [], threading.Event()

    def slow(x):
        calls.append(x)
        if len(calls) > 40:  # some are compared by then
            interrupt.wait(HANG_S)
        return dspy.Prediction(y="yes")

    def impatient(event):
        if 0 < event.done < event.total and not interrupt.is_set():
            interrupt.set()
            signal.raise_signal(signal.SIGINT)

    found = compare(slow, slow, examples(500), METRIC, num_threads=2, on_event=impatient)
    assert 0 < found.n < 500
    assert not found.complete


@pytest.mark.parametrize("moment", ["listener", "judging"])
def test_an_interrupt_after_the_last_answer_loses_nothing(moment, monkeypatch):
    from dspy_nb.core.ab import contest

    def late(event):
        if moment == "listener" and event.done == event.total:
            signal.raise_signal(signal.SIGINT)

    def judged(duels, terms, judge=contest.findings):
        if moment == "judging":
            signal.raise_signal(signal.SIGINT)
        return judge(duels, terms)

    monkeypatch.setattr(contest, "findings", judged)
    usual = signal.getsignal(signal.SIGINT)
    found = compare(program(0.5, 1), program(0.6, 2), examples(30), METRIC, on_event=late)
    assert found.n == 30
    assert found.complete
    assert signal.getsignal(signal.SIGINT) is usual


def test_one_look_warns_unless_its_size_was_declared_and_it_is_the_last():
    programs = program(0.5, 1), program(0.6, 2)
    look = {"dataset": examples(40), "metric": METRIC, "sequential": False}
    assert any("fixed beforehand" in text for text in compare(*programs, **look).warnings)
    assert compare(*programs, **look, max_examples=40).warnings == ()
    assert compare(*programs, examples(40), METRIC).warnings == ()  # a sequential one may be looked at


def test_one_look_that_was_interrupted_gives_no_verdict():
    stop = threading.Event()

    def stops(x):
        if x == 7:
            stop.set()
        return dspy.Prediction(y="yes")

    found = compare(
        lambda x: dspy.Prediction(y="no"), stops, examples(400), METRIC, sequential=False,
        max_examples=400, stop=stop, num_threads=1,
    )  # fmt: skip
    assert 10 < found.n < 400
    assert found.verdict == "inconclusive"
    assert found.interval[0] > 0
    assert any("no verdict can be given" in text for text in found.warnings)


def test_programs_that_never_differ_have_a_p_value_of_1_and_an_interval_with_a_width():
    same = program(0.7)
    for sequential in (True, False):
        found = compare(same, same, examples(60), METRIC, sequential=sequential)
        assert (found.effect, found.p_value) == (0, 1)
        assert -0.2 < found.interval[0] < 0 < found.interval[1] < 0.2 or sequential
        assert found.verdict == "inconclusive"
    graded = compare(same, same, examples(60), lambda e, p, t=None: 0.5, sequential=False)
    assert graded.p_value == 1
    assert graded.interval[0] < 0 < graded.interval[1]


def test_fewer_than_ten_disagreements_never_decide_and_are_named():
    duel = Duel(9, True, 0.95, 0.0, sequential=True)
    for index in range(9):
        duel.take(index, A, outcome(False))
        duel.take(index, B, outcome(True))
    assert duel.verdict == "inconclusive"
    found = compare(program(0.0), program(1.0), examples(9), METRIC)
    assert "they differ on 9 examples" in found.warnings[-1]


def test_cache_hits_are_left_out_of_the_latency(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(attempts, "time", clock)
    engine = ScriptedEngine()
    engine.on_call = lambda number: clock.move(0.003)
    half = reviews(20, "cached")
    with dspy.context(lm=scripted_lm(engine, "scripted/cached-latency", cache=True)):
        ask = classifier()
        strong = classifier()
        strong.demos = [dspy.Example(review="good", sentiment="positive")]
        for example in half[:10]:
            ask(**example.inputs())  # answers of A that the comparison finds in the cache
        found = compare(ask, strong, half, nb.exact_match("sentiment"), num_threads=1, sequential=False)
    assert sum(result.cached for result in found.a.results) == 10
    assert found.a.latency.n == 10
    assert found.b.latency.n == 20
    assert found.latency_ratio.median == pytest.approx(1)  # of the ten that both were asked for


def test_a_drift_that_contradicts_every_difference_is_named():
    from dspy_nb.core.ab.judging import Terms, comparison_of, findings

    duel = Duel(3000, True, 0.95, 0.0, sequential=True)
    for index in range(3000):
        for arm in (A, B):
            duel.take(index, arm, outcome((arm == A) == (index < 1000)))
    duel.verdict = "inconclusive"
    terms = Terms(0.95, 0.0, True, False, 0, 3000)
    (finding,) = findings([duel], terms)
    score = nb.evaluate(program(0.5), examples(5), METRIC)
    found = comparison_of(duel, finding, (score, score), ("a", "b"), terms, [], 0.0)
    assert "every difference is contradicted" in found.warnings[0]
    assert found.more_needed is None


def test_both_sides_are_scored_on_the_same_examples():
    found = compare(program(0.5, 1), program(0.9, 2), examples(400) + examples(20), METRIC)
    assert [r.example_id for r in found.a.results] == [r.example_id for r in found.b.results]
    assert len({r.example_id for r in found.a.results}) == found.n


@pytest.mark.parametrize("value", [True, 0, 1, 0.25])
def test_scores_of_any_kind_between_0_and_1_are_taken(value):
    assert compare(program(0.5), program(0.5), examples(12), lambda e, p, t=None: value).n == 12
