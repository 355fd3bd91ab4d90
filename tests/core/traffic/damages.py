"""What happens to a file: damage, and what is none but makes it no file of traffic of ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from dspy_nb.core.traffic.schema import VERSION


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def header(path: Path) -> None:
    with path.open("rb+") as file:
        file.write(b"\xff" * 16)


def middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def empty_beside_its_log(path: Path) -> None:
    """Leave what SQLite would throw away: a log whose file is empty."""
    path.with_name(f"{path.name}-wal").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def nothing_but_a_log(path: Path) -> None:
    """Leave what SQLite would throw away: a log whose file is gone."""
    path.with_name(f"{path.name}-wal").write_bytes(path.read_bytes())
    path.unlink()


def no_index(path: Path) -> None:
    """Damage what finds requests by their id: the rest can still be read."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_events_1'"
        (root,) = connection.execute(query).fetchone()
    with path.open("rb+") as file:
        file.seek(4096 * (root - 1))
        file.write(b"\xff" * 4096)


DAMAGES = [garbage, truncated, header, middle, empty, empty_beside_its_log, nothing_but_a_log, no_index]


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")


def another_database(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")


def no_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE events")


OTHERS = [folder, fifo, newer, another_database, no_table]
