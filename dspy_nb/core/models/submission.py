"""A program and its facts, checked and turned into the files of a version."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.arguments import DEEPEST, is_too_deep
from dspy_nb.core.errors import InputError
from dspy_nb.core.models.card import model_card
from dspy_nb.core.models.stages import Summary
from dspy_nb.core.models.version import SCHEMA_VERSION
from dspy_nb.core.programs.adapters import describe_adapter
from dspy_nb.core.programs.spec import base_model, class_path, spec_of
from dspy_nb.core.programs.state import dump_state
from dspy_nb.core.secrecy import without_secrets
from dspy_nb.core.storage.files import LARGEST_FILE, dump_json
from dspy_nb.core.storage.log import utc_now
from dspy_nb.core.storage.shapes import fit
from dspy_nb.core.text import error_text, repaired, value_text

METADATA_FIELDS: Final = (
    "optimizer", "base_model", "adapter", "num_training_examples", "validation_score", "hyperparameters", "seed",
    "usage", "datasets", "metric", "test", "duration_s", "stopped_by",
)  # fmt: skip
"""What a run says about itself; whatever it does not say is null in metadata.json."""

_OURS: Final = {
    "model_id", "version", "saved_at", "framework", "dspy_version", "signature", "parent", "packages", "git_commit",
    "schema_version", "program_class", "notes",
}  # fmt: skip
_TYPES: Final = {
    "optimizer": str, "base_model": str, "created_at": str, "validation_score": Real, "adapter": Mapping,
    "hyperparameters": Mapping, "usage": Mapping, "datasets": Mapping, "test": Mapping,
}  # fmt: skip
_LARGEST_VERSION: Final = LARGEST_FILE - 2**20  # its archive has a manifest, and is a file as well


class Submission:
    """A program and its facts, checked, about to get a version number."""

    def __init__(
        self,
        what: object,
        model_id: str,
        *,
        metadata: Mapping[str, Any] | None,
        evaluation: Mapping[str, Any] | None,
        notes: str | None,
    ) -> None:
        """Collect and check everything before anything is written.

        Raises:
            InputError: It cannot be registered; the message says why.
        """
        describe = getattr(what, "registration", None)
        given: Mapping[str, Any] = describe() if callable(describe) else {"program": what}
        program = given["program"]
        self.model_id = model_id
        self.spec = spec_of(program)
        self.model_json = dump_json(dump_state(program, repair=True), "the state of the program")
        self.state = json.loads(self.model_json)
        stored = evaluation if evaluation is not None else given.get("evaluation")
        for name, value in (("the evaluation", stored), ("metadata", metadata)):
            if not isinstance(value, Mapping | None):
                raise InputError(f"{name} must be a dict, not a {type(value).__name__}")
        self.evaluation_json = None if stored is None else dump_json(repaired(stored), "the evaluation")
        facts = {**dict.fromkeys(METADATA_FIELDS), **(given.get("metadata") or {}), **(metadata or {})}
        if clash := sorted(_OURS & set(facts)):
            raise InputError(f"metadata must not hold {', '.join(clash)}: the registry sets it")
        if is_too_deep(facts):
            raise InputError(f"the metadata cannot be stored: it is nested deeper than {DEEPEST} levels")
        facts["created_at"] = facts.get("created_at") or utc_now()
        facts["base_model"] = facts["base_model"] or base_model(program)
        facts["adapter"] = facts["adapter"] or describe_adapter()
        for name, wanted in _TYPES.items():
            if facts[name] is not None and not isinstance(facts[name], wanted):
                found = value_text(facts[name], 80)
                raise InputError(f"metadata {name} must be a {wanted.__name__}, not {found}")
        self.facts = json.loads(dump_json(repaired(without_secrets(facts)), "the metadata"))
        self.notes = repaired(notes)
        self.program_class = class_path(program)
        self._stored = stored
        self.summary(None)  # nothing is written if a score is not a number

    def summary(self, parent: str | None) -> dict[str, Any]:
        """Return what a list of versions shows."""
        return summary_of(self.facts, self._stored, parent)

    def files(self, version: str, parent: str | None) -> dict[str, bytes]:
        """Return the content of the version's files, by name.

        Raises:
            InputError: They are larger than what the registry reads.
        """
        packages = package_versions()
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "model_id": self.model_id,
            "version": version,
            "parent": parent,
            "saved_at": utc_now(),
            **self.facts,
            "framework": "dspy",
            "dspy_version": packages["dspy"],
            "packages": packages,
            "git_commit": git_commit(),
            "program_class": self.program_class,
            "signature": self.spec,
            "notes": self.notes,
        }
        needs_class = self.program_class if self.spec["obstacle"] else None
        files = {
            "model.json": self.model_json,
            "metadata.json": dump_json(metadata, "the metadata"),
            "README.md": model_card(metadata, self.state, self.summary(parent), needs_class).encode(),
        }
        if self.evaluation_json is not None:
            files["evaluation.json"] = self.evaluation_json
        sizes = {name: len(content) for name, content in files.items()}
        if sum(sizes.values()) > _LARGEST_VERSION:
            largest = max(sizes, key=sizes.__getitem__)
            has = f"{self.model_id}@{version} has {sum(sizes.values()):,} bytes, most of them in {largest}"
            raise InputError(f"{has}: a version may have {_LARGEST_VERSION:,}")
        return files


def summary_of(
    facts: Mapping[str, Any], evaluation: Mapping[str, Any] | None, parent: object
) -> dict[str, Any]:
    """Return what a list of versions shows, so that listing need not open the versions.

    The score is the one on test data, else that of the stored evaluation, else the validation score.

    Raises:
        InputError: A fact is of the wrong type.
    """
    test = facts.get("test")
    measured: dict[str, Mapping[str, Any]] = {
        "test": test if isinstance(test, Mapping) else {},
        "evaluation": evaluation or {},
        "validation": {"score": facts.get("validation_score")},
    }
    kind = next((name for name, values in measured.items() if values.get("score") is not None), None)
    best = measured[kind] if kind else {}
    score, interval = best.get("score"), best.get("interval")
    try:
        summary = {
            "score": None if score is None else float(score),
            "interval": None if interval is None else [float(end) for end in interval],
            "score_kind": kind,
            "optimizer": facts.get("optimizer"),
            "base_model": facts.get("base_model"),
            "created_at": facts.get("created_at"),
            "parent": parent,
        }
    except (TypeError, ValueError, OverflowError) as error:
        words = f"the {kind} score must be a number, and its interval two"
        raise InputError(f"{words}: {error_text(error)}") from error
    fit(summary, Summary, "the score and what belongs to it")
    return summary


# -- where a version comes from ---------------------------------------------------------------------------------

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF: Final = re.compile(r"ref: (refs/[^\s]+)")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide how a program behaves."""
    import dspy
    import pydantic

    import dspy_nb

    return {
        "python": platform.python_version(),
        "dspy": dspy.__version__,
        "dspy_nb": dspy_nb.__version__,
        "pydantic": pydantic.VERSION,
    }


def git_commit(start: Path | None = None) -> str | None:
    """Return the commit that is checked out around ``start`` (the working directory), or None.

    Reads git's own files, because a call of git costs more than a whole registration: HEAD, the branch it names,
    packed branches, and the indirection of a worktree. Uncommitted changes are not seen.
    """
    try:
        folder = _git_folder(start or os.getcwd())
        head = _text(f"{folder}/HEAD")
        branch = _REF.fullmatch(head)
        if not branch:
            return head if _COMMIT.fullmatch(head) else None
        shared = folder
        with contextlib.suppress(FileNotFoundError):
            shared = os.path.join(folder, _text(f"{folder}/commondir"))
        try:
            commit = _text(f"{shared}/{branch[1]}")
        except FileNotFoundError:
            packed = re.search(f"^(.*) {re.escape(branch[1])}$", _text(f"{shared}/packed-refs"), re.MULTILINE)
            commit = packed[1] if packed else ""
        return commit if _COMMIT.fullmatch(commit) else None
    except (OSError, UnicodeDecodeError):
        return None


def _git_folder(start: str | Path) -> str:
    """Return the folder that ``.git`` around ``start`` is, or names, as it does in a worktree."""
    place = str(start)
    while not os.path.exists(git := os.path.join(place, ".git")):
        place, below = os.path.dirname(place), place
        if place == below:
            raise FileNotFoundError
    return os.path.join(place, _text(git).removeprefix("gitdir:").strip()) if os.path.isfile(git) else git


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode().strip()
