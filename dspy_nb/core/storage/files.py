"""Durable writes and strict JSON: what the registry puts on disk is complete, or it is not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Final
from uuid import UUID

import msgspec

from dspy_nb.core.arguments import DEEPEST, is_too_deep
from dspy_nb.core.errors import Corrupt, InputError, RegistryError
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.text import error_text

_BINARY: Final = getattr(os, "O_BINARY", 0)
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
LARGEST_FILE: Final = 64 * 2**20
NOT_FLUSHED: Final = "is written but might not survive a power cut"
TEMPORARY_PREFIX: Final = ".tmp-"
_TOO_DEEP: Final = b"\n" + b" " * (DEEPEST + 1)
_CAUSES: Final = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EACCES: "permission denied",
    errno.EPERM: "permission denied", errno.EROFS: "the file system is read-only",
}  # fmt: skip
_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


@contextlib.contextmanager
def explain_failure(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a one-line RegistryError that says what failed and why."""
    try:
        yield
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0, error.strerror or str(error))
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
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{secrets.token_hex(8)}")
    write_file(temporary, content)
    try:
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def stage_folder(staging: str, files: Mapping[str, bytes], unflushed: Unflushed) -> None:
    """Create the folder ``staging`` with ``files`` in it; nothing is left of it if that fails.

    Raises:
        OSError: It cannot be written.
    """
    try:
        os.mkdir(staging)
        for name, content in files.items():
            unflushed.create(f"{staging}{os.sep}{name}", content)
        unflushed.add_folder(staging)
        if os.name == "nt":
            unflushed.flush()  # Windows does not rename a folder while a file in it is open
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def put_in_place(staging: str, target: str) -> bool:
    """Rename a folder that holds something, or remove it and return False if the name is taken.

    No file system replaces a folder that holds something, nor a file, by a folder: of any number of writers who
    want the same name one gets it, and it is complete from the first moment on.

    Raises:
        OSError: It cannot be renamed; ``staging`` is removed.
    """
    try:
        os.rename(staging, target)
    except OSError as error:
        if error.errno not in _TAKEN and os.path.isdir(target) and not os.path.lexists(staging):
            return True  # it was done, and the answer of a file server was lost
        shutil.rmtree(staging, ignore_errors=True)
        if error.errno in _TAKEN:
            return False
        raise
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return True


def check_target(what: str, path: Path) -> None:
    """Find out, before anything is spent, whether ``replace_file`` can write a file.

    Args:
        what: What the message calls it.
        path: The file; its folder must be there.

    Raises:
        InputError: It cannot, or what is there is no file.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{secrets.token_hex(8)}") if path.name else path
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{what} {path}: that is no file")
        if not path.parent.is_dir():
            raise InputError(f"{what} {path}: there is no folder {path.parent}")
        write_file(temporary, b"\n")
        temporary.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"{what} {str(path)[:200]!r} cannot be written: {reason or error}") from None


def read_file(path: Path | str, *, links: bool = False) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        links: Whether it may be a link to one.

    Raises:
        FileNotFoundError: There is none.
        Corrupt: It is a link, a folder, a device, or larger than any file that the registry writes.
        OSError: It cannot be read.
    """
    try:
        flags = os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, flags if links else flags | _NO_FOLLOW)
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
    if os.path.isdir(folder):
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
        InputError: Something in ``value`` is no JSON (NaN included), or nested too deep; the message names
            ``what``.
    """
    try:
        # Python's own encoder is four times slower with an indent than without one.
        text = msgspec.json.format(_ENCODER.encode(value).encode(), indent=1) + b"\n"
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}"
        words = f"{what} cannot be stored: it holds {half}, half of a surrogate pair"
        raise InputError(f"{words}, which is no text by itself: remove it") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {error_text(error, 200)}") from error
    if _TOO_DEEP in text:
        raise InputError(f"{what} cannot be stored as JSON: it is nested deeper than {DEEPEST} levels")
    return text


def parse_json(content: bytes, path: object) -> Any:
    """Parse strict JSON (no NaN).

    Raises:
        Corrupt: It is none, or nested too deep; the message names ``path``.
    """
    try:
        value = msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is not valid JSON: {error_text(error, 200)}") from error
    if content.count(b"[") + content.count(b"{") > DEEPEST and is_too_deep(value):
        raise Corrupt(f"{path} is nested deeper than {DEEPEST} levels")
    return value


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
