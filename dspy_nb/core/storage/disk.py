"""A registry on a disk: files and folders that get a name which nobody else has, whole and flushed.

How a file gets such a name:

- by a hard link, wherever there are such links;
- elsewhere (FAT, some network and container mounts) it is a folder with that name, which holds the file:
  renaming a folder never replaces a file, nor a folder that holds something. So a file is never seen half-written
  there either, and a slow writer needs no protection: until its rename it has nothing that could be taken away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.storage.entry import is_torn
from dspy_nb.core.storage.files import (
    LARGEST_FILE,
    TEMPORARY_PREFIX,
    make_folders,
    put_in_place,
    read_file,
    stage_folder,
)
from dspy_nb.core.storage.flushing import Unflushed

STAGING_PREFIX: Final = ".staging-"

_INSIDE: Final = "entry.json"  # the file of an entry that is a folder
_TORN_AFTER_S: Final = 1.0  # an entry that is not complete and has not grown for so long will not be
_LONG_AGO_S: Final = 60.0  # by the clock of a file server, which may be another one

# What os.link raises where the file system has no hard links (FAT, some network and container mounts).
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}

_IN_PLACE: Final = (
    os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
)


class Disk:
    """The storage of paths; ``Storage`` says what each method does."""

    def read(self, place: Any, *, links: bool = False) -> bytes:
        """Return what a file holds, or the file in it where it is a folder."""
        try:
            return read_file(place, links=links)
        except (Corrupt, PermissionError):
            inside = f"{place}{os.sep}{_INSIDE}"
            if not stat.S_ISDIR(os.lstat(place).st_mode) or not os.path.lexists(inside):
                raise
        return read_file(inside)

    def list(self, folder: Any, *, signed: bool = False) -> dict[str, tuple[int | str, ...]]:
        """Return the names in a folder, and the signatures of the files if they are asked for."""
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return {}
        if not signed:
            return dict.fromkeys(names, ())
        found: dict[str, tuple[int | str, ...]] = {}
        start = f"{folder}{os.sep}"
        for name in names:
            try:
                status = os.lstat(start + name)
            except FileNotFoundError:
                continue  # it was a temporary one
            found[name] = _signature(status) if stat.S_ISREG(status.st_mode) else ()
        return found

    def stat(self, place: Any) -> tuple[int | str, ...] | None:
        """Return the signature of a file, ``None`` if there is none."""
        try:
            return _signature(os.stat(place, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def exists(self, place: Any) -> bool:
        """Return whether there is a file, a folder or a link of that name."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(place)
            return True
        return False

    def create(self, place: Any, content: bytes, before: Unflushed, name: Unflushed | None = None) -> bool:
        """Create a file that is whole and flushed, put-if-absent."""
        folder = os.path.dirname(place)
        make_folders(Path(folder))
        if name is not None and not name:
            name.add_folder(folder)  # opened now: later only a flush is left
        temporary = f"{folder}{os.sep}{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            before.create(temporary, content)
            before.flush()
            try:
                os.link(temporary, place)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return _create_folder(place, content)
                if _is_same_file(temporary, place):
                    return True  # it was done, and the answer of a file server was lost
                if isinstance(error, FileExistsError):
                    return False
                raise
            return True
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def add_folder(self, folder: Any, files: Mapping[str, bytes], unflushed: Unflushed) -> bool:
        """Write a folder of files once: staged, then renamed."""
        make_folders(folder.parent)
        staging = f"{folder.parent}{os.sep}{STAGING_PREFIX}{uuid.uuid4().hex}"
        stage_folder(staging, files, unflushed)
        if not put_in_place(staging, str(folder)):
            return False
        try:
            unflushed.add_folder(folder.parent)
        except BaseException:
            remove_folder(folder)
            raise
        return True

    def update(self, place: Any, new: bytes | Callable[[bytes], bytes | None]) -> None:
        """Write a file in place, which takes a tenth of the time of replacing it, without a flush."""
        descriptor = _open_in_place(place)
        try:
            size = os.fstat(descriptor).st_size
            content = new if isinstance(new, bytes) else new(os.read(descriptor, min(size, LARGEST_FILE)))
            if content is None:
                return
            os.lseek(descriptor, 0, os.SEEK_SET)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            if size > len(content):
                os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)


DISK: Final = Disk()


def _signature(status: os.stat_result) -> tuple[int | str, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _create_folder(place: str, content: bytes) -> bool:
    staging = f"{os.path.dirname(place)}{os.sep}{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    with Unflushed() as unflushed:
        stage_folder(staging, {_INSIDE: content}, unflushed)
        try:
            unflushed.flush()
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return put_in_place(staging, place)


def _open_in_place(place: Any) -> int:
    """Open a file of this registry alone: neither a link, nor a file that a copy of the registry shares."""
    try:
        descriptor = os.open(place, _IN_PLACE)
    except FileNotFoundError:
        descriptor = -1
    if descriptor >= 0:
        if os.fstat(descriptor).st_nlink == 1:
            return descriptor
        os.close(descriptor)
        os.unlink(place)
    if os.path.islink(place.parent) or os.path.islink(place.parent.parent):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    os.makedirs(place.parent, exist_ok=True)
    return os.open(place, _IN_PLACE | os.O_CREAT, 0o644)


def remove_folder(folder: Path) -> None:
    """Remove a folder that nothing names, as far as possible; it has its name until all of it is ready to go."""
    staging = folder.parent / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        folder.rename(staging)
        shutil.rmtree(staging, ignore_errors=True)


def refuse_links(folder: Path, root: Path | None) -> None:
    """Refuse folders that are links: what is written would be elsewhere, and a clone may name any place.

    Raises:
        Corrupt: ``folder``, or one between it and ``root``, is a link.
    """
    below = folder.relative_to(root).parts if root is not None else (folder.name,)
    place = str(root or folder.parent)
    for part in below:
        place = f"{place}{os.sep}{part}"
        if os.path.islink(place):
            raise Corrupt(f"{place} is a link: the registry holds plain folders only")


def may_be_torn(place: str, following: str) -> bool:
    """Return whether a file that is not whole may have been left so: it is the last one, and a file.

    A folder was whole when it got its name.
    """
    return not os.path.lexists(following) and not os.path.isdir(place)


def move_away(torn: str) -> None:
    """Rename a torn entry, unless it grows, is whole after all, or is moved by somebody else right now.

    Only who holds the lock on a file renames it, and only while it has the name: a name that somebody else has
    given to a whole entry meanwhile is left alone.

    Raises:
        Corrupt: The file system has no locks: a person has to remove it.
    """
    aside = f"{os.path.dirname(torn)}{os.sep}{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    late = time.monotonic() + _TORN_AFTER_S
    with contextlib.suppress(FileNotFoundError), open(torn, "rb") as file:
        before = os.fstat(file.fileno())
        while time.monotonic() < late and time.time() - before.st_mtime < _LONG_AGO_S:
            time.sleep(0.02)
            if os.fstat(file.fileno()).st_size != before.st_size:
                return
        try:
            _lock(file.fileno())
            if os.path.samestat(before, os.lstat(torn)) and is_torn(file.read()):
                os.rename(torn, aside)
        except BlockingIOError:
            return
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Corrupt(
                f"{torn} was torn by a process that stopped half-way, and cannot be moved away "
                f"({error.strerror or error}): remove it"
            ) from error


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no locks")
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same_file(a: str, b: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.lstat(a), os.lstat(b))
    return False
