"""One version as one file: a zip archive that another registry can take in, whoever made it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from dspy_nb.core.errors import Conflict, Corrupt, InputError
from dspy_nb.core.models.names import check_model_id, check_version
from dspy_nb.core.models.stages import VERSION_FILES
from dspy_nb.core.models.version import ModelVersion, verified_files, verified_metadata
from dspy_nb.core.programs.state import check_state
from dspy_nb.core.storage.files import (
    LARGEST_FILE,
    NOT_FLUSHED,
    dump_json,
    explain_failure,
    parse_json,
    read_file,
    sync_folder,
    write_file,
)
from dspy_nb.core.storage.shapes import fit_file
from dspy_nb.core.text import error_text

SCHEMA_VERSION: Final = 1
_MANIFEST: Final = "manifest.json"
_UNREADABLE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError, ValueError
)  # fmt: skip
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the same version gives the same bytes


def export_version(version: ModelVersion, path: Path) -> Path:
    """Write a version, verified, as one zip file.

    Args:
        version: The version.
        path: The file, which must not exist, or a folder, where the file becomes ``model-1.2.0.zip``.

    Returns:
        The path of the file.

    Raises:
        Conflict: The file exists.
        Corrupt: The version was changed after it was registered.
        RegistryError: It cannot be written.
    """
    files = verified_files(version.path, version.files, version.ref)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "model_id": version.model_id,
        "version": version.version,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {_MANIFEST: dump_json(manifest, "the manifest"), **files}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    target = path / f"{version.model_id}-{version.version}.zip" if os.path.isdir(path) else path  # noqa: PTH112 (it raises nothing)
    with explain_failure(f"write {target}"):
        try:
            write_file(target, buffer.getvalue())
        except FileExistsError:
            raise Conflict(f"{target} exists: choose another name") from None
    with explain_failure(f"flush {target}, which {NOT_FLUSHED}"):
        sync_folder(target.absolute().parent)
    return target


def read_archive(path: Path) -> tuple[str, str, dict[str, bytes], dict[str, Any]]:
    """Read and check the archive of a version; nothing is extracted to the disk.

    Returns:
        Model id, version, the content of the version's files by name, and the parsed metadata.

    Raises:
        InputError: There is no such file.
        Corrupt: It is no archive of a version, or a part of it is not what its manifest says.
        Refused: It was written by a newer dspy_nb.
    """
    with explain_failure(f"read {path}"):
        try:
            content = read_file(path)
        except FileNotFoundError:
            raise InputError(f"there is no file {path}") from None
    try:
        files = _unpack(content, path)
    except _UNREADABLE as error:
        raise Corrupt(f"{path} is not a readable zip file: {error_text(error)}") from error
    manifest = parse_json(files.pop(_MANIFEST, b"null"), f"{path}: {_MANIFEST}")
    return _checked(manifest, files, path)


def _unpack(content: bytes, path: Path) -> dict[str, bytes]:
    """Return the members, which may only be the files of a version, each within its limit."""
    files: dict[str, bytes] = {}
    room = LARGEST_FILE
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.filename not in (*VERSION_FILES, _MANIFEST) or member.filename in files:
                raise Corrupt(f"{path} holds {member.filename!r:.80}, which is no file of a version")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Corrupt(f"{path}: {member.filename} is compressed in an unknown way")
            with archive.open(member) as file:
                files[member.filename] = file.read(room + 1)
            room -= len(files[member.filename])
            if room < 0:
                raise Corrupt(f"{path} holds more than {LARGEST_FILE:,} bytes")
    return files


class _Manifest(msgspec.Struct):
    model_id: str
    version: str
    sha256: dict[str, str]


def _checked(
    manifest: object, files: Mapping[str, bytes], path: Path
) -> tuple[str, str, dict[str, bytes], dict[str, Any]]:
    found = fit_file(manifest, _Manifest, path, "the archive of a version", SCHEMA_VERSION)
    try:
        model_id, version = check_model_id(found.model_id), check_version(found.version)
    except InputError as error:
        raise Corrupt(f"{path}: {error}") from error
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if found.sha256 != hashes or not set(VERSION_FILES) - {"evaluation.json"} <= set(files):
        raise Corrupt(f"{path}: its files are not those that its manifest lists: export it again")
    metadata = verified_metadata(files["metadata.json"], f"{path}: metadata.json", model_id, version)
    state = f"{path}: model.json"
    check_state(parse_json(files["model.json"], state), metadata["signature"], state)
    return model_id, version, dict(files), metadata
