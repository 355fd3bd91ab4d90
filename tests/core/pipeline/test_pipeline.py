"""The pipeline: ships what is good enough, refuses what is not, and goes on where it was interrupted."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from dspy_nb.core.pipeline import pipeline
from dspy_nb.core.pipeline.folder import next_folder
from dspy_nb.core.pipeline.pipeline import STEPS, PipelineRules, run_pipeline
from tests.moments import HANG_S, interrupting
from tests.scripted import ScriptedEngine, classifier, reviews, write_reviews

_APP = """
import dspy

signature = dspy.Signature("review -> sentiment", "Classify the review.")


class Classifier(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(signature)

    def forward(self, review):
        return self.classify(review=review)
"""

_CONFIG = """
program = "shipped_app:Classifier"
metric = "exact_match:sentiment"
model_id = "sentiment"
train_data = "train.jsonl"
test_data = "test.jsonl"

[pipeline]
optimizer = "LabeledFewShot"
option = { k = 2 }
margin = 0.1

[pipeline.gate]
min_score = 0.3
"""

pytestmark = pytest.mark.heavy

GOOD, BAD = ["--option", "k=2"], ["--option", "k=0"]  # the scripted model needs demos to be right


@pytest.fixture(autouse=True)
def folder(workplace: Path, engine: ScriptedEngine, no_flush: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    (workplace / "shipped_app.py").write_text(_APP)
    (workplace / "dspy-nb.toml").write_text(_CONFIG)
    for name, n in {"train": 12, "test": 40}.items():
        write_reviews(workplace / f"{name}.jsonl", n, tag=name)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return workplace


@pytest.fixture
def registry() -> nb.Registry:
    return nb.Registry("registry")


def ran(capsys, *arguments: str, status: int = 0):
    """Run the pipeline and return its decision."""
    assert main(["pipeline", *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def live(registry: nb.Registry, environment: str = "production") -> str | None:
    current = registry.environment(environment).current
    return None if current is None else current.ref


def shipping(**changes) -> tuple[nb.Task, PipelineRules]:
    """Return a task and rules by which every version ships."""
    task = nb.Task(
        program=classifier(),
        trainset=reviews(8),
        testset=reviews(20, tag="held out"),
        metric=nb.exact_match("sentiment"),
        optimizer="LabeledFewShot",
        options={"k": 2},
        **changes,
    )
    return task, PipelineRules(gate=nb.QualityGate(min_score=0.5), margin=0.3)


# -- limits -------------------------------------------------------------------------------------------------


def test_a_step_that_is_not_over_in_time_is_said_and_the_same_call_repeats_it(registry, monkeypatch):
    task, rules = shipping(budget=nb.Budget(seconds=HANG_S))
    run_pipeline(task, "sentiment", rules, registry=registry, folder="first")
    stopped = threading.Event()
    stopped.set()

    def hangs(*programs, stop_after_s: float, **named):
        return replace(nb.compare(*programs, **{**named, "stop": stopped}), duration_s=stop_after_s)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "compare", hangs)
        with pytest.raises(nb.InputError, match=r"the comparison was not over after 120 s, the budget's"):
            run_pipeline(task, "sentiment", rules, registry=registry, folder="second")
    found = run_pipeline(task, "sentiment", rules, registry=registry, folder="second")
    assert (found.shipped, found.ref) == (True, "sentiment@1.1.0")


# -- both outcomes ------------------------------------------------------------------------------------------


def test_the_first_version_ships_if_the_gate_says_yes(folder, registry, capsys):
    found = ran(capsys, "--out", "out")
    assert found["shipped"] is True
    assert [step["status"] for step in found["steps"]] == [*["passed"] * 4, "skipped", "passed"]
    assert live(registry) == live(registry, "staging") == found["ref"] == "sentiment@1.0.0"
    assert registry.get("sentiment").stage == "production"
    artefacts = {
        "pipeline.json",
        "run.json",
        "evaluation.json",
        "gate.json",
        "decision.json",
        "summary.md",
        "run.md",
    }
    assert artefacts <= {path.name for path in (folder / "out").iterdir()}
    assert nb.Evaluation.load("out/evaluation.json").n == 40
    assert registry.environment("production").history()[0].evidence.kind == "gate"
    assert registry.check() == []


def test_a_version_that_is_not_worse_ships_after_the_comparison(registry, capsys, folder):
    ran(capsys)
    found = ran(capsys)
    assert (found["shipped"], found["ref"], found["baseline"]) == (True, "sentiment@1.1.0", "sentiment@1.0.0")
    assert live(registry) == "sentiment@1.1.0"
    assert found["folder"] == str(Path("runs/sentiment-002"))
    report = Path(found["folder"], "ab.md").read_text()
    assert "sentiment@1.1.0 (B)" in report
    assert json.loads(Path(found["folder"], "ab.json").read_text())["passed"] is True
    evidence = registry.environment("production").history()[-1].evidence
    assert (evidence.kind, evidence.ref, evidence.baseline) == (
        "comparison",
        "sentiment@1.1.0",
        "sentiment@1.0.0",
    )


def test_a_version_that_is_worse_is_refused_and_nothing_is_deployed(registry, capsys, folder):
    ran(capsys)
    found = ran(capsys, *BAD, status=1)
    assert found["shipped"] is False
    assert found["steps"][-1]["name"] == "ab-test"
    assert found["reason"].startswith("sentiment@1.0.0 is better: sentiment@1.1.0 differs by -")
    assert live(registry) == "sentiment@1.0.0"
    assert registry.get("sentiment@1.1.0").stage == "staging"
    with pytest.raises(nb.Refused, match="the latest comparison said no"):
        registry.promote("sentiment@1.1.0", "production")
    assert ran(capsys, *GOOD)["ref"] == "sentiment@1.2.0"
    assert live(registry) == "sentiment@1.2.0"


def test_what_the_gate_refuses_goes_nowhere(registry, capsys):
    assert main(["pipeline", *BAD, "--gate", "min_score=0.95", "--gate", "min_n=20", "--out", "out"]) == 1
    shown = capsys.readouterr()
    assert "LM calls" in shown.err.splitlines()[1]
    assert "budget: 3,600 s" in shown.err.splitlines()[1]
    assert "refused by gate" in shown.out
    assert "Nothing was deployed beyond the registry" in " ".join(shown.out.split())
    assert shown.err.splitlines()[-1].startswith("Error: gate: score")
    assert registry.environments() == []
    assert registry.get("sentiment").stage == "development"
    assert json.loads(Path("out/gate.json").read_text())["passed"] is False
    assert json.loads(Path("out/decision.json").read_text())["shipped"] is False


def test_a_comparison_that_cannot_tell_refuses_unless_told_otherwise(registry, capsys):
    ran(capsys)
    found = ran(capsys, "--margin", "0", status=1)
    assert "inconclusive" in found["reason"]
    found = ran(capsys, "--margin", "0", "--inconclusive", "ship")
    assert "as asked" in found["steps"][4]["message"]
    assert live(registry) == "sentiment@1.2.0"


def test_what_an_environment_does_not_accept_is_refused(registry, capsys):
    Path("registry").mkdir()
    Path("registry/config.toml").write_text('[environments.production]\nmodels = ["other"]\n')
    found = ran(capsys, status=1)
    assert found["steps"][-1]["name"] == "production"
    assert "accepts the models other" in found["reason"]
    assert live(registry) is None


def test_the_summary_goes_to_the_ci_job(folder, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary"))
    (folder / "summary").write_text("before\n")
    ran(capsys)
    text = (folder / "summary").read_text()
    assert text.startswith("before\n### Pipeline: sentiment@1.0.0 is live")
    assert "LabeledFewShot" in text


# -- step by step -------------------------------------------------------------------------------------------


def test_each_step_may_be_a_call_of_its_own_and_none_is_done_twice(registry, capsys, engine, folder):
    ran(capsys)
    for step in STEPS[:-1]:
        found = ran(capsys, "--out", "out", "--until", step)
        assert found["shipped"] is None
        assert found["steps"][-1]["name"] == step
        calls = engine.calls
        assert ran(capsys, "--out", "out", "--until", step)["steps"] == found["steps"]
        assert engine.calls == calls
    assert live(registry) == "sentiment@1.0.0"
    assert ran(capsys, "--out", "out")["shipped"] is True
    assert live(registry) == "sentiment@1.1.0"
    assert len(registry.list("sentiment")) == 2
    assert main(["pipeline", "--out", "out"]) == 2
    assert "out holds a pipeline that is over (shipped sentiment@1.1.0)" in capsys.readouterr().err


def test_an_interrupted_optimization_goes_on_without_paying_twice(registry, capsys, engine, folder):
    (folder / "val.jsonl").write_text((folder / "train.jsonl").read_text())
    search = ["--optimizer", "BootstrapFewShotWithRandomSearch", "--val-data", "val.jsonl", "--num-threads", "1",
              "--option", "num_candidate_programs=2", "--option", "max_labeled_demos=2"]  # fmt: skip
    config = (folder / "dspy-nb.toml").read_text().replace("option = { k = 2 }\n", "")
    (folder / "dspy-nb.toml").write_text(config)
    with interrupting(at=70) as engine.on_call:
        assert main(["pipeline", *search]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Error: interrupted"
    assert registry.models() == []
    assert Path("runs/sentiment-001/pipeline.json").exists()
    first, engine.calls, engine.on_call = engine.calls, 0, lambda number: None
    found = ran(capsys, *search)
    assert (found["shipped"], found["folder"]) == (True, str(Path("runs/sentiment-001")))
    again, engine.calls = engine.calls, 0
    ran(
        capsys,
        *search,
        "--out",
        "whole",
        "--model-id",
        "other",
        "--environment",
        "production-other",
        "--staging",
        "staging-other",
        "--create",
    )
    assert again <= engine.calls - (first - 20)  # the answers that were under way may be asked for again


def test_another_version_that_went_live_meanwhile_is_compared_too(registry, capsys):
    ran(capsys)
    ran(capsys, "--out", "out", "--until", "ab-test")
    assert ran(capsys)["ref"] == "sentiment@1.2.0"
    found = ran(capsys, "--out", "out")
    assert (found["shipped"], found["baseline"]) == (True, "sentiment@1.2.0")
    assert [step["name"] for step in found["steps"]] == [*STEPS]


def test_a_refusal_that_was_not_written_down_is_not_passed_over(registry, capsys):
    ran(capsys, *BAD, "--gate", "min_score=0.95", "--out", "out", status=1)
    Path("out/decision.json").unlink()  # as a crash between the two would leave it
    found = ran(capsys, *BAD, "--gate", "min_score=0.95", "--out", "out", status=1)
    assert found["steps"][-1]["name"] == "gate"
    assert registry.environments() == []


def test_another_task_in_the_same_folder_is_refused_by_name(capsys, engine, registry):
    ran(capsys, "--out", "out", "--until", "gate")
    calls = engine.calls
    assert main(["pipeline", "--out", "out", "--seed", "3", "--gate", "min_score=0.1"]) == 2
    assert "out belongs to another pipeline: gate, seed changed" in capsys.readouterr().err
    assert engine.calls == calls


# -- what is refused before anything is spent ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("min_score = 0.3", ""), "a pipeline needs a gate"),
        (("min_score = 0.3", "accuracy = 0.3"), "must be like min_score=0.85"),
        (('model_id = "sentiment"', ""), "Missing option '--model-id'"),
        (('test_data = "test.jsonl"', ""), "Missing option '--test-data'"),
        (('train_data = "train.jsonl"', ""), "Missing option '--train-data'"),
        (('metric = "exact_match:sentiment"', ""), "Missing option '--metric'"),
        (("margin = 0.1", "margin = 2"), "margin must be"),
        (("margin = 0.1", "confidence = 95"), "confidence must be"),
        (("margin = 0.1", "staging = 'production'"), "they must differ"),
        (("margin = 0.1", "environment = 'a/b'"), "is not valid"),
        (("margin = 0.1", "until = 'deploy'"), "'deploy' is not one of"),
        (("min_score = 0.3", "not_worse_than = 'sentiment@production'"), "no model 'sentiment'"),
    ],
)
def test_mistakes_cost_nothing_and_leave_nothing(folder, capsys, engine, change, reason):
    config = folder / "dspy-nb.toml"
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change))
    assert main(["pipeline"]) == 2
    shown = capsys.readouterr()
    assert reason in shown.err
    assert shown.err.count("\n") == 1
    assert engine.calls == 0
    assert not (folder / "runs").exists()
    assert not (folder / "registry").exists()


def test_an_environment_that_serves_another_model_is_not_taken_over(registry, capsys, engine):
    ran(capsys)
    calls = engine.calls
    for place in ("production", "staging"):
        other = {"production": "--staging", "staging": "--environment"}[place]
        assert main(["pipeline", "--model-id", "other", other, "elsewhere", "--create"]) == 2
        assert f"sentiment@1.0.0 is live in {place}, another model" in capsys.readouterr().err
    assert engine.calls == calls


def test_it_is_a_function_too(registry):
    seen = []
    result = run_pipeline(
        nb.Task(
            program=classifier(),
            trainset=reviews(8),
            testset=reviews(20, tag="held out"),
            metric=nb.exact_match("sentiment"),
            optimizer="LabeledFewShot",
            options={"k": 2},
        ),
        "sentiment",
        PipelineRules(gate=nb.QualityGate(min_score=0.5)),
        registry=registry,
        folder="out",
        on_event=seen.append,
    )
    assert result.shipped
    assert result.deployment is not None
    assert result.gate is not None
    assert result.gate.passed
    ended = [event for event in seen if isinstance(event, nb.StepEnded)]
    assert [event.name for event in ended] == [*STEPS]
    assert [event.over for event in ended] == [False] * 5 + [True]
    assert "held-out " in ended[0].message
    (optimized,) = [event for event in seen if isinstance(event, nb.Completed)]
    assert optimized.held_out == result.run.held_out
    assert optimized.next_step == result.run.next_step == ""  # it is for the pipeline to decide
    kinds = [type(event).__name__ for event in seen]
    assert kinds[:2] == ["StepStarted", "Started"]
    assert kinds.index("Completed") < kinds.index("StepEnded")
    assert kinds[-1] == "StepEnded"
    with pytest.raises(nb.InputError, match="until must be one of"):
        run_pipeline(None, "m", None, registry=registry, folder="out", until="x")  # type: ignore[arg-type]


def test_the_next_folder_is_the_interrupted_one_or_a_new_one(tmp_path):
    runs = tmp_path / "r"
    assert next_folder(runs, "m").name == "m-001"
    for name in ("m-001", "m-002", "m-n-007", "m-abc"):
        (runs / name).mkdir(parents=True)
    assert next_folder(runs, "m").name == "m-003"
    (runs / "m-002/pipeline.json").write_text("{}")
    assert next_folder(runs, "m").name == "m-002"
    (runs / "m-002/decision.json").write_text("{}")
    assert next_folder(runs, "m").name == "m-003"


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_wherever_it_dies_the_same_call_goes_on_and_does_nothing_twice(registry, every):
    class Died(BaseException):
        pass

    task, rules = shipping()

    def run(folder: str, dies_at: tuple[str, bool] | None = None):
        def listen(event) -> None:
            ended = isinstance(event, nb.StepEnded)
            if (ended or isinstance(event, nb.StepStarted)) and dies_at == (event.name, ended):
                raise Died

        return run_pipeline(task, "sentiment", rules, registry=registry, folder=folder, on_event=listen)

    run("first")
    moments = [(name, over) for name in STEPS for over in (False, True)][::every]
    for number, moment in enumerate(moments, 1):
        with pytest.raises(Died):
            run(f"run-{number}", moment)
        result = run(f"run-{number}")
        assert (result.shipped, result.ref) == (True, f"sentiment@1.{number}.0"), moment
        assert [step.name for step in result.steps] == [*STEPS]
        decisions = [
            entry.action for entry in registry.history("sentiment") if entry.version == f"1.{number}.0"
        ]
        assert decisions == ["register", "attach", "promote", "attach", "promote"], moment
    assert [line.ref for line in registry.environment("production").history()] == [
        f"sentiment@1.{number}.0" for number in range(len(moments) + 1)
    ]
    assert registry.check() == []


def test_a_torn_record_of_a_pipeline_is_said_and_nothing_is_done(registry, capsys, engine):
    ran(capsys, "--out", "out", "--until", "gate")
    calls = engine.calls
    text = Path("out/pipeline.json").read_text()
    for torn in (text[:-20], "[]", text.replace('"steps"', '"stebs"')):
        Path("out/pipeline.json").write_text(torn)
        assert main(["pipeline", "--out", "out"]) == 2
        error = capsys.readouterr().err
        assert "pipeline.json" in error
        assert error.count("\n") == 1
    assert engine.calls == calls
    assert registry.environments() == []


def test_an_environment_that_is_mistyped_is_found_before_anything_is_spent(registry, tmp_path):
    task, rules = shipping()
    seen = []
    with pytest.raises(nb.NotFound, match=r"did you mean production\?"):
        run_pipeline(
            task,
            "sentiment",
            replace(rules, production="prodution"),
            registry=registry,
            folder="typo",
            on_event=seen.append,
        )
    assert (seen, registry.models()) == ([], [])
    shipped = run_pipeline(
        task, "sentiment", replace(rules, production="beta", create=True), registry=registry, folder="new"
    )
    assert shipped.shipped
    assert live(registry, "beta") == "sentiment@1.0.0"
