from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import QA, Run, program

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def card(registry: Registry, ref: str = "m") -> str:
    return (registry.get(ref).path / "README.md").read_text("utf-8")


def test_a_card_says_how_good_made_from_what_and_how_to_use(registry: Registry) -> None:
    registry.register(program(), "m")
    registry.register(Run(), "m", notes="for the *shop*")
    text = card(registry)
    for part in (
        "# m 1.1.0",
        "**Score 84.0%** (interval 79.0% to 89.0%) on held-out test data, metric exact\\_match.",
        "for the \\*shop\\*",
        "| Optimizer | MIPROv2 |",
        '"num_candidates": 6',
        "| Parent version | 1.0.0 |",
        'program = registry.load("m@1.1.0")',
        'program(review="...").sentiment',
        "```text\nrun\n```",
        '"review": "nice"',
        "| Spent |",
    ):
        assert part in text


def test_a_card_says_when_a_score_flatters_or_is_missing(registry: Registry) -> None:
    registry.register(program(), "m")
    assert "not measured" in card(registry)
    registry.register(program(), "m", metadata={"validation_score": 0.5})
    assert "so it flatters" in card(registry)


def test_the_card_of_a_program_with_a_class_says_how_to_give_it(registry: Registry) -> None:
    registry.register(QA(), "m")
    assert 'registry.load("m@1.0.0", program=QA())' in card(registry)
    assert "### answer.predict" in card(registry).replace("\\", "")


def test_nothing_from_outside_breaks_out_of_the_markdown(registry: Registry) -> None:
    made = dspy.Predict("review -> sentiment")
    made.signature = made.signature.with_instructions("```\n# Injected\n<script>")
    made.demos = [{"review": "````\n# Injected", "sentiment": "x"}]
    registry.register(
        made, "m", notes="# Injected\n<img src=x> [a](b) | `c`", metadata={"optimizer": "| x |\n# Injected"}
    )
    text = card(registry)
    assert "````text\n```\n# Injected\n<script>\n````" in text
    assert "\\# Injected &lt;img src=x&gt; \\[a\\](b) \\| \\`c\\`" in text
    assert "| Optimizer | \\| x \\| \\# Injected |" in text


def test_a_card_shows_at_most_sixteen_demos(registry: Registry) -> None:
    made = program()
    made.demos = [{"review": str(index), "sentiment": "x"} for index in range(20)]
    registry.register(made, "m")
    assert "... and 4 more in model.json." in card(registry)
