"""Recorded answers: the same as computed ones in everything but the time they take."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import dspy
import pytest

from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.local.install import model_name, model_path
from dspy_nb.core.local.recording import (
    ANSWERS,
    ASKED,
    Asked,
    answering_server,
    read_answers,
)
from dspy_nb.core.local.server import Completion, LocalServer, shared_server
from tests import recorded
from tests.recorded import read_asked, write_answers

pytestmark = pytest.mark.local_model


class Sentiment(dspy.Signature):
    """Is the review positive or negative?"""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


REVIEWS = ["The film was great.", "My day was awful."]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which questions are written down; the file of answers is empty."""
    (tmp_path / "asked").mkdir()
    monkeypatch.setenv(ANSWERS, str(tmp_path / "answers.jsonl"))
    monkeypatch.setenv(ASKED, str(tmp_path / "asked"))
    return tmp_path / "asked"


def answers(**options: object) -> list[tuple[str, dict[str, object]]]:
    """Return the answers to all reviews with the usage of each call."""
    lm = local_lm(cache=False, **options)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        found = [dspy.Predict(Sentiment)(review=review).sentiment for review in REVIEWS]
    return [(answer, entry["usage"]) for answer, entry in zip(found, lm.history, strict=True)]


def another_file(asked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write down what was asked in a new file of answers, which counts from now on."""
    file = asked.parent / "recorded.jsonl"
    write_answers(file, read_asked(asked))
    monkeypatch.setenv(ANSWERS, str(file))
    return file


def no_model(self: LocalServer, *question: object) -> tuple[Completion, bool]:
    raise AssertionError("the model was asked")


def test_a_recorded_answer_is_the_computed_one_with_the_same_usage(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = answers()
    another_file(asked, monkeypatch)
    monkeypatch.setattr(LocalServer, "ask", no_model)
    assert answers() == computed
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for _, usage in computed]
    assert cached[0] in (0, cached[1]), "the first prompt has the prefix read, unless it was read before"
    assert all(cached[1:])


def test_a_question_that_is_not_in_the_file_is_put_to_the_model_and_written_down(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answers()
    assert [each.recorded for each in read_asked(asked)] == [False] * len(REVIEWS)
    file = another_file(asked, monkeypatch)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[1:]))
    again = asked.parent / "again"
    again.mkdir()
    monkeypatch.setenv(ASKED, str(again))
    assert [answer for answer, _ in answers()] == [answer for answer, _ in first]
    assert sorted(each.recorded for each in read_asked(again)) == [False, True]


def test_other_options_are_another_question(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers()
    another_file(asked, monkeypatch)
    monkeypatch.setattr(LocalServer, "ask", no_model)
    with pytest.raises(Exception, match="the model was asked"):
        answers(max_tokens=100)


def test_what_is_drawn_anew_at_every_call_is_not_recorded(asked: Path) -> None:
    answers(seed=None, temperature=1.5)
    assert list(read_asked(asked)) == []


def test_answers_that_depend_on_what_runs_beside_are_not_recorded(asked: Path) -> None:
    answers(slots=2)
    assert list(read_asked(asked)) == []


def test_threads_write_down_every_question_once(asked: Path) -> None:
    lm = local_lm(cache=False)

    def ask(review: str) -> str:
        with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
            return dspy.Predict(Sentiment)(review=review).sentiment

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, REVIEWS * 4))
    assert found == found[: len(REVIEWS)] * 4
    keys = [each.key for each in read_asked(asked)]
    assert len(set(keys)) == len(REVIEWS)


def test_a_line_that_a_process_was_killed_in_is_left_out(asked: Path) -> None:
    answers()
    (file,) = asked.iterdir()
    file.write_bytes(file.read_bytes() + file.read_bytes()[:40])
    assert len(list(read_asked(asked))) == len(REVIEWS)


def test_answers_are_written_sorted_and_read_back(tmp_path: Path) -> None:
    completion = Completion("good „🙂“\n", False, 10, 3, 2)
    asked = [Asked("m", "prefix", f"rest {n}", {"seed": n}, completion, False) for n in range(5)]
    file = tmp_path / "answers.jsonl"
    write_answers(file, asked)
    assert read_answers(file) == {each.key: completion for each in asked}
    keys = [json.loads(line)[0] for line in file.read_text(encoding="utf-8").splitlines()]
    assert keys == sorted(keys)
    assert read_answers(tmp_path / "missing") == {}


# -- the check at the end of a run --------------------------------------------------------------------------


def test_an_answer_that_the_model_gives_no_more_is_found(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers()
    another_file(asked, monkeypatch)
    answers()
    seen = [each for each in read_asked(asked) if each.recorded] or [
        replace(each, recorded=True) for each in read_asked(asked)
    ]
    assert recorded.ask_again(seen, 8, seed=1) == []
    changed = [replace(seen[0], answer=replace(seen[0].answer, text='{"sentiment": "so so"}')), *seen[1:]]
    assert recorded.ask_again(changed, 8, seed=1) == [changed[0]]


def test_other_questions_are_asked_again_each_time() -> None:
    completion = Completion("", False, 1, 0, 1)
    seen = [Asked("m", "", str(n), {}, completion, True) for n in range(100)]
    assert recorded.chosen(seen, 8, seed=1) == recorded.chosen(random.sample(seen, 100), 8, seed=1)
    assert recorded.chosen(seen, 8, seed=1) != recorded.chosen(seen, 8, seed=2)
    assert len(recorded.chosen(seen[:3], 8, seed=1)) == 3


def test_the_tests_of_the_model_itself_always_compute(computed: None) -> None:
    name = model_name(model_path())
    assert answering_server(name, 1) is shared_server(name, 1)
    assert (recorded.ANSWERS, recorded.ASKED) == (ANSWERS, ASKED)
