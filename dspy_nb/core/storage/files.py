"""Durable writes and strict JSON: what the registry puts on disk is complete, or it is not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Final
from uuid import UUID

import msgspec

from dspy_nb.core.errors import Corrupt, InputError, RegistryError
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.text import error_text

__all__ = [
    "LARGEST_FILE",
    "dump_json",
    "explained",
    "make_folders",
    "parse_json",
    "read_file",
    "replace_file",
    "sync_folder",
    "write_file",
]

_BINARY: Final = getattr(os, "O_BINARY", 0)
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
LARGEST_FILE: Final = 64 * 2**20


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a one-line RegistryError that says what failed and why."""
    try:
        yield
    except OSError as error:
        cause = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission denied",
            errno.EPERM: "permission denied",
        }.get(error.errno or 0, error.strerror or str(error))
        raise RegistryError(f"cannot {doing}: {cause}") from error


def write_file(path: Path | str, content: bytes) -> None:
    """Create ``path`` exclusively with ``content`` and flush it to the disk.

    Raises:
        OSError: It exists, or it cannot be written; then nothing is left at ``path``.
    """
    try:
        with Unflushed() as unflushed:
            unflushed.create(path, content)
            unflushed.flush()
    except FileExistsError:
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            Path(path).unlink()
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write ``path`` anew, whole or not at all.

    Raises:
        OSError: It cannot be written; then what was there is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_file(temporary, content)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_file(path: Path | str) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileNotFoundError: There is none.
        Corrupt: It is a link, a folder, a device, or larger than any file that the registry writes.
        OSError: It cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Corrupt(f"{path} is a link: the registry holds plain files only") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Corrupt(f"{path} is not a plain file")
        if status.st_size > LARGEST_FILE:
            raise Corrupt(f"{path} has {status.st_size:,} bytes: more than the registry ever writes")
        parts = []
        while part := os.read(descriptor, status.st_size + 1):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path | str) -> None:
    """Flush the names in ``folder`` to the disk, so that a created or renamed file survives a power cut."""
    with Unflushed() as unflushed:
        unflushed.add_folder(folder)
        unflushed.flush()


def make_folders(folder: Path) -> None:
    """Create ``folder`` and its missing parents, each flushed to the disk."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)


def dump_json(value: object, what: str) -> bytes:
    """Return ``value`` as indented UTF-8 JSON that ends with a line break.

    Dates become ISO text, enums their value, numpy scalars plain numbers, language models and functions
    their name, UUIDs, decimals, durations and paths text.

    Raises:
        InputError: Something in ``value`` is no JSON (NaN included); the message names ``what``.
    """
    try:
        # Python's own encoder is four times slower with an indent than without one.
        return msgspec.json.format(_ENCODER.encode(value).encode(), indent=1) + b"\n"
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}"
        raise InputError(
            f"{what} cannot be stored: it holds {half}, half of a surrogate pair, which is no text by itself: "
            "remove it"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {error_text(error, 200)}") from error


def parse_json(content: bytes, path: object) -> Any:
    """Parse strict JSON (no NaN).

    Raises:
        Corrupt: It is none; the message names ``path``.
    """
    try:
        return msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is not valid JSON: {error_text(error, 200)}") from error


def _plain(value: object) -> object:
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID | Decimal | timedelta | PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    model = getattr(value, "model", None)
    if isinstance(model, str) and callable(value):
        return model
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    raise TypeError(f"a {type(value).__name__} is no JSON value")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)
