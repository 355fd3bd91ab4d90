"""A run directory: nothing that a run has paid for is paid for twice.

    run_dir/
      manifest.json   what the run is: program, data, metric, optimizer, options, seed, language models, adapter
      cache/          every LM answer, as DSPy's own disk cache (only plain types are ever unpickled from it)
      events.jsonl    what happened

DSPy's optimizers are deterministic functions of their inputs and the answers they get. So the same call with
the same directory replays the answers that are there and goes on where the first one ended.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.arguments import user_path
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.programs.seams import CACHE_SETTING, answer_cache, route_cache
from dspy_nb.core.programs.spec import parameters_of, schema_hash
from dspy_nb.core.secrecy import other_options, sampling_options, without_secrets
from dspy_nb.core.storage.files import read_file, replace_file
from dspy_nb.core.text import error_text

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 2  # the first one held all options of a language model in clear
_ADDED = ("adapter", "schemas")  # since the first release


class RunDirectory:
    """The directory of one run.

    Args:
        path: created if missing.
        manifest: what the run is. Values must be JSON-able.

    Raises:
        InputError: the directory belongs to another run (the message names what differs), or it cannot be
            written.
    """

    def __init__(self, path: str | Path, manifest: dict[str, Any]) -> None:
        self.path = user_path("run_dir", path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._claim({"schema_version": _SCHEMA_VERSION, **manifest})
        except FileExistsError:
            raise InputError(f"run_dir {self.path} is no folder: use another") from None
        except OSError as error:
            raise InputError(f"run_dir {self.path}: {error.strerror or error}") from None
        try:
            self._cache = answer_cache(self.path / "cache")
        except Exception as error:  # whatever damage to its files makes the libraries below raise
            why = error_text(error, 200) or type(error).__name__
            raise InputError(
                f"run_dir {self.path}: its cache of answers cannot be opened ({why}); use a new run_dir, or move "
                f"{self.path / 'cache'} away and pay for its answers again"
            ) from None

    @property
    def event_log(self) -> Path:
        """Where the events of the run go."""
        return self.path / "events.jsonl"

    def settings(self) -> dict[str, Any]:
        """Return the DSPy settings (for ``dspy.context``) that make calls use this directory's answers."""
        route_cache(CACHE_SETTING)
        return {CACHE_SETTING: self._cache}

    def close(self) -> None:
        """Say how many answers could not be kept, if any; the directory can still be used."""
        if lost := self._cache.disk_cache.lost:
            logger.warning("run_dir %s: %d answers are not kept, or could not be read", self.path, lost)

    def _claim(self, manifest: dict[str, Any]) -> None:
        file = self.path / "manifest.json"
        if not file.exists():
            # Complete or not there at all: a crash in between must not leave a manifest that fits no run.
            replace_file(file, json.dumps(manifest, indent=2, sort_keys=True).encode())
            return
        try:
            stored = json.loads(read_file(file, links=True))
            if not isinstance(stored, dict):
                raise ValueError("it holds no JSON object")
            there = _without_clear_options(stored) if stored.get("schema_version") == 1 else stored
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, Corrupt):
            raise InputError(f"run_dir {self.path}: manifest.json is damaged; use a new run_dir") from None
        mine = json.loads(json.dumps(manifest))
        # What older versions did not write is not known, and a prompt that differs finds no answer in the cache.
        unknown = {name for name in _ADDED if name not in there}
        changed = sorted(name for name in {*there, *mine} - unknown if there.get(name) != mine.get(name))
        if changed:
            raise InputError(
                f"run_dir {self.path} belongs to another run: {', '.join(changed)} changed; "
                "use a new run_dir, or delete this one"
            )
        if there != stored:
            replace_file(file, json.dumps(there, indent=2, sort_keys=True).encode())


def _without_clear_options(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of the first schema as this version writes it."""
    models = [{**model, **_described(model["parameters"], "parameters")} for model in manifest["models"]]
    programs = [
        {
            **program,
            "predictors": {
                name: {**predictor, **_described(predictor["config"], "config")}
                for name, predictor in program["predictors"].items()
            },
        }
        for program in manifest["program"]
    ]
    options = without_secrets(manifest["options"])
    return {**manifest, "schema_version": 2, "models": models, "program": programs, "options": options}


def describe_program(program: dspy.Module) -> dict[str, Any]:
    """Return what makes ``program`` the program it is: its prompts and a hash of its code."""
    predictors = {}
    for name, predictor in parameters_of(program, frozen=False):
        if not isinstance(predictor, dspy.Predict):
            continue
        signature = predictor.signature
        predictors[name] = {
            "instructions": signature.instructions,
            "fields": {key: str(info.annotation) for key, info in signature.fields.items()},
            "demos": [{k: str(v) for k, v in dict(demo).items()} for demo in predictor.demos],
            **_described(getattr(predictor, "config", {}), "config"),
        }
    return {
        "class": type(program).__qualname__,
        "code": _source_hash(type(program)),
        "predictors": predictors,
    }


def describe_schemas(program: dspy.Module) -> dict[str, dict[str, str | None]]:
    """Return a hash of what the types of the fields are made of, by predictor and field."""
    return {
        name: {key: schema_hash(info) for key, info in predictor.signature.fields.items()}
        for name, predictor in parameters_of(program, frozen=False)
        if isinstance(predictor, dspy.Predict)
    }


def describe_lm(lm: Any) -> dict[str, Any]:
    """Return what makes ``lm`` answer as it does: model, engine, how it draws, and one hash of all the rest."""
    engine = getattr(lm, "engine", None)
    return {
        "model": lm.model,
        "engine": engine if isinstance(engine, str) else type(engine).__qualname__,
        **_described(lm.kwargs, "parameters"),
    }


def _described(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return options as a manifest has them: those that anybody may read, and a hash of the others."""
    others = other_options(options)
    return {name: sampling_options(options), **({f"other_{name}": others} if others else {})}


def text_hash(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source_hash(cls: type) -> str | None:
    try:
        return text_hash(inspect.getsource(cls))
    except (OSError, TypeError):
        return None
