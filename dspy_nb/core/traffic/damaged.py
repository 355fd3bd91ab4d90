"""Damaged SQLite files: how damage is known, and how a file is set aside, for nothing in it is thrown away."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3

ENDS: Final = ("", "-journal", "-shm", "-wal")
"""What the names of a file, and of those that SQLite keeps beside it, end with."""

_DAMAGED: Final = ".damaged-"
_STAMP: Final = "%Y%m%dT%H%M%S%fZ"

Identity = tuple[int, int]
"""What a file stays the same by, whatever its name."""


class Aside(NamedTuple):
    """A damaged file that was set aside: where it is, and since when another one stands in its place."""

    path: Path
    at: str

    def sentence(self) -> str:
        """Return what a verdict must say of it."""
        n, at = _count_outcomes(self.path), self.at[:19].replace("T", " ")
        how_many = "they" if n is None else f"{n:,}"
        return (
            f"outcomes before {at} UTC are not counted: {how_many} are in {self.path.name}, which is damaged"
        )


def identity_of(path: Path) -> Identity | None:
    """Return which file is there; ``None`` where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (pathlib takes longer)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect(path: Path, mode: str, **options: Any) -> sqlite3.Connection:
    """Open a file that is there, "ro" or "rw"; SQLite makes none, which for a moment would be one that is empty."""
    import sqlite3

    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, **options)


def is_damage(error: BaseException | None) -> bool:
    """Tell whether SQLite says that the file itself is damaged, whatever else may be wrong."""
    import sqlite3

    while error is not None:
        # The low byte is the kind, the others say more.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return True
        if isinstance(error, UnicodeDecodeError) and b"malformed" in error.object:  # it says so in no UTF-8
            return True
        error = error.__cause__
    return False


def signature_of(path: Path) -> list[tuple[int, int]]:
    """Return what changes when somebody writes."""
    found = []
    for end in ("", "-wal"):
        with contextlib.suppress(OSError):
            status = path.with_name(f"{path.name}{end}").stat()
            if status.st_size:  # an empty log is made by whoever opens the file
                found.append((status.st_size, status.st_mtime_ns))
    return found


def set_aside(path: Path, identity: Identity | None) -> Path | None:
    """Give a damaged file and what SQLite keeps beside it another name; nothing in them is changed.

    Call it ``alone_in`` the folder: who opens the file while it moves may begin a log beside the new one.

    Args:
        path: The file.
        identity: Which one it is.

    Returns:
        Where it is now; ``None`` if another process was faster.

    Raises:
        OSError: The disk refuses it.
    """
    if identity_of(path) != identity:
        return None
    aside = path.with_name(f"{path.name}{_DAMAGED}{datetime.now(UTC):{_STAMP}}")
    # The file itself last: beside a new one the log of an old one is taken for its own.
    for end in reversed(ENDS):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{end}", f"{aside}{end}")  # noqa: PTH104
    return aside


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until nobody else opens, makes or sets aside a file of this folder; the end of a process frees it."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        # Windows, which renames no file that is open; or a folder that may not be read.
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a disk that knows no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):  # a child that was forked meanwhile keeps the descriptor
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def list_asides(path: Path) -> list[Aside]:
    """Return what was set aside for the file, oldest first."""
    found = {}
    beginning = f"{path.name}{_DAMAGED}"
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208 (names only)
            name = name.removesuffix("-wal").removesuffix("-shm")
            with contextlib.suppress(ValueError):
                if name.startswith(beginning):
                    at = datetime.strptime(name.removeprefix(beginning), _STAMP).isoformat()
                    found[name] = Aside(path.with_name(name), at)
    return [found[name] for name in sorted(found)]


def find_aside(path: Path, identity: Identity | None) -> Path | None:
    """Return where the file of this identity was set aside, ``None`` if it was not."""
    return next((aside.path for aside in list_asides(path) if identity_of(aside.path) == identity), None)


def is_aside(name: str) -> bool:
    """Tell whether a file of that name, or what SQLite keeps beside it, was set aside by ``TrafficFile.serve``."""
    return _DAMAGED in name


def read_aside(path: Path, query: str) -> list[Any]:
    """Return what can be read of a damaged file: the rows, or none."""
    import sqlite3

    with contextlib.suppress(sqlite3.Error, OSError, UnicodeDecodeError):
        if not path.stat().st_size:  # SQLite would remove its log
            return []
        with contextlib.closing(connect(path, "ro")) as connection:
            return connection.execute(query).fetchall()
    return []


@cache
def _count_outcomes(path: Path) -> int | None:
    """Return the number of outcomes in a damaged file, None where that cannot be read; nobody writes to it."""
    found = read_aside(path, "SELECT count(outcome) FROM events")
    return found[0][0] if found and isinstance(found[0][0], int) else None
