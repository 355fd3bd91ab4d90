"""One version of a model, as the registry hands it out, and the verified reading of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import Corrupt
from dspy_nb.core.programs.spec import check_spec
from dspy_nb.core.storage.files import explain_failure, parse_json
from dspy_nb.core.storage.place import Place, is_link, storage_of
from dspy_nb.core.storage.shapes import fit_file

SCHEMA_VERSION: Final = 1
"""Of metadata.json."""

Files = Mapping[str, tuple[str, int]]

FACTS: Final = (
    "model_id", "version", "stage", "created_at", "path", "score", "interval", "score_kind", "optimizer",
    "base_model", "parent", "size_bytes",
)  # fmt: skip
"""What a table says of versions."""


@dataclass(frozen=True, slots=True)
class ModelVersion(Shown):
    """One version of a model, at the moment it was asked for.

    Attributes:
        model_id: The model.
        version: Its semantic version.
        stage: development, staging, production, deprecated or archived.
        created_at: When the program was made, ISO 8601 in UTC.
        score: Its score, if one was measured; ``score_kind`` says on what.
        interval: Lower and upper end of the score's interval, if known.
        score_kind: ``test``, ``evaluation`` or ``validation`` (seen by the search, so it flatters).
        optimizer: The optimizer that made it, if any.
        base_model: The language model that it was made with.
        parent: The version that it follows, if any.
        size_bytes: Size of its files.
        files: File name -> (sha256 in hex, size in bytes), as the log recorded them.
        folder: The folder of the model, or its address on object storage.
    """

    model_id: str
    version: str
    stage: str
    created_at: str
    score: float | None
    interval: tuple[float, float] | None
    score_kind: str | None
    optimizer: str | None
    base_model: str | None
    parent: str | None
    size_bytes: int
    files: Files = field(repr=False, hash=False)
    folder: Place = field(repr=False)

    @property
    def path(self) -> Place:
        """The folder of the version, or its address on object storage."""
        return self.folder / self.version

    @property
    def ref(self) -> str:
        """The exact reference, such as ``sentiment@1.2.0``."""
        return f"{self.model_id}@{self.version}"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The content of metadata.json, read and verified on each access, read-only.

        Raises:
            Corrupt: The file is not what the log recorded.
        """
        path = self.path / "metadata.json"
        content = _verified(path, self.files["metadata.json"])
        return MappingProxyType(verified_metadata(content, path, self.model_id, self.version))

    @property
    def evaluation(self) -> Mapping[str, Any] | None:
        """The content of evaluation.json, read and verified on each access; None if there is none.

        Raises:
            Corrupt: The file is not what the log recorded.
        """
        if "evaluation.json" not in self.files:
            return None
        path = self.path / "evaluation.json"
        content = parse_json(_verified(path, self.files["evaluation.json"]), path)
        if not isinstance(content, dict):
            raise Corrupt(f"{path} is not an evaluation")
        return MappingProxyType(content)


def verified_files(path: Place, files: Files, ref: str) -> dict[str, bytes]:
    """Return the content of every file of a version.

    Raises:
        Corrupt: One differs from what the log recorded, is missing, or should not be there.
        RegistryError: One cannot be read.
    """
    if is_link(path):
        raise Corrupt(f"{ref}: {path} is a link: the registry holds plain folders only")
    with explain_failure(f"read {path}"):
        try:
            names = set(storage_of(path).list(path))
            missing = not names and not storage_of(path).exists(path)
        except NotADirectoryError:
            missing = True
    if missing:
        raise Corrupt(f"{ref}: the folder {path} is missing: restore it from git or a backup")
    if extra := sorted(names - set(files)):
        raise Corrupt(f"{ref}: {path / extra[0]} was added to a version that never changes: remove it")
    return {name: _verified(path / name, expected) for name, expected in files.items()}


class _Head(msgspec.Struct):
    model_id: str
    version: str


def verified_metadata(content: bytes, path: object, model_id: str, version: str) -> dict[str, Any]:
    """Parse metadata.json and check what the registry relies on.

    Raises:
        Corrupt: It is not the metadata of this version.
        Refused: It was written by a newer dspy_nb.
    """
    metadata = parse_json(content, path)
    head = fit_file(metadata, _Head, path, "the metadata of a version", SCHEMA_VERSION)
    if (head.model_id, head.version) != (model_id, version):
        raise Corrupt(f"{path} is the metadata of another version: the folder was copied or renamed")
    check_spec(metadata.get("signature"), str(path))
    return dict(metadata)


def _verified(path: Place, expected: tuple[str, int]) -> bytes:
    with explain_failure(f"read {path}"):
        try:
            content = storage_of(path).read(path)
        except FileNotFoundError:
            raise Corrupt(f"{path} is missing: restore it from git or a backup") from None
    if len(content) != expected[1] or hashlib.sha256(content).hexdigest() != expected[0]:
        raise Corrupt(f"{path} was changed after it was registered: restore it from git or a backup")
    return content
