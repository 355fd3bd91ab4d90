"""Reports: what they say, that they say it safely, and that they stay small."""

from __future__ import annotations

import threading
from dataclasses import replace
from html.parser import HTMLParser

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import OptimizationFailed
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.presets import Preset, list_presets
from dspy_nb.core.optimization.run import OptimizationRun, Result, RunSettings
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.supervision.budget import Budget, ErrorCount
from dspy_nb.core.supervision.candidates import Candidate, Prompt
from dspy_nb.core.text import visible
from dspy_nb.views.documents import Bar, Code, Details, Document, Facts, Note, Score, Table
from dspy_nb.views.listings import Listing
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from dspy_nb.views.run import describe_estimate
from tests.properties import tries
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
_TAGS = {
    "caption", "circle", "dd", "details", "div", "dl", "dt", "h4", "line", "p", "path", "pre", "script", "span",
    "strong", "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "tr",
}  # fmt: skip
_VOID = {"circle", "line", "path"}


class _Reader(HTMLParser):
    """Collects the text, and fails on a tag or attribute that the reports do not make."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag in _TAGS
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.text += data


def read(page: str) -> str:
    """Check that ``page`` is well formed and loads nothing, and return its text."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    assert "http" not in page.replace(EVIL, "")
    assert "url(" not in page
    return reader.text


def run_with(
    *,
    optimizer: str = "MIPROv2",
    status: str = "completed",
    budget: Budget | None = None,
    failure=None,
    **result,
) -> OptimizationRun:
    plan = RunSettings(
        optimizer=optimizer,
        options={"num_candidates": 6, "prompt_model": None},
        preset=None,
        metric="exact_match('sentiment')",
        base_model="scripted/model",
        seed=0,
        num_threads=4,
        budget=budget or Budget(),
        estimate=Estimate(evaluation=200, scoring=36),
        datasets={name: {"n": 20, "fingerprint": "f"} for name in ("train", "val", "test")},
    )
    run = OptimizationRun(plan, threading.Event())
    if status != "running":
        run.end(
            None if failure else Result(**{"program": classifier(), "duration_s": 65.0, **result}), failure
        )
    return run


def candidate(number: int, score: float, n: int = 20, full: bool = True, instruction: str = "") -> Candidate:
    program = classifier()
    if instruction:
        program.signature = program.signature.with_instructions(instruction)
    return Candidate(number, score, n, full, Prompt.of(program), program)


def evaluated(n: int = 20, engine: ScriptedEngine | None = None):
    with dspy.context(lm=scripted_lm(engine)):
        return evaluate(classifier(), reviews(n, "test"), exact_match("sentiment"), num_threads=1)


@pytest.fixture(scope="module")
def searched() -> OptimizationRun:
    """A real run, with validation and held-out examples."""
    with dspy.context(lm=scripted_lm()):
        return optimize(
            classifier(),
            trainset=reviews(12, "train"),
            valset=reviews(12, "val"),
            testset=reviews(30, "test"),
            metric=exact_match("sentiment"),
            preset="light",
            budget=Budget(lm_calls=500),
            num_threads=2,
        )


@pytest.mark.parametrize("show", [to_text, to_markdown, to_html])
def test_a_run_shows_the_search_score_next_to_the_held_out_one(searched, show):
    shown = show(searched)
    before, after = searched.test_before, searched.test_after
    assert "validation, seen by the search" in shown
    assert "held out, never seen by the search" in shown
    for evaluation in (before, after):
        low, high = evaluation.interval
        text = str(Score(evaluation.score, (low, high)))
        assert (text.replace("[", r"\[").replace("]", r"\]") if show is to_markdown else text) in shown
    gain = searched.improvement
    unwrapped = " ".join(read(shown).split())
    assert f"its score changed by {100 * gain.difference:+.1f} points (95% interval" in unwrapped
    assert f"{gain.better} scored higher than before, {gain.worse} lower" in unwrapped
    assert "significant" not in shown


def test_a_run_shows_what_it_used_against_estimate_and_budget(searched):
    text = to_text(searched)
    usage = searched.usage
    assert f"{usage.lm_calls:,} asked, 0 answered from a cache" in text
    assert f"of at most {searched.plan.estimate.lm_calls} expected" in text
    assert "500 LM calls" in text


def test_what_is_unknown_is_a_dash_and_what_is_nothing_is_0():
    unknown = to_text(run_with(usage=Usage(3, 1, None, None, None)))
    assert "cost      –" in unknown
    assert "tokens    – sent, – received" in unknown
    nothing = to_text(run_with(usage=Usage()))
    assert "cost      $0.0000" in nothing
    assert "tokens    0 sent, 0 received" in nothing


def test_the_optimized_prompt_is_shown_with_its_demos(searched):
    page = read(to_html(searched))
    assert "The optimized prompt: 1 predictor, 4 demos" in page
    assert "Classify the review." in page
    assert all(demo["review"] in page for demo in searched.program.demos)


def test_the_chosen_candidate_is_named_and_comes_first():
    chosen = candidate(2, 0.6, instruction="The chosen one.")
    run = run_with(
        program=chosen.program, score=0.6, candidates=(candidate(0, 0.4), candidate(1, 0.7), chosen)
    )
    rows = [line for line in to_text(run).splitlines() if line.startswith(("2 (chosen)", "1 ", "0 "))]
    assert [row.split()[0] for row in rows] == ["2", "1", "0"]


@pytest.mark.parametrize(
    ("stopped_by", "words"),
    [
        ("lm_calls", "stopped by the budget of 500 LM calls"),
        ("seconds", "stopped by the budget of 60 s"),
        ("tokens", "stopped by the budget of 9,000 tokens"),
        ("usd", "stopped by the budget of $2.00"),
        ("stop", "stopped on request"),
        ("interrupt", "was interrupted"),
        ("errors", "stopped because the program kept failing"),
    ],
)
def test_a_stopped_run_says_what_stopped_it_and_what_it_kept(stopped_by, words):
    budget = Budget(lm_calls=500, seconds=60, tokens=9000, usd=2.0)
    for origin, kept in [
        ("candidate", "this is the best candidate until then"),
        ("given", "no candidate had been scored in full by then, so this is the program as it was given"),
        ("optimizer", "when the search was over and its result was being scored"),
    ]:
        text = " ".join(to_text(run_with(stopped_by=stopped_by, budget=budget, origin=origin)).split())
        assert words in text
        assert kept in text


def test_a_run_that_did_not_help_says_so_once_in_its_title(searched):
    same = searched.test_before
    text = to_text(run_with(score=0.9, baseline_score=0.6, test_before=same, test_after=same))
    assert text.startswith("No clear difference on held-out examples")
    assert "Warning" not in text
    assert "+0.0 points" in text


def test_a_run_that_ended_before_the_held_out_examples_says_so(searched):
    text = to_text(run_with(score=0.9, test_before=searched.test_before, stopped_by="stop"))
    assert "not scored on the held-out examples" in text


def test_a_run_without_held_out_examples_warns_of_the_search_score():
    run = run_with(score=0.9)
    run.plan = replace(run.plan, datasets={name: run.plan.datasets[name] for name in ("train", "val")})
    assert "flatters" in to_text(run)


def test_validation_examples_that_the_search_did_not_use_are_not_said_to_flatter():
    run = run_with(optimizer="BootstrapFewShot", score=0.8)
    run.plan = replace(run.plan, datasets={name: run.plan.datasets[name] for name in ("train", "val")})
    text = to_text(run)
    assert "flatters" not in text
    assert "The search did not see the validation examples" in text


def test_a_score_on_examples_that_the_search_did_not_use_is_not_called_seen(searched):
    text = to_text(run_with(optimizer="BootstrapFewShot", score=0.8, baseline_score=0.7))
    assert "validation, not used by the search" in text


def test_failed_calls_are_counted_by_kind_with_their_first_message(searched):
    errors = ErrorCount()
    for message in ("the provider hung up", "again"):
        errors.add(ConnectionError(message))
    errors.add(ValueError("no JSON"))
    text = to_text(run_with(errors=errors))
    assert "3 calls of the program or the metric failed" in text
    assert "ConnectionError      2  the provider hung up" in text
    failing = evaluated(
        engine=ScriptedEngine(failing=lambda n, request: (n == 3 and OSError("down")) or None)
    )
    text = to_text(run_with(test_before=evaluated(), test_after=failing))
    assert "1 of 20 held-out examples failed after" in text


def test_a_run_that_is_going_on_and_one_that_failed_show_their_plan():
    assert "run.wait()" in read(to_html(run_with(status="running")))
    failed = run_with(failure=OptimizationFailed(f"all calls failed {EVIL}"))
    assert "OptimizationFailed: all calls failed" in read(to_html(failed))
    assert "at most 236 LM calls" in to_text(failed)


def test_markup_in_what_the_model_or_the_data_says_is_shown_and_not_run():
    program = classifier()
    program.signature = program.signature.with_instructions(f"Classify. {EVIL}")
    program.demos = [dspy.Example(review=EVIL, sentiment=f"positive {EVIL}")]
    errors = ErrorCount()
    errors.add(ValueError(EVIL))
    shown = Candidate(0, 0.5, 20, True, Prompt.of(program), program)
    run = run_with(program=program, score=0.5, candidates=(shown,), errors=errors)
    run.plan = replace(run.plan, base_model=EVIL, metric=EVIL, preset=EVIL, options={"teacher": EVIL})
    assert read(to_html(run)).count(EVIL) >= 7
    for page in (to_html(run), to_markdown(run)):
        assert "<script" not in page
        assert "<img" not in page
    preset = Preset("p", "MIPROv2", {"auto": EVIL}, EVIL, (EVIL,), EVIL)
    assert EVIL in read(to_html(preset))


def test_thousands_of_candidates_and_demos_make_a_small_page_that_says_what_it_leaves_out():
    few = [candidate(i, 0.0, instruction=f"{i} " + "word " * 400) for i in range(20)]
    many = tuple(replace(few[i % 20], number=i, score=i / 3000) for i in range(3000))
    program = many[-1].program
    program.demos = [dspy.Example(review="long " * 2000, sentiment="positive") for _ in range(100)]
    page = to_html(run_with(program=program, score=0.9, candidates=many))
    text = read(page)
    assert "10 of 3,000 candidates are shown" in text
    assert "100 demos, the first 8" in text
    assert len(page) < 64_000 + 20_000  # the examples, which have a cap of their own, and the rest


def test_an_estimate_says_at_most_and_where_the_budget_would_end_it():
    estimate = Estimate(evaluation=200, scoring=36)
    assert describe_estimate(estimate) == (
        "at most 236 LM calls (200 scoring candidates, 36 before/after scores)"
    )
    assert describe_estimate(estimate, Budget()).endswith(
        "; budget: no limit, so it goes on until it is done"
    )
    assert describe_estimate(estimate, Budget(lm_calls=500)).endswith("; budget: 500 LM calls")
    assert describe_estimate(estimate, Budget(lm_calls=100)).endswith("100 LM calls, which may end it early")


def test_presets_are_a_table_with_what_each_is_good_for():
    shown = read(to_html(Listing(list_presets())))
    for preset in list_presets():
        assert preset.name in shown
        assert preset.description in to_text(preset)
    assert "mine (yours)" in to_text(Preset("mine", "COPRO", source="/somewhere/presets.toml"))


def test_versions_are_a_table_with_stage_score_and_interval(tmp_path, searched):
    registry = Registry(tmp_path / "registry")
    version = registry.register(searched, "sentiment")
    registry.register(classifier(), "sentiment", bump="major")
    listed = Listing(registry.list())
    for shown in (to_text(listed), read(to_html(listed))):
        assert "sentiment@1.0.0" in shown
        assert "sentiment@2.0.0" in shown
        assert str(Score(version.score, version.interval)) in shown
        assert "BootstrapFewShotWithRandomSearch" in shown
    assert to_text(Listing([], "Versions", "None yet.")) == "Versions\n\nNone yet."
    assert "50 of 60 versions are shown" in to_text(Listing([version] * 60))


def test_an_evaluation_is_shown_with_intervals_classes_and_errors():
    evaluation = evaluated(30, ScriptedEngine(failing=lambda n, request: (n == 3 and OSError(EVIL)) or None))
    text = read(to_html(evaluation))
    assert str(Score(evaluation.score, evaluation.interval)) in text
    assert "1 error (3.3%) count as failures" in text
    assert EVIL in text
    assert "Confusion matrix" in text
    assert "macro average" in text


def test_an_evaluation_with_hundreds_of_predicted_labels_stays_small():
    examples = [
        dspy.Example(review=f"r{i}", topic=f"topic {i % 3}").with_inputs("review") for i in range(300)
    ]
    with dspy.context(lm=scripted_lm()):
        program = dspy.Predict("review -> topic")
        evaluation = evaluate(program, examples, exact_match("topic"), num_threads=4, label="topic")
    page = to_html(evaluation)
    assert "labels are shown" in read(page)
    assert len(page) < 128_000  # half of it the table of examples, at its most


def test_an_evaluation_without_results_or_intervals_has_dashes():
    assert str(Score(None)) == "–"
    assert str(Score(float("nan"), (0.0, 1.0))) == "–"
    assert str(Score(0.5)) == "50.0%"
    assert read(to_html(Document("t", [Table(("a",), [(Score(float("nan")),)])]))).endswith("a–")


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30)


@tries(0.6)
@given(texts, texts, texts)
def test_whatever_text_comes_in_comes_out_as_text(a, b, c):
    blocks = [
        Table((a, b), [(c, Score(0.5, (0.1, 0.9)))], frozenset([0]), b),
        Facts([(a, b)]),
        Facts([(b, c)], tiles=True),
        Note(c, warning=True),
        Details(a, [Code(b), Bar(0.5, c)]),
    ]
    document = Document(a, blocks, b)
    shown = read(to_html(document))
    for text in map(visible, (a, b, c)):
        assert shown.count(text) >= 1
    assert to_text(document).startswith(visible(a).split("\n")[0])
    markdown = to_markdown(document)
    assert "<script" not in markdown.lower()
