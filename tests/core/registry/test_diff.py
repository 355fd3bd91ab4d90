from __future__ import annotations

import json
import re
from pathlib import Path

import dspy
import pytest

from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import QA, Run, evaluated, program

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
    lines = diff.report().splitlines()
    start = lines.index("score on         m@1.0.0 (older)       m@1.1.0 (newer)  change")
    assert lines[start:] == [
        "score on         m@1.0.0 (older)       m@1.1.0 (newer)  change",
        "test data        84.0% [79.0%, 89.0%]  –                not comparable",
        "validation data  –                     50.0%            not comparable",
        "",
        "Not compared example by example: m@1.0.0 has no whole evaluation stored with it.",
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
    assert diff.report().endswith("no difference")
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
    assert "predictor" not in registry.diff("m@1.0.0", "m").report().splitlines()
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


# -- how the two score -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Versions that were evaluated on the same examples: 1.0.0 knows 8 of 20, 1.1.0 knows 18, 1.2.0 knows 17."""
    registry = Registry(tmp_path_factory.mktemp("scored") / "registry")
    for right in (8, 18, 17):
        made = program(f"Know {right}.")
        registry.register(made, "m", evaluation=evaluated(made, range(right), 20).to_dict())
    return registry


@pytest.mark.parametrize("order", [("m@1.0.0", "m@1.1.0"), ("m@1.1.0", "m@1.0.0")])
def test_a_comparison_goes_from_the_older_to_the_newer_in_either_order(
    scored: Registry, order: tuple[str, str]
) -> None:
    diff = scored.diff(*order)
    assert (diff.a, diff.b) == ("m@1.0.0", "m@1.1.0")
    assert "m@1.0.0 is the older, made 20" in diff.report()
    assert "- Know 8.\n+ Know 18." in diff.report()


def test_a_patch_of_an_old_version_is_older_than_what_was_made_before_it(registry: Registry) -> None:
    registry.register(program("A patch."), "m", version="1.0.1")
    assert registry.diff("m@1.1.0", "m@1.0.1").a == "m@1.0.1"
    registry.register(program(), "another")
    assert registry.diff("another", "m").b == "another@1.0.0"  # of two models by when they were made


def test_the_same_examples_are_compared_one_by_one_and_class_by_class(scored: Registry) -> None:
    diff = scored.diff("m@1.0.0", "m@1.1.0")
    assert diff.measured.paired is not None
    assert diff.measured.paired.difference.verdict == "better"
    text, html = " ".join(diff.report().split()), diff.to_html()
    assert "better by 50.0 points [+" in text
    assert "higher on 10, lower on 0, the same on 10" in text
    assert "What the newer fixed (10):" in text
    assert "change of F1" in text
    assert re.search(r'<td class="added">better by 50.0 points', html)
    assert json.loads(json.dumps(diff.to_dict()))["measured"]["paired"]["difference"]["better"] == 10


def test_what_is_no_clear_difference_has_no_colour_and_says_so(scored: Registry) -> None:
    html = scored.diff("m@1.2.0", "m@1.1.0").to_html()
    assert "<td>no clear difference: -5.0 points [" in html
    assert "What the newer broke (1)" in html


def test_worse_is_red_and_in_words_where_the_examples_are_not_known(registry: Registry) -> None:
    for score in (0.9, 0.7):
        registry.register(program(f"{score}"), "s", evaluation={"score": score, "n": 50})
    html = registry.diff("s@1.1.0", "s@1.0.0").to_html()
    assert '<td class="removed">worse by 20.0 points</td>' in html
    assert "Not compared example by example: s@1.0.0 has no whole evaluation stored with it." in html


def test_other_data_are_not_compared_and_the_reason_is_said(scored: Registry, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "other")
    for n in (20, 10):
        made = program(f"{n}")
        registry.register(made, "m", evaluation=evaluated(made, range(5), n).to_dict())
    assert "m@1.0.0 was evaluated on other data: 20 examples" in registry.diff("m@1.0.0", "m@1.1.0").report()


def test_a_stored_evaluation_that_contradicts_itself_is_no_evaluation(
    scored: Registry, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "hostile")
    stored = scored.get("m@1.0.0").evaluation
    assert stored is not None
    for change in ({"repeats": 0}, {"results": []}, {"correct": -5}, {"classification": 7}):
        registry.register(program(str(change)), "m", evaluation={**stored, **change})
    registry.register(program("sound"), "m", evaluation={**stored})
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
        assert "Not compared example by example" in registry.diff(f"m@{version}", "m@1.4.0").report()
