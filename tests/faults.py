"""System calls that fail, or a process that dies, at any one call below a folder; and files that are damaged.

A first run without a fault counts the calls; then each of them can be the one.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.core.errors import DspyNbError

ERRNOS = {
    name: getattr(errno, name) for name in ("EIO", "ENOSPC", "EINTR", "EDQUOT", "EROFS", "EACCES", "EINVAL")
}
CALLS = (
    "open", "write", "read", "fsync", "fstat", "close", "stat", "lstat", "listdir", "scandir", "mkdir", "rmdir",
    "link", "symlink", "readlink", "rename", "replace", "unlink",
)  # fmt: skip


class Killed(BaseException):
    """The process has ended: nothing that it would still do is done."""


class Faults:
    """Counts the calls below ``root``, and lets the one that ``at`` says fail.

    Args:
        root: Calls on paths and files elsewhere are not counted.
        at: Which call fails, from 0; none by default.
        number: With which errno. Without one the process is killed there: this call and all later ones do nothing.
        lost: Whether the call is made all the same, and only its answer is lost, as with a file server.
        torn: Whether a write that is killed has written half of what it should.
    """

    def __init__(
        self, root: Path, at: int = -1, number: int = 0, *, lost: bool = False, torn: bool = False
    ) -> None:
        self.made: list[str] = []
        self._root, self._at, self._number, self._lost, self._torn = str(root), at, number, lost, torn
        self._descriptors: set[int] = set()
        self._lock = threading.Lock()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put itself in place of the calls of ``os``."""
        for name in CALLS:
            patch.setattr(os, name, self._in_place_of(name, getattr(os, name)))

    def _in_place_of(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                if not self._is_below(arguments):
                    return real(*arguments, **options)
                number = len(self.made)
                self.made.append(name)
            if not self._number and 0 <= self._at <= number:
                if name == "write" and number == self._at and self._torn:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise Killed
            if number == self._at and not self._lost and name != "close":
                raise OSError(self._number, os.strerror(self._number))
            found = real(*arguments, **options)
            if name == "open":
                self._descriptors.add(found)
            if name == "close":
                self._descriptors.discard(arguments[0])
            if number == self._at:
                raise OSError(self._number, os.strerror(self._number))
            return found

        return call

    def _is_below(self, arguments: tuple[Any, ...]) -> bool:
        paths = [os.fspath(item) for item in arguments if isinstance(item, str | os.PathLike)]
        if any(isinstance(path, str) and path.startswith(self._root) for path in paths):
            return True
        return bool(arguments) and type(arguments[0]) is int and arguments[0] in self._descriptors


# -- bytes that are damaged ------------------------------------------------------------------------------------


def damage(path: Path, draws: random.Random, *, cut: bool) -> None:
    """Change some bytes of a file, and cut it off somewhere if that is wanted."""
    content = bytearray(path.read_bytes())
    used = [place for place, byte in enumerate(content) if byte]  # what is not used may be anything
    for place in draws.sample(used, draws.choice([1, 3, 30])):
        content[place] = draws.randrange(256)
    path.write_bytes(content[: draws.randrange(len(content))] if cut else content)


def fail_in_one_line_at_most(calls: Iterable[Callable[[], object]]) -> None:
    """Make calls, each of which works, or raises an error of ours that says what is wrong in one line."""
    for call in calls:
        try:
            call()
        except DspyNbError as error:
            assert "\n" not in str(error), error  # noqa: PT017
