"""The example pipeline on the embedded model, in a git repository: as one command, and as the workflow runs it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dspy_nb as nb
from dspy_nb.cli.main import main
from tests import ROOT

pytestmark = pytest.mark.local_model

EXAMPLE = Path("notebooks/pipeline")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/optimize-and-deploy.yml").read_text(encoding="utf-8"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the example and less data, and LabeledFewShot, which asks for nothing while it searches."""
    shutil.copytree(ROOT / EXAMPLE, tmp_path / EXAMPLE, ignore=shutil.ignore_patterns("registry", "runs"))
    for name, n in {"train": 20, "val": 4, "test": 16}.items():
        file = tmp_path / EXAMPLE / f"{name}.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:n]))
    config = tmp_path / EXAMPLE / "dspy-nb.toml"
    config.write_text(config.read_text().replace("min_score = 0.5 ", "min_score = 0.01 "))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("DSPY_NB_REGISTRY", raising=False)
    monkeypatch.setenv("DSPY_NB_CONFIG", str(EXAMPLE / "dspy-nb.toml"))
    monkeypatch.setenv("DSPY_NB_PIPELINE_OPTIMIZER", "LabeledFewShot")
    git("init", "--quiet")
    commit("The example")
    return tmp_path


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(message: str) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", message)


def workflow_commands() -> list[tuple[str, list[str]]]:
    """Return each job of the workflow, in order, with the command that it is there for."""
    jobs = WORKFLOW["jobs"]
    order = [next(name for name, job in jobs.items() if "needs" not in job)]
    while len(order) < len(jobs):
        order.append(next(name for name, job in jobs.items() if job.get("needs") == order[-1]))
    return [
        (name, step["run"].split()[1:])
        for name in order
        for step in jobs[name]["steps"]
        if step.get("run", "").startswith("dspy-nb ")
    ]


def with_and_without_demos() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return demos that help the embedded model, and reviews that it answers worse without them.

    That is known of the two versions in the repository's own registry: without demos it says "positive" always.
    """
    versions = [nb.Registry(ROOT / "registry").get(f"sentiment@{number}") for number in ("1.0.0", "1.1.0")]
    bare, better = (version.evaluation["results"] for version in versions)
    pairs = [(b, d) for b, d in zip(bare, better, strict=True) if d["score"]]
    chosen = [d for b, d in pairs if not b["score"]][:12] + [d for b, d in pairs if b["score"]][:4]
    state = json.loads((versions[1].path / "model.json").read_text())
    demos = [{name: demo[name] for name in ("review", "sentiment")} for demo in state["demos"]]
    drawn = random.Random(0).sample(range(len(demos)), len(demos))  # as LabeledFewShot does
    train = [demos[drawn.index(place)] for place in range(len(demos))]
    return train, [{**result["inputs"], **result["expected"]} for result in chosen]


def test_a_good_version_ships_and_a_worse_one_is_refused_and_deployed_nowhere(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in zip(("train", "test"), with_and_without_demos(), strict=True):
        (EXAMPLE / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    program = EXAMPLE / "program.py"
    program.write_text(program.read_text().replace(
        "Classify the sentiment of the review.", "Decide whether the review is positive or negative."
    ))  # fmt: skip
    commit("Reviews that need demos")
    assert main(["pipeline", "--option", "k=4", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["shipped"], first["ref"]) == (True, "sentiment@1.0.0")
    production = nb.Registry(EXAMPLE / "registry").environment("production")
    assert production.registry.get("sentiment").metadata["git_commit"] == git("rev-parse", "HEAD")
    commit("Ship the first version")

    assert main(["pipeline", "--option", "k=0", "--json"]) == 1  # no demos: it is worse
    shown = capsys.readouterr()
    worse = json.loads(shown.out)
    assert (worse["shipped"], worse["steps"][-1]["name"]) == (False, "ab-test")
    assert shown.err.splitlines()[-1].startswith("Error: ab-test: sentiment@1.0.0 is better: ")
    assert production.current.ref == "sentiment@1.0.0"
    assert [line.ref for line in production.history()] == ["sentiment@1.0.0"]


def test_the_jobs_of_the_workflow_ship_it_step_by_step(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in WORKFLOW["env"].items():
        if "${{" not in value:
            monkeypatch.setenv(name, value)
    summary = repository / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    commands = workflow_commands()
    assert [name for name, _ in commands] == [*WORKFLOW["jobs"]]
    environments = []
    for _, command in commands:
        assert main(command) == 0
        environments.append(nb.Registry(EXAMPLE / "registry").environments())
    assert environments == [[], [], ["staging"], ["staging"], ["production", "staging"]]
    assert summary.read_text().count("### Pipeline: ") == len(commands)
    assert json.loads((EXAMPLE / "runs/ci/decision.json").read_text())["shipped"] is True
    capsys.readouterr()
    assert main(["check", "--registry", str(EXAMPLE / "registry")]) == 0
