"""The demo: the quickstart notebook, executed in a folder of its own, and what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dspy_nb.cli.notebooks import run_notebook
from dspy_nb.core.errors import InputError
from dspy_nb.views.documents import Score
from dspy_nb.views.listings import short_path
from dspy_nb.views.wording import duration

_NOTEBOOK = "01_quickstart.ipynb"


def run_demo(folder: Path, out: IO[str]) -> dict[str, Any]:
    """Execute the quickstart notebook in ``folder``, and return what it wrote to ``result.json``.

    DSPy's cache is in the folder, so that a second run there pays for no LM call again.

    Args:
        folder: Made if it does not exist. Holds the registry, the cache and the executed notebook afterwards.
        out: Where to say which cell runs and what it printed.

    Returns:
        ``before``, ``after`` (``score``, ``interval``, ``n`` of the held-out reviews), ``difference``
        (``score``, ``interval``, ``verdict``), ``lm_calls``, ``cache_hits``, ``race`` (``skipped`` of ``raced``
        answers), ``duration_s`` and ``model`` (a reference); and ``folder``, ``notebook`` and ``total_s``.

    Raises:
        ModelNotInstalled: The embedded model is needed and not there.
        InputError: The folder cannot be used.
        NotebookFailed: A cell failed.
    """
    from dspy_nb.core.local.engine import local_lm

    local_lm()  # what is missing is better said before a kernel starts
    folder = folder.absolute()
    result, copy = folder / "result.json", folder / "quickstart.ipynb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot use the folder {folder}: {error.strerror}") from None
    environment = {"DSPY_CACHEDIR": str(folder / "cache")}
    total_s = run_notebook(_notebook(), copy, folder=folder, out=out, environment=environment)
    found = json.loads(result.read_text(encoding="utf-8"))
    return {**found, "folder": str(folder), "notebook": str(copy), "total_s": round(total_s, 1)}


def _notebook() -> Path:
    """Return the notebook: in an installed package beside this file, in the repository in its own folder."""
    here = Path(__file__).parents[1]
    for candidate in (here / "demo" / _NOTEBOOK, here.parent / "notebooks" / _NOTEBOOK):
        if candidate.is_file():
            return candidate
    raise InputError(f"the notebook {_NOTEBOOK} is missing from this installation: reinstall dspy-nb")


def summary(result: Mapping[str, Any]) -> str:
    """Return what the demo found and left, as text for a terminal."""
    before, after = result["before"], result["after"]
    folder = short_path(Path(result["folder"]))
    model_id, _, version = result["model"].partition("@")
    called = f"{result['lm_calls']:,} LM calls, {result['cache_hits']:,} answers from the cache"
    race = result["race"]
    saved = f"{race['skipped']:,} of the {race['raced']:,} answers of the search"
    places = {
        "quickstart.ipynb": "the notebook that was executed, with its output",
        f"registry/models/{model_id}/{version}/": "the program: model.json, metadata.json, README.md",
        f"registry/models/{model_id}/log/": "what was ever decided about it, one file each",
        "cache/": "the model's answers: a second run pays for none of them again",
    }
    width = max(map(len, places))
    lines = "\n".join(f"  {place:{width}}  {what}" for place, what in places.items())
    return f"""
Short-review sentiment, scored on {after["n"]} held-out reviews that the search never saw:

  zero-shot  {Score(before["score"], before["interval"])}
  optimized  {Score(after["score"], after["interval"])}

{_outcome(result["difference"])}
{called}; {duration(result["total_s"])} in all, {duration(result["duration_s"])} of them optimizing.
Candidates that could not win any more were not asked further, which saved {saved}.

In {folder}:
{lines}

Next: dspy-nb show {result["model"]} --registry {folder}/registry
      notebooks/02_optimizers.ipynb compares optimizers; README.md has the tour.
"""


def _outcome(difference: Mapping[str, Any]) -> str:
    beats = {"better": "beats zero-shot", "worse": "is WORSE than zero-shot"}
    words = beats.get(difference["verdict"], "does NOT clearly beat zero-shot")
    low, high = difference["interval"]
    return (
        f"The optimized program {words} on the same reviews: {100 * difference['score']:+.1f} points, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}."
    )
