"""Bad invocations: one line on stderr, exit status 2, nothing asked of a model, nothing changed on disk."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from tests.scripted import ScriptedEngine, write_reviews

_APP = """
import dspy

classifier = dspy.Predict(dspy.Signature("review -> sentiment", "Classify the review."))
number = 3


def broken():
    raise ValueError("cannot be made")


def right(gold, pred, trace=None):
    return gold.sentiment == pred.sentiment
"""

_OPTIMIZE = "optimize --program bad_app:classifier --metric exact_match:sentiment --train-data train.jsonl"
_EVALUATE = "evaluate --model m@1.0.0 --metric exact_match:sentiment --test-data train.jsonl"
_PIPELINE = f"pipeline{_OPTIMIZE.removeprefix('optimize')} --test-data test.jsonl --model-id m"

BAD = [
    # -- files
    (f"{_OPTIMIZE} --train-data gone.jsonl", "gone.jsonl"),
    (f"{_OPTIMIZE} --train-data .", "."),
    (f"{_OPTIMIZE} --train-data malformed.jsonl", "malformed.jsonl, line 2"),
    (f"{_OPTIMIZE} --train-data list.jsonl", "list.jsonl, line 1"),
    (f"{_OPTIMIZE} --train-data empty.jsonl", "empty.jsonl: no examples in it"),
    (f"{_OPTIMIZE} --train-data binary.jsonl", "binary.jsonl"),
    (f"{_OPTIMIZE} --train-data unlabelled.jsonl", "sentiment"),
    (f"{_OPTIMIZE} --train-data bad_app.py", "bad_app.py"),
    (f"{_OPTIMIZE} --val-data ragged.csv", "ragged.csv"),
    (f"{_EVALUATE} --out gone/report.json", "there is no folder gone"),
    ("gate malformed.json --min-score 0.5", "malformed.json: no evaluation can be read"),
    ("gate gone.json --min-score 0.5", "gone.json: no evaluation can be read"),
    ("promote m --to staging --evidence gone.json", "No such file"),
    ("promote m --to staging --evidence malformed.json", "not valid JSON"),
    ("run-notebook gone.ipynb", "cannot read gone.ipynb"),
    ("run-notebook malformed.json", "is no notebook"),
    # -- programs and metrics
    (f"{_OPTIMIZE} --program classifier", "is not module:name"),
    (f"{_OPTIMIZE} --program gone.py:classifier", "no such file: gone.py"),
    (f"{_OPTIMIZE} --program bad_app:gone", "bad_app has no 'gone'"),
    (f"{_OPTIMIZE} --program bad_app:number", "neither a dspy.Module nor makes one, but a int"),
    (f"{_OPTIMIZE} --program bad_app:broken", "bad_app:broken() failed: ValueError: cannot be made"),
    (f"{_OPTIMIZE} --program syntax.py:classifier", "cannot import syntax.py: SyntaxError"),
    (f"{_OPTIMIZE} --metric accuracy_of:sentiment", "no metric 'accuracy_of'"),
    (f"{_OPTIMIZE} --metric exact_match:label", "has no field 'label'"),
    (f"{_OPTIMIZE} --metric bad_app:number", "3 is not a metric"),
    (f"{_OPTIMIZE} --inputs text", "no input field 'text'"),
    # -- optimizers, presets, models, limits
    (f"{_OPTIMIZE} --optimizer MIPRO", "unknown optimizer 'MIPRO'"),
    (f"{_OPTIMIZE} --optimizer MIPROv2", "MIPROv2 needs a valset"),
    (f"{_OPTIMIZE} --option demos=3", "has no option 'demos'"),
    (f"{_OPTIMIZE} --option max_rounds=many", "max_rounds='many'"),
    (f"{_OPTIMIZE} --preset fastest", "unknown preset 'fastest'"),
    (f"{_OPTIMIZE} --preset light --optimizer MIPROv2", "preset 'light' is for"),
    (f"{_OPTIMIZE} --lm gpt-4o", "--lm 'gpt-4o' is not provider/model"),
    (f"{_OPTIMIZE} --budget-calls 0", "--budget-calls=0 is not a positive whole number"),
    (f"{_OPTIMIZE} --requests-per-minute 0", "--requests-per-minute=0 is not a positive whole number"),
    (f"{_EVALUATE} --tokens-per-minute 0", "--tokens-per-minute=0 is not a positive whole number"),
    (f"{_OPTIMIZE} --timeout soon", "'soon' is not a valid float"),
    (f"{_OPTIMIZE} --num-threads 0", "--num-threads must be"),
    (f"{_OPTIMIZE} --model-id ../m", "is not valid"),
    (f"{_OPTIMIZE} --like gone@1.0.0", "no model 'gone'"),
    ("presets --save mine --optimizer MIPRO", "unknown optimizer 'MIPRO'"),
    # -- the registry
    ("show gone", "no model 'gone': there are m"),
    ("show m@9.9.9", "no version 'm@9.9.9'"),
    ("show m@", "m@"),
    ("show m@newest", "newest"),
    ("list --registry gone", "there is no registry in gone"),
    ("list --registry bad_app.py", "there is no registry in bad_app.py"),
    ("show m --registry damaged", "damaged"),
    ("deploy m --to staging --registry damaged", "damaged"),
    ("promote m --to shelf", "stage 'shelf' is not known"),
    ("promote m --to staging --force", "needs a reason"),
    ("promote m --to staging --registry badly-configured", "config.toml is not valid TOML"),
    ("deploy m@1.0.0 --to ../elsewhere", "is not valid"),
    ("rollback production --steps 0", "steps must be a whole number"),
    ("history", "give either MODEL or --environment NAME"),
    ("diff m@1.0.0 m@2.0.0", "no version 'm@2.0.0'"),
    ("archive m", "keep_latest"),
    # -- evaluation, gate, comparison, pipeline
    (f"{_EVALUATE} --gate accuracy=0.8", "must be like min_score=0.85"),
    (f"{_EVALUATE} --gate min_score=high", "'high' is not a number"),
    (f"{_EVALUATE} --confidence 95", "confidence must be"),
    (f"{_EVALUATE} --model gone", "no model 'gone'"),
    ("gate m@1.0.0 --min-score 0.5", "m@1.0.0 has no stored evaluation"),
    ("gate m@1.0.0", "a gate needs at least one condition"),
    ("ab-test --model-a m@1.0.0 --model-b gone --test-data train.jsonl", "gone"),
    (_PIPELINE, "a pipeline needs a gate"),
    (f"{_PIPELINE} --gate min_score=0.5 --margin 5", "margin must be"),
    (f"{_PIPELINE} --gate min_score=0.5 --out bad_app.py", "bad_app.py is no folder"),
    # -- usage and configuration
    ("optimise", "No such command 'optimise'"),
    (f"{_OPTIMIZE} --sead 1", "No such option '--sead'"),
    ("optimize", "Missing option '--program'"),
    ("promote m", "Missing option '--to'"),
    ("completion powershell", "'powershell' is not one of"),
    (f"{_OPTIMIZE} --config gone.toml", "cannot read gone.toml"),
    (f"{_OPTIMIZE} --config bad.toml", "bad.toml is not valid TOML"),
    (f"{_OPTIMIZE} --config unknown.toml", "unknown.toml: 'optimize.epochs': dspy-nb optimize has no such option"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name, n in {"train": 8, "test": 8}.items():
        write_reviews(folder / f"{name}.jsonl", n, tag=name)
    for name, text in {
        "bad_app.py": _APP,
        "syntax.py": "def (",
        "malformed.jsonl": '{"review": "a", "sentiment": "b"}\n{"review": ',
        "malformed.json": '{"score": ',
        "list.jsonl": "[1, 2]",
        "empty.jsonl": "",
        "unlabelled.jsonl": '{"review": "a"}',
        "ragged.csv": "review,sentiment\na,b,c\n",
        "bad.toml": "seed = ",
        "unknown.toml": "[optimize]\nepochs = 3",
    }.items():
        (folder / name).write_text(text)
    (folder / "binary.jsonl").write_bytes(bytes(range(256)))
    for name in ("registry", "damaged", "badly-configured"):
        nb.Registry(folder / name).register(dspy.Predict("review -> sentiment"), "m")
    (folder / "damaged/models/m/log/000001.json").write_text("{")
    (folder / "badly-configured/config.toml").write_text("[promotion")
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[f"{n}-{line[:40]}" for n, (line, _) in enumerate(BAD)])
def test_a_bad_invocation_is_one_line_exits_2_and_changes_nothing(
    folder: Path,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    reason: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("DSPY_NB_REGISTRY", raising=False)
    monkeypatch.setenv("DSPY_NB_CONFIG_DIR", str(folder / "config"))
    before = contents(folder)
    try:
        assert main(shlex.split(line)) == 2
    finally:
        sys.modules.pop("bad_app", None)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert shown.err.count("\n") == 1
    assert reason in shown.err
    assert engine.calls == 0
    assert contents(folder) == before


def test_there_are_thirty_of_them_and_more() -> None:
    assert len({line for line, _ in BAD}) == len(BAD) > 30
