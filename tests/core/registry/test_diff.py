from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import QA, Run, program

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.register(Run(), "m")
    changed = dspy.Predict("review, hint -> sentiment: bool", temperature=0.5)
    changed.signature = changed.signature.with_instructions("run\n<script>alert('second line')</script>")
    changed.demos = [{"review": "bad", "sentiment": False}, {"review": "nice", "sentiment": "good"}]
    registry.register(
        changed, "m", metadata={"validation_score": 0.5, "hyperparameters": {"num_candidates": 9}}
    )
    return registry


def test_a_diff_shows_everything_that_changed(registry: Registry) -> None:
    diff = registry.diff("m@1.0.0", "m")
    assert str(diff).splitlines() == [
        "--- m@1.0.0",
        "+++ m@1.1.0",
        "",
        "score",
        "- test score: 84.0% [79.0%, 89.0%]",
        "+ validation score: 50.0%",
        "",
        "options",
        "- optimizer: MIPROv2",
        "- base_model: openai/gpt-4o-mini",
        "- seed: 0",
        "- metric: exact_match",
        "- num_training_examples: 40",
        '- datasets: {"train": {"fingerprint": "abc", "n": 40}}',
        "- num_candidates: 6",
        "+ num_candidates: 9",
        "- prompt_model: openai/x",
        "+ self.temperature: 0.5",
        "",
        "fields",
        "  input review: str (${review})",
        "- output sentiment: str (${sentiment})",
        "+ input hint: str (${hint})",
        "+ output sentiment: bool (${sentiment})",
        "",
        "instructions",
        "  run",
        "+ <script>alert('second line')</script>",
        "",
        "demos",
        '+ {"review": "bad", "sentiment": false}',
        '  {"review": "nice", "sentiment": "good"}',
    ]


def test_the_html_of_a_diff_is_escaped(registry: Registry) -> None:
    html = registry.diff("m@1.0.0", "m").to_html()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_a_version_does_not_differ_from_itself(registry: Registry) -> None:
    diff = registry.diff("m", "m")
    assert diff.changes == ()
    assert str(diff).endswith("no difference")
    assert "no difference" in diff.to_html()


def test_the_rendered_prompt_is_the_one_that_the_language_model_gets(registry: Registry) -> None:
    text = registry.rendered_prompt("m@1.0.0", review="fine")
    loaded = registry.load("m@1.0.0")
    messages = dspy.ChatAdapter().format(loaded.signature, loaded.demos, {"review": "fine"})
    assert text == "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages) + "\n"
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert "JSON" in registry.rendered_prompt("m@1.0.0", review="fine")
    with pytest.raises(InputError, match="the inputs must be review, not text"):
        registry.rendered_prompt("m@1.0.0", text="fine")
    with pytest.raises(InputError, match="the inputs must be a dict, not a int"):
        registry.diff("m@1.0.0", "m@1.0.0", inputs=5)  # type: ignore[arg-type]


def test_a_diff_can_compare_the_rendered_prompts(registry: Registry) -> None:
    registry.register(program("Answer at once."), "m")
    diff = registry.diff("m@1.0.0", "m@1.2.0", inputs={"review": "fine"})
    prompt = [
        f"{change.sign}{change.text.strip()}" for change in diff.sections()["prompt"] if change.sign != " "
    ]
    assert prompt == ["-run", "+Answer at once."]


def test_the_prompt_of_a_program_with_a_class_needs_only_plain_fields(tmp_path: Path) -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = dspy.Predict("question -> query")
            self.b = QA("query -> answer")

    registry = Registry(tmp_path / "registry")
    registry.register(Two(), "m")
    with pytest.raises(InputError, match=r"name one of a, b\.answer\.predict"):
        registry.rendered_prompt("m", question="?")
    assert "query" in registry.rendered_prompt("m", predictor="a", question="?")
    registry.register(QA("question -> answer"), "m")
    assert "predictor" not in str(registry.diff("m@1.0.0", "m")).splitlines()
    sections = registry.diff("m@1.0.0", "m").sections()
    assert "fields a" in sections
    assert "fields answer.predict" in sections


def test_a_predictor_with_other_types_has_no_prompt_without_its_class(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.register(dspy.Predict("a -> b: dspy.Code"), "m")
    with pytest.raises(Refused, match="Code"):
        registry.rendered_prompt("m", a="x")


def test_a_changed_version_is_not_compared(registry: Registry) -> None:
    (registry.get("m").path / "model.json").write_text("{}")
    with pytest.raises(Corrupt):
        registry.diff("m@1.0.0", "m")
