"""Putting a version's folder in place: staged, flushed, renamed; and what goes into its files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.durable import dump_json, make_folders, sync_folder, write_file
from dspy_nb.core.errors import InputError
from dspy_nb.core.log import utc_now
from dspy_nb.core.model_card import model_card
from dspy_nb.core.model_version import SCHEMA_VERSION
from dspy_nb.core.program_spec import base_model, class_path, dump_state, spec_of
from dspy_nb.core.provenance import git_commit, package_versions

__all__ = ["METADATA_FIELDS", "STAGING_PREFIX", "Candidate", "file_table", "publish", "unpublish"]

STAGING_PREFIX: Final = ".staging-"

METADATA_FIELDS: Final = (
    "optimizer",
    "base_model",
    "num_training_examples",
    "validation_score",
    "hyperparameters",
    "seed",
    "usage",
    "datasets",
    "metric",
    "test",
    "duration_s",
    "stopped_by",
)
"""What a run says about itself; whatever it does not say is null in metadata.json."""

_OURS: Final = frozenset(
    [
        "model_id",
        "version",
        "saved_at",
        "framework",
        "dspy_version",
        "signature",
        "parent",
        "packages",
        "git_commit",
        "schema_version",
        "program_class",
        "notes",
    ]
)
_TYPES: Final = {
    "optimizer": str,
    "base_model": str,
    "created_at": str,
    "validation_score": Real,
    "hyperparameters": Mapping,
    "usage": Mapping,
    "datasets": Mapping,
    "test": Mapping,
}
_SECRET: Final = frozenset(
    ["api_key", "api_base", "base_url", "model_list", "authorization", "headers", "extra_headers"]
)


class Candidate:
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
        self.model_json = dump_json(dump_state(program), "the state of the program")
        self.state = json.loads(self.model_json)
        stored = evaluation if evaluation is not None else given.get("evaluation")
        if not isinstance(stored, Mapping | None):
            raise InputError(f"the evaluation must be a dict, not a {type(stored).__name__}")
        self.evaluation_json = None if stored is None else dump_json(stored, "the evaluation")
        facts = {**dict.fromkeys(METADATA_FIELDS), **(given.get("metadata") or {}), **(metadata or {})}
        if clash := sorted(_OURS & set(facts)):
            raise InputError(f"metadata must not hold {', '.join(clash)}: the registry sets it")
        facts["created_at"] = facts.get("created_at") or utc_now()
        facts["base_model"] = facts["base_model"] or base_model(program)
        for name, wanted in _TYPES.items():
            if facts[name] is not None and not isinstance(facts[name], wanted):
                raise InputError(f"metadata {name} must be a {wanted.__name__}, not {facts[name]!r:.80}")
        self.facts = json.loads(dump_json(_without_secrets(facts), "the metadata"))
        self.notes = notes
        self.program_class = class_path(program)
        self.summary = _summary(self.facts, stored)

    def files(self, version: str, parent: str | None) -> dict[str, bytes]:
        """Return the content of the version's files, by name."""
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
            "git_commit": git_commit(Path.cwd()),
            "program_class": self.program_class,
            "signature": self.spec,
            "notes": self.notes,
        }
        needs_class = self.program_class if self.spec["obstacle"] else None
        files = {
            "model.json": self.model_json,
            "metadata.json": dump_json(metadata, "the metadata"),
            "README.md": model_card(metadata, self.state, self.summary, needs_class).encode(),
        }
        if self.evaluation_json is not None:
            files["evaluation.json"] = self.evaluation_json
        return files


def publish(model_folder: Path, version: str, files: Mapping[str, bytes]) -> bool:
    """Put the complete, flushed folder of a version in place, or return False if its name is taken.

    Raises:
        OSError: It cannot be written; then nothing is left.
    """
    make_folders(model_folder)
    staging = model_folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    try:
        staging.mkdir()
        for name, content in files.items():
            write_file(staging / name, content)
        sync_folder(staging)
        try:
            staging.rename(model_folder / version)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            shutil.rmtree(staging, ignore_errors=True)
            return False
        sync_folder(model_folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return True


def unpublish(model_folder: Path, version: str) -> None:
    """Remove a folder that was put in place and never got its log entry; as far as that is possible."""
    staging = model_folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        (model_folder / version).rename(staging)
        shutil.rmtree(staging, ignore_errors=True)


def file_table(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return file name -> sha256 and size, as the log stores it."""
    return {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    }


def _summary(facts: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a list of versions shows, so that listing need not open the versions."""
    measured = {
        "test": facts["test"] or {},
        "evaluation": evaluation or {},
        "validation": {"score": facts["validation_score"]},
    }
    kind = next((name for name, values in measured.items() if values.get("score") is not None), None)
    score = measured[kind]["score"] if kind else None
    interval = measured[kind].get("interval") if kind else None
    try:
        score = None if score is None else float(score)
        interval = None if interval is None else [float(end) for end in interval]
    except (TypeError, ValueError) as error:
        raise InputError(f"the {kind} score must be a number, and its interval two: {error}") from error
    return {
        "score": score,
        "interval": interval,
        "score_kind": kind,
        "optimizer": facts["optimizer"],
        "base_model": facts["base_model"],
        "created_at": facts["created_at"],
    }


def _without_secrets(value: Any) -> Any:
    """Return ``value`` with whatever stands under the name of a credential or an endpoint replaced."""
    if isinstance(value, Mapping):
        return {
            key: "(not stored)"
            if str(key).lower() in _SECRET and item is not None
            else _without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value
