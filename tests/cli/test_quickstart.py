"""The demo: what it says about what it found, and where it runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nbformat
import pytest

from dspy_nb.cli import quickstart
from dspy_nb.core.errors import InputError, ModelNotInstalled

_WRITE_RESULT = """
import json, os
from pathlib import Path
result = {"model": "sentiment@1.0.0", "cache": os.environ["DSPY_CACHEDIR"]}
Path("result.json").write_text(json.dumps(result))
"""


def _result(folder: Path, verdict: str, difference: float) -> dict[str, Any]:
    return {
        "before": {"score": 0.5, "interval": [0.4, 0.6], "n": 100},
        "after": {"score": 0.5 + difference, "interval": [0.45, 0.7], "n": 100},
        "difference": {
            "score": difference,
            "interval": [difference - 0.05, difference + 0.05],
            "verdict": verdict,
        },
        "lm_calls": 1234,
        "cache_hits": 7,
        "race": {"skipped": 40, "raced": 280},
        "duration_s": 61.0,
        "total_s": 75.0,
        "model": "sentiment@1.2.0",
        "folder": str(folder),
    }


@pytest.mark.parametrize(
    ("verdict", "difference", "words"),
    [
        ("better", 0.2, "The optimized program beats zero-shot on the same reviews: +20.0 points"),
        ("no clear difference", 0.02, "The optimized program does NOT clearly beat zero-shot"),
        ("worse", -0.2, "The optimized program is WORSE than zero-shot"),
    ],
)
def test_the_summary_says_plainly_whether_the_optimized_program_is_better(
    tmp_path: Path, verdict: str, difference: float, words: str
) -> None:
    text = quickstart.summary(_result(tmp_path, verdict, difference))
    assert words in text
    assert "zero-shot  50.0% [40.0%, 60.0%]" in text
    assert "100 held-out reviews" in text
    assert "1,234 LM calls" in text
    assert "which saved 40 of the 280 answers of the search" in text
    assert "registry/models/sentiment/1.2.0/" in text


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_WRITE_RESULT)]), path)
    monkeypatch.setattr(quickstart, "_notebook", lambda: path)
    monkeypatch.setenv("DSPY_NB_LM", "openai/none")  # the embedded model is not needed here
    return path


@pytest.mark.heavy
def test_the_notebook_runs_in_the_folder_with_a_cache_of_its_own(tmp_path: Path, notebook: Path) -> None:
    folder = tmp_path / "here" / "demo"
    result = quickstart.run_demo(folder, io.StringIO())
    assert result["model"] == "sentiment@1.0.0"
    assert result["cache"] == str(folder / "cache")
    assert Path(result["notebook"]).is_file()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, notebook: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot use the folder"):
        quickstart.run_demo(tmp_path / "file", io.StringIO())


def test_a_missing_model_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_NB_MODEL_DIR", str(tmp_path / "none"))
    with pytest.raises(ModelNotInstalled, match="dspy-nb install-model"):
        quickstart.run_demo(tmp_path / "demo", io.StringIO())
    assert not (tmp_path / "demo").exists()


def test_the_notebook_of_the_repository_or_the_package_is_found() -> None:
    assert nbformat.read(quickstart._notebook(), as_version=4).cells
