"""What stands out is a warning wherever a score is shown, with the examples behind it."""

from __future__ import annotations

from dspy_nb.core.ab.compare import compare
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.events import Event
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.states import follow
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from tests.core.evaluation.test_lm_calls import Says
from tests.scripted import classifier, reviews, scripted_lm

SENTIMENT = exact_match("sentiment")
ALIKE = "[[ ## sentiment ## ]]\n<b>positive</b>"


def test_an_evaluation_shows_its_findings_and_folds_the_examples_away() -> None:
    heard: list[Event] = []
    found = evaluate(classifier(), reviews(20), SENTIMENT, lm=scripted_lm(Says(ALIKE)), on_event=heard.append)
    line = "All 20 answers are '<b>positive</b>' (sentiment), although that is right for none of 20."
    assert f"Warning: {line}" in " ".join(to_text(found).split())
    html = to_html(found)
    assert "<b>positive" not in html
    assert "The examples behind it (3 of 20)" in html
    assert "item 0 is bad" in html
    assert "behind it" not in to_text(found)
    assert "All 20 answers" in to_markdown(found)
    state = CallState()
    for event in heard:
        state = follow(state, event)
    assert line in " ".join(to_text(state.document()).split())


def test_a_comparison_says_of_which_program() -> None:
    heard: list[Event] = []
    found = compare(
        classifier(), classifier(), reviews(20), SENTIMENT, lm_a=scripted_lm(name="scripted/a"),
        lm_b=scripted_lm(Says(ALIKE), name="scripted/b"), sequential=False, on_event=heard.append,
    )  # fmt: skip
    assert [finding.where for finding in found.findings] == ["B"]
    assert f"Warning: {found.findings[0].text}." in " ".join(to_text(found).split())
    assert heard[-1].findings == (found.findings[0].text,)
