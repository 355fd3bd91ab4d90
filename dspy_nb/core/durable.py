"""Durable writes and strict JSON: what the registry puts on disk is complete, or it is not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.errors import Corrupt, InputError, RegistryError

__all__ = [
    "dump_json",
    "explained",
    "make_folders",
    "parse_json",
    "read_file",
    "replace_file",
    "sync_folder",
    "write_file",
    "write_folder",
]

_BINARY: Final = getattr(os, "O_BINARY", 0)
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_LARGEST_FILE: Final = 64 * 2**20


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


def write_file(path: Path, content: bytes) -> None:
    """Create ``path`` exclusively with ``content`` and flush it to the disk.

    Raises:
        OSError: It exists, or it cannot be written; then nothing is left at ``path``.
    """
    try:
        descriptor = _create(path, content)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileExistsError:
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write ``path`` anew, whole or not at all.

    Raises:
        OSError: It cannot be written; then what was there is still there.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Create ``folder`` with ``files`` and flush all of it to the disk.

    The flushes run side by side, so that the file system takes them as one: on a busy disk that is several
    times faster than one after the other.

    Raises:
        OSError: It exists, or it cannot be written; then a part of it may be left.
    """
    from concurrent.futures import ThreadPoolExecutor

    folder.mkdir()
    descriptors: list[int] = []
    try:
        for name, content in files.items():
            descriptors.append(_create(folder / name, content))
        with ThreadPoolExecutor(len(files) + 1) as pool:
            flushes = [pool.submit(os.fsync, descriptor) for descriptor in descriptors]
            flushes.append(pool.submit(sync_folder, folder))
        for flush in flushes:
            flush.result()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _create(path: Path, content: bytes) -> int:
    """Create ``path`` exclusively, write ``content``, return the open descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
        if status.st_size > _LARGEST_FILE:
            raise Corrupt(f"{path} has {status.st_size:,} bytes: more than the registry ever writes")
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to the disk, so that a created or renamed file survives a power cut."""
    if os.name == "nt":  # Windows cannot open a folder, and its metadata journal needs no flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

    Dates become ISO text, numpy scalars plain numbers, language models their name, functions their name.

    Raises:
        InputError: Something in ``value`` is no JSON (NaN included); the message names ``what``.
    """
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
        return (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {_one_line(error)}") from error


def parse_json(content: bytes, path: object) -> Any:
    """Parse strict JSON (no NaN).

    Raises:
        Corrupt: It is none; the message names ``path``.
    """
    try:
        return _DECODER.decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is not valid JSON: {_one_line(error)}") from error


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
