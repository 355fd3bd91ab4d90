"""What a person reads of an online experiment."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.statistics.assignment import place_of
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from tests.core.ab.test_assignment import assign_many
from tests.core.ab.test_experiment import a, b


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder: Path = tmp_path_factory.mktemp("report")
    made = Experiment("t", a, b, split=0.5, names=("old", "<new>"), registry=folder)
    requests = assign_many(made._traffic, [(f"u{i}", place_of("t", f"u{i}")) for i in range(400)])
    made.record_many([(one.request_id, one.is_b or i % 2) for i, one in enumerate(requests[:390])])
    return made


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_verdict_comes_first_and_the_z_test_says_that_it_is_for_one_look(experiment: Experiment) -> None:
    status = experiment.status()
    lines = to_text(status).splitlines()
    assert lines[0] == "Experiment t: old (A) and <new> (B)"
    assert lines[3].startswith("B better: B − A is +")
    text = flat(to_text(status))
    assert f"settled after {status.n_at_verdict} of 390 units" in text
    assert "winner: <new>; valid for one look" in text
    assert "10 units without one" in text


def test_an_open_question_says_how_many_more_units_it_takes(experiment: Experiment) -> None:
    status = dataclasses.replace(
        experiment.status(), verdict="inconclusive", n_at_verdict=None, more_needed=1234
    )
    assert "about 1,234 more units would settle it" in flat(to_text(status))


@pytest.mark.parametrize("write", [to_text, to_markdown, to_html])
def test_what_blocks_a_verdict_is_a_warning(write, experiment: Experiment) -> None:
    status = dataclasses.replace(
        experiment.status(),
        verdict="inconclusive",
        n_at_verdict=None,
        interval=(math.nan, math.nan),
        blocked=("drift: everything moves",),
    )
    assert "Warning" in write(status)
    assert "Drift: everything moves." in write(status)
    assert "nan" not in write(status)


def test_names_are_escaped(experiment: Experiment) -> None:
    html = to_html(experiment.status())
    assert "&lt;new&gt;" in html
    assert "<new>" not in html


def test_the_end_is_told(experiment: Experiment) -> None:
    ended = experiment.conclude("it is better")
    assert "Concluded: <new> is served, because: it is better." in flat(to_text(ended))
